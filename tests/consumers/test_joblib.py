"""joblib on an executor, and scikit-learn on top of it."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Any

import pytest

from pressure import RedisExecutor
from tests.executor.programs import program

joblib = pytest.importorskip("joblib", reason="joblib is not installed")

import pressure.joblib  # noqa: E402

WAIT = 30.0


@pytest.fixture(autouse=True)
def backend(executor: RedisExecutor) -> Iterator[None]:
    pressure.joblib.register()
    with joblib.parallel_config(backend="pressure", executor=executor):
        yield


def pid_and(x: int) -> tuple[int, int]:
    return os.getpid(), x


def slow_unless(x: int) -> int:
    if not x:
        raise KeyError("of the call")
    time.sleep(0.5)
    return x


def parallel_sum(x: int) -> tuple[int, str, list[int]]:
    """What a nested call runs on, and its results."""
    nested = joblib.Parallel(n_jobs=2)
    results = nested(joblib.delayed(pow)(x, power) for power in range(3))
    return os.getpid(), type(nested._backend).__name__, results


def test_results_come_in_order_from_the_workers(executor: RedisExecutor) -> None:
    found = joblib.Parallel()(joblib.delayed(pid_and)(x) for x in range(2000))
    assert [x for _, x in found] == list(range(2000))
    assert {pid for pid, _ in found} <= set(executor._processes)


def test_the_executor_says_how_many_jobs_there_are() -> None:
    assert joblib.effective_n_jobs() == 2
    assert joblib.effective_n_jobs(-1) == 2
    assert joblib.effective_n_jobs(-2) == 1
    assert joblib.effective_n_jobs(3) == 3
    with pytest.raises(ValueError):
        joblib.effective_n_jobs(0)


def test_functions_go_by_value() -> None:
    offset = 5
    assert joblib.Parallel()(joblib.delayed(lambda x: x + offset)(x) for x in range(3)) == [5, 6, 7]


def test_results_as_they_come() -> None:
    results = joblib.Parallel(return_as="generator")(joblib.delayed(pid_and)(x) for x in range(100))
    assert [x for _, x in results] == list(range(100))
    results = joblib.Parallel(return_as="generator_unordered")(
        joblib.delayed(pid_and)(x) for x in range(100)
    )
    assert sorted(x for _, x in results) == list(range(100))


def test_an_error_ends_the_call_and_not_the_executor() -> None:
    with pytest.raises(KeyError, match="of the call") as caught:
        joblib.Parallel()(joblib.delayed(slow_unless)(x) for x in range(1000))
    assert "slow_unless" in str(caught.value.__cause__)
    assert joblib.Parallel()(joblib.delayed(abs)(x) for x in range(3)) == [0, 1, 2]


def test_a_lazy_iterable_may_fail() -> None:
    def calls() -> Iterator[Any]:
        for x in range(50):
            yield joblib.delayed(abs)(x)
        raise LookupError("of the iterable")

    with pytest.raises(LookupError, match="of the iterable"):
        joblib.Parallel()(calls())


def test_a_call_has_a_timeout() -> None:
    with pytest.raises(multiprocessing.TimeoutError):
        joblib.Parallel(timeout=0.1)(joblib.delayed(time.sleep)(1) for _ in range(2))


def test_nested_calls_run_inside_the_worker(executor: RedisExecutor) -> None:
    found = joblib.Parallel()(joblib.delayed(parallel_sum)(x) for x in range(10))
    assert [results for _, _, results in found] == [[1, x, x * x] for x in range(10)]
    assert {pid for pid, _, _ in found} <= set(executor._processes)
    assert {name for _, name, _ in found} == {"ThreadingBackend"}


def test_a_managed_parallel_is_used_again() -> None:
    with joblib.Parallel() as parallel:
        for _ in range(3):
            assert parallel(joblib.delayed(abs)(x) for x in range(10)) == list(range(10))


def test_without_an_executor_there_is_a_local_one() -> None:
    def pids() -> set[int]:
        parallel = joblib.Parallel(n_jobs=2, backend=pressure.joblib.PressureBackend())
        return {pid for pid, _ in parallel(joblib.delayed(pid_and)(x) for x in range(20))}

    first, second = pids(), pids()
    assert os.getpid() not in first
    assert len(first | second) <= 2


def test_without_an_executor_there_are_the_workers_at_the_url(
    url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRESSURE_URL", url)
    monkeypatch.setenv("PRESSURE_PREFIX", namespace)
    with program() as daemon:
        assert daemon.says("processes serve queue"), daemon.output
        parallel = joblib.Parallel(n_jobs=2, backend=pressure.joblib.PressureBackend())
        found = parallel(joblib.delayed(pid_and)(x) for x in range(20))
        assert [x for _, x in found] == list(range(20))
        assert {pid for pid, _ in found} <= set(daemon.children())
    pressure.joblib._executors.pop(url).shutdown(wait=False, cancel_futures=True)


def test_only_an_executor_of_ours_is_taken() -> None:
    class Other(Executor):
        pass

    with pytest.raises(TypeError, match="RedisExecutor"):
        pressure.joblib.PressureBackend(executor=Other())  # type: ignore[arg-type]


@pytest.mark.slow
def test_scikit_learn() -> None:
    reason = "scikit-learn is not installed"
    datasets = pytest.importorskip("sklearn.datasets", reason=reason)
    tree = pytest.importorskip("sklearn.tree", reason=reason)
    selection = pytest.importorskip("sklearn.model_selection", reason=reason)
    x, y = datasets.make_classification(n_samples=100, random_state=0)

    def search(n_jobs: int | None) -> Any:
        model = tree.DecisionTreeClassifier(random_state=0)
        found = selection.GridSearchCV(model, {"max_depth": [1, 2, 3]}, n_jobs=n_jobs, cv=3)
        return found.fit(x, y)

    parallel, sequential = search(-1), search(1)
    assert parallel.best_params_ == sequential.best_params_
    assert list(parallel.cv_results_["mean_test_score"]) == list(
        sequential.cv_results_["mean_test_score"]
    )
