"""`ex.options(...)`: time-outs, retries, and how settings are checked and combined."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import pytest

from pressure.executor import (
    Options,
    RedisExecutor,
    TaskError,
    TaskTimeoutError,
    WorkerLostError,
)
from pressure.executor.records import pack_task, unpack_task
from tests.executor.crews import MODES, PATIENCE, executor
from tests.support.waiting import eventually

# What runs in workers


def add(a: int, b: int) -> int:
    return a + b


def sleep_and_say(seconds: float, said: str = "slept") -> str:
    time.sleep(seconds)
    return said


def spin(seconds: float) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return "spun"


def swallow(seconds: float) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(TimeoutError):
            time.sleep(end - time.monotonic())
    return "swallowed"


def clean_up(path: str) -> str:
    try:
        time.sleep(PATIENCE)
    except TimeoutError:
        Path(path).write_text("cleaned up")
        return "partial"
    return "whole"


def unpickle_slowly() -> None:
    time.sleep(PATIENCE)


class SlowToUnpickle:
    def __reduce__(self) -> Any:
        return unpickle_slowly, ()


class SlowToPickle:
    def __reduce__(self) -> Any:
        time.sleep(PATIENCE)
        return int, (1,)


def return_slowly(kind: str) -> Any:
    if kind == "to pickle":
        return SlowToPickle()
    if kind == "to pickle by value":
        # Plain pickling refuses the first.
        return [lambda: None, SlowToPickle()]
    return SlowToUnpickle()


def hold_the_interpreter(size: int) -> bool:
    """A regular expression that goes through all ways, in C, without letting other threads run."""
    return re.match(r"(a+)+$", "a" * size + "b") is None


def count(path: str, *, fail: int, error: type[Exception] = ValueError) -> int:
    """Fails the first `fail` times. One line in the file per run."""
    with open(path, "a") as file:
        file.write(f"{time.time()}\n")
    runs = len(Path(path).read_text().splitlines())
    if runs <= fail:
        raise error(f"run {runs}")
    return runs


def die(path: str) -> None:
    with open(path, "a") as file:
        file.write("x\n")
    os.kill(os.getpid(), signal.SIGKILL)


def pid() -> int:
    return os.getpid()


def attempts_so_far(path: str) -> int:
    file = Path(path)
    return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.fixture(params=MODES)
def ex(request: pytest.FixtureRequest, url: str, queue_name: str) -> Iterator[RedisExecutor]:
    with executor(request.param, url, queue_name, 1) as made:
        # The first one imports this module, and may take longer for that than a time-out is here.
        made.submit(pid).result(PATIENCE)
        yield made


# The settings


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"timeout": 0}, ValueError),
        ({"timeout": -1.0}, ValueError),
        ({"timeout": float("nan")}, ValueError),
        ({"timeout": float("inf")}, ValueError),
        ({"timeout": "1"}, TypeError),
        ({"grace": -1}, ValueError),
        ({"max_deliveries": 0}, ValueError),
        ({"max_deliveries": 65_536}, ValueError),
        ({"max_deliveries": 1.5}, TypeError),
        ({"max_deliveries": True}, TypeError),
        ({"retries": -1}, ValueError),
        ({"retries": None}, TypeError),
        ({"retry_for": ("ValueError",)}, TypeError),
        ({"retry_for": int}, TypeError),
        ({"backoff": -0.1}, ValueError),
        ({"backoff": "fast"}, TypeError),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    settings: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match=next(iter(settings))):
        Options(**settings)


def test_one_exception_class_is_enough() -> None:
    assert Options(retry_for=KeyError).retry_for == (KeyError,)  # type: ignore[arg-type]


def test_the_delay_doubles_up_to_a_minute() -> None:
    options = Options(backoff=1.0)
    for retry, most in ((1, 1.0), (2, 2.0), (3, 4.0), (7, 60.0), (5000, 60.0)):
        assert most * 0.75 <= options.delay(retry) <= most
    assert Options(backoff=lambda retry: retry * 10.0).delay(3) == 30.0


def test_a_record_without_limits_is_as_short_as_ever() -> None:
    plain = bytes(pack_task(b"function", b"arguments", stored=False))
    assert len(plain) == 3 + len(b"functionarguments")
    assert unpack_task(plain).limits is None
    record = bytes(pack_task(b"function", b"arguments", stored=True, limits=(1.5, 2.0)))
    limited = unpack_task(record)
    assert limited[1:] == (b"function", b"arguments", (1.5, 2.0))
    with pytest.raises(ValueError, match="task record"):
        unpack_task(record[:8])


def test_a_view_is_an_executor_that_does_not_change(ex: RedisExecutor) -> None:
    view = ex.options(timeout=20.0)
    assert isinstance(view, Executor)
    assert view.submit(add, 1, 2).result(PATIENCE) == 3
    assert list(view.map(add, [1, 2], [3, 4])) == [4, 6]
    assert list(view.map(add, range(10), range(10), chunksize=4)) == list(range(0, 20, 2))
    with pytest.raises(AttributeError):
        view._options = Options()
    more = view.options(retries=2)
    assert (more._options.timeout, more._options.retries) == (20.0, 2)
    assert view._options.retries == 0
    assert more.options(timeout=None)._options == Options(retries=2)
    with pytest.raises(TypeError, match="tiemout"):
        view.options(tiemout=1)  # type: ignore[call-arg]
    assert ex.submit(add, 1, 2).result(PATIENCE) == 3


def test_no_keyword_is_reserved(ex: RedisExecutor) -> None:
    future = ex.options(timeout=20.0).submit(dict, timeout=1, retries=2, fn=3, self=4)
    assert future.result(PATIENCE) == {"timeout": 1, "retries": 2, "fn": 3, "self": 4}


# Time-outs


def test_a_timeout_is_raised_inside_the_task(ex: RedisExecutor) -> None:
    worker = ex.submit(pid).result(PATIENCE)
    future = ex.options(timeout=0.2).submit(sleep_and_say, PATIENCE)
    with pytest.raises(TaskTimeoutError, match=r"0\.2 s") as caught:
        future.result(PATIENCE)
    assert isinstance(caught.value, TimeoutError)
    assert not isinstance(caught.value, TaskError)
    assert "sleep_and_say" in str(caught.value.__cause__)
    assert ex.submit(pid).result(PATIENCE) == worker, "the process was replaced"


def test_a_timeout_ends_a_loop(ex: RedisExecutor) -> None:
    with pytest.raises(TaskTimeoutError):
        ex.options(timeout=0.2).submit(spin, PATIENCE).result(PATIENCE)


def test_what_a_task_makes_of_its_timeout_counts(ex: RedisExecutor, tmp_path: Path) -> None:
    path = tmp_path / "cleaned"
    assert ex.options(timeout=0.2).submit(clean_up, str(path)).result(PATIENCE) == "partial"
    assert path.read_text() == "cleaned up"


def test_a_timeout_never_hits_the_next_task(ex: RedisExecutor) -> None:
    """Tasks that end just when their time is over, and innocents between them."""
    timed = ex.options(timeout=0.05)
    futures = []
    for number in range(20):
        futures.append((timed.submit(sleep_and_say, 0.045 + number / 2000), True))
        futures += [(ex.submit(sleep_and_say, 0.001), False) for _ in range(3)]
    for future, may_fail in futures:
        error = future.exception(PATIENCE)
        assert error is None or (may_fail and isinstance(error, TaskTimeoutError))


@pytest.mark.parametrize("deliveries", [1, 3])
def test_a_task_that_swallows_its_timeout_is_killed(ex: RedisExecutor, deliveries: int) -> None:
    worker = ex.submit(pid).result(PATIENCE)
    timed = ex.options(timeout=0.2, grace=0.2, max_deliveries=deliveries)
    future = timed.submit(swallow, PATIENCE)
    behind = ex.submit(add, 1, 1)
    with pytest.raises(TaskTimeoutError, match=f"{worker}.*killed"):
        future.result(PATIENCE)
    assert behind.result(PATIENCE) == 2
    assert ex.submit(pid).result(PATIENCE) != worker
    assert future.info()["started"] > 0


def test_a_task_that_holds_the_interpreter_is_killed(ex: RedisExecutor) -> None:
    future = ex.options(timeout=0.2, grace=0.1).submit(hold_the_interpreter, 64)
    with pytest.raises(TaskTimeoutError, match="killed"):
        future.result(PATIENCE)
    assert ex.submit(add, 2, 3).result(PATIENCE) == 5


def test_a_timeout_counts_the_run_not_the_wait(ex: RedisExecutor) -> None:
    first = ex.submit(sleep_and_say, 1.0)
    future = ex.options(timeout=0.8).submit(sleep_and_say, 0.01)
    assert future.result(PATIENCE) == "slept"
    assert first.done()


# Retries


def test_a_task_is_retried_until_it_succeeds(ex: RedisExecutor, tmp_path: Path) -> None:
    path = str(tmp_path / "runs")
    future = ex.options(retries=3, backoff=0.01).submit(count, path, fail=2)
    assert future.result(PATIENCE) == 3
    assert future.info()["attempts"] == 3
    plain = ex.submit(add, 1, 2)
    assert plain.result(PATIENCE) == 3
    assert plain.info()["attempts"] == 1


def test_the_last_error_counts(ex: RedisExecutor, tmp_path: Path) -> None:
    path = str(tmp_path / "runs")
    future = ex.options(retries=2, backoff=0.01).submit(count, path, fail=100)
    with pytest.raises(ValueError, match="run 3"):
        future.result(PATIENCE)
    assert future.info()["attempts"] == 3
    assert attempts_so_far(path) == 3


@pytest.mark.parametrize("fails", [1, 100])
def test_what_is_over_can_not_be_sent_again(ex: RedisExecutor, tmp_path: Path, fails: int) -> None:
    """What it would be sent by is gone once its future is done."""
    outstanding = ex._engine.dispatcher.ledger.tasks
    seen: list[bool] = []
    future = ex.options(retries=2, backoff=0.01).submit(count, str(tmp_path / "runs"), fail=fails)
    future.add_done_callback(lambda _: seen.append(future._task_id in outstanding))
    assert (future.exception(PATIENCE) is None) == (fails == 1)
    assert eventually(lambda: seen == [False])


def test_only_the_given_errors_are_retried(ex: RedisExecutor, tmp_path: Path) -> None:
    path = str(tmp_path / "runs")
    retrying = ex.options(retries=5, retry_for=(KeyError, OSError), backoff=0.01)
    with pytest.raises(ValueError, match="run 1"):
        retrying.submit(count, path, fail=100).result(PATIENCE)
    future = retrying.submit(count, str(tmp_path / "others"), fail=1, error=PermissionError)
    assert future.result(PATIENCE) == 2


def test_a_timeout_is_retried(ex: RedisExecutor, tmp_path: Path) -> None:
    timed = ex.options(timeout=0.1, retries=1, retry_for=(TimeoutError,), backoff=0.01)
    future = timed.submit(sleep_and_say, PATIENCE)
    with pytest.raises(TaskTimeoutError):
        future.result(PATIENCE)
    assert future.info()["attempts"] == 2


def test_a_lost_worker_is_retried(ex: RedisExecutor, tmp_path: Path) -> None:
    path = str(tmp_path / "runs")
    future = ex.options(retries=1, max_deliveries=1, backoff=0.01).submit(die, path)
    with pytest.raises(WorkerLostError) as caught:
        future.result(PATIENCE)
    assert attempts_so_far(path) == 2
    assert len(caught.value.deaths) == 1, "an earlier attempt's death is not this one's"


def test_a_waiting_retry_can_be_cancelled(ex: RedisExecutor, tmp_path: Path) -> None:
    path = str(tmp_path / "runs")
    future = ex.options(retries=1, backoff=PATIENCE * 2).submit(count, path, fail=100)
    deadline = time.monotonic() + PATIENCE
    while future._attempts == 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert future._attempts == 2
    assert not future.done()
    assert future.cancel()
    assert attempts_so_far(path) == 1


def test_shutdown_waits_for_retries(url: str, queue_name: str, tmp_path: Path) -> None:
    path = str(tmp_path / "runs")
    with RedisExecutor(1) as ex:
        future = ex.options(retries=1, backoff=0.3).submit(count, path, fail=1)
    assert future.result(0) == 2


def test_a_backoff_that_fails_ends_the_retries(ex: RedisExecutor, tmp_path: Path) -> None:
    path = str(tmp_path / "runs")
    future = ex.options(retries=5, backoff=lambda n: 1 / 0).submit(count, path, fail=100)
    with pytest.raises(ValueError, match="run 1"):
        future.result(PATIENCE)


def test_retries_of_many_at_once(ex: RedisExecutor, tmp_path: Path) -> None:
    retrying = ex.options(retries=2, backoff=0.01)
    futures = [
        retrying.submit(count, str(tmp_path / str(number)), fail=number % 3) for number in range(60)
    ]
    assert [future.result(PATIENCE) for future in futures] == [n % 3 + 1 for n in range(60)]


@pytest.mark.parametrize("kind", ["to pickle", "to pickle by value", "to unpickle"])
def test_a_timeout_holds_for_the_pickling_of_the_result_too(kind: str) -> None:
    with RedisExecutor(1) as ex:
        future = ex.options(timeout=0.3, grace=5.0).submit(return_slowly, kind)
        with pytest.raises(TaskTimeoutError):
            future.result(PATIENCE / 2)
        assert ex.submit(add, 1, 2).result(PATIENCE) == 3


def test_shutdown_does_not_wait_for_another_try(tmp_path: Path) -> None:
    ex = RedisExecutor(1, options=Options(retries=1, backoff=3600))
    path = tmp_path / "runs"
    future = ex.submit(count, str(path), fail=1)
    assert eventually(lambda: future._attempts == 2)
    ex.shutdown(cancel_futures=True)
    assert future.cancelled()
    assert path.read_text().count("\n") == 1
