"""The harness itself: it runs what it says, and a class that breaks its contract fails."""

from __future__ import annotations

import io
import multiprocessing
import multiprocessing.pool
import multiprocessing.queues
import queue
import unittest
from collections.abc import Callable, Mapping
from concurrent import futures
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Self

import pytest

from tests.stdlib import bind_executor, bind_multiprocessing, bind_queue
from tests.stdlib.harness import SuiteMissing, TestClasses, names_of_tests, needing, suite

pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("default")]


class NoShutDown(Exception):
    """Stands in where the interpreter has no `queue.ShutDown`; its suite has no test of it."""


def queue_tests(factory: Callable[[int], Any]) -> TestClasses:
    shut_down = getattr(queue, "ShutDown", NoShutDown)
    return bind_queue.bind_queue_tests(factory, queue.Empty, queue.Full, shut_down, module=__name__)


def multiprocessing_tests(factory: Callable[..., Any]) -> TestClasses:
    return bind_multiprocessing.bind_multiprocessing_queue_tests(
        factory, multiprocessing.JoinableQueue, multiprocessing.SimpleQueue, module=__name__
    )


def pool_tests(factory: Callable[..., Any]) -> TestClasses:
    return bind_multiprocessing.bind_pool_tests(
        factory, pool_module="multiprocessing", module=__name__
    )


def executor_tests(executor_type: type[futures.Executor]) -> TestClasses:
    return bind_executor.bind_executor_tests(executor_type, source=__name__, module=__name__)


class NewestFirst(queue.LifoQueue[Any]):
    """Keeps no order."""


class NegativeWaits(queue.Queue[Any]):
    """Takes a negative time-out for none."""

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        return super().get(block, None if timeout is None else max(timeout, 0.0))


class NeverFull(multiprocessing.queues.Queue):  # type: ignore[type-arg]
    def full(self) -> bool:
        return False


def never_full(maxsize: int = 0) -> NeverFull:
    return NeverFull(maxsize, ctx=multiprocessing.get_context())


class EnteredTwice(multiprocessing.pool.Pool):
    """Can be entered although it has ended."""

    def __enter__(self) -> Self:
        return self


class GoesOn(ProcessPoolExecutor):
    """Can't be shut down."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().submit(fn, *args, **kwargs)
        except RuntimeError:
            return futures.Future()


class Mute(ProcessPoolExecutor):
    """Loses what is pending when the interpreter ends."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return super().submit(abs, 1)


CASES: list[tuple[Callable[[Any], TestClasses], Any, Any, str]] = [
    (queue_tests, queue.Queue, NewestFirst, "QueueTest.test_basic"),
    (queue_tests, queue.Queue, NegativeWaits, "QueueTest.test_negative_timeout_raises_exception"),
    (
        queue_tests,
        queue.Queue,
        NegativeWaits,
        "SimpleQueueTest.test_negative_timeout_raises_exception",
    ),
    (multiprocessing_tests, multiprocessing.Queue, never_full, "TestQueue_fork.test_put"),
    (multiprocessing_tests, multiprocessing.Queue, never_full, "TestQueue_spawn.test_put"),
    (multiprocessing_tests, multiprocessing.Queue, never_full, "TestQueue_forkserver.test_put"),
    (pool_tests, multiprocessing.Pool, EnteredTwice, "TestPool_fork.test_enter"),
    (
        executor_tests,
        ProcessPoolExecutor,
        GoesOn,
        "TestProcessPoolShutdown_fork.test_run_after_shutdown",
    ),
    (
        executor_tests,
        ProcessPoolExecutor,
        Mute,
        "TestProcessPoolShutdown_spawn.test_interpreter_shutdown",
    ),
]


def bound(bind: Callable[[Any], TestClasses], target: Any) -> TestClasses:
    try:
        return bind(target)
    except SuiteMissing as missing:
        pytest.skip(str(missing))


def run(classes: Mapping[str, type[unittest.TestCase]], test: str) -> unittest.TestResult:
    """Runs "Class.test" as a suite of its own, with the fixtures of its class."""
    name, method = test.split(".")
    selected = unittest.TestSuite([classes[name](method)])
    return unittest.TextTestRunner(stream=io.StringIO()).run(selected)


@pytest.mark.parametrize(("bind", "right", "wrong", "test"), CASES, ids=[c[3] for c in CASES])
def test_a_right_class_passes_and_a_wrong_one_fails(
    bind: Callable[[Any], TestClasses], right: Any, wrong: Any, test: str
) -> None:
    passed = run(bound(bind, right), test)
    assert (passed.testsRun, passed.skipped) == (1, [])
    assert passed.wasSuccessful(), passed.failures + passed.errors

    before = multiprocessing.active_children()
    failed = run(bound(bind, wrong), test)
    assert len(failed.failures + failed.errors) == 1
    # Whom the test that failed has left waiting.
    for child in multiprocessing.active_children():
        if child not in before:
            child.kill()
            child.join(20)


DENIALS: list[tuple[Callable[[Any], TestClasses], Any, Mapping[str, str]]] = [
    (queue_tests, queue.Queue, bind_queue.DENIED),
    (multiprocessing_tests, multiprocessing.Queue, bind_multiprocessing.QUEUE_DENIED),
    (pool_tests, multiprocessing.Pool, bind_multiprocessing.POOL_DENIED),
    (executor_tests, ProcessPoolExecutor, bind_executor.DENIED),
]


@pytest.mark.parametrize(
    ("bind", "right", "denied"), DENIALS, ids=["queue", "multiprocessing", "pool", "executor"]
)
def test_a_denied_test_exists_and_is_reported(
    bind: Callable[[Any], TestClasses], right: Any, denied: Mapping[str, str]
) -> None:
    reasons = {}
    for cls in bound(bind, right).values():
        first: type = vars(cls)["parts"][0]
        for test in names_of_tests(cls):
            reason = getattr(getattr(cls, test), "__unittest_skip_why__", None)
            reasons[f"{first.__name__}.{test}"] = reason
    assert {key: reasons.get(key) for key in denied} == denied


@pytest.mark.parametrize("name", ["_TestQueue", "TestSimpleQueue"])
def test_the_queue_suites_are_bound_whole(name: str) -> None:
    classes = bound(multiprocessing_tests, multiprocessing.Queue)
    original = names_of_tests(getattr(suite(bind_multiprocessing.SUITE), name))
    for method in bind_multiprocessing.START_METHODS:
        assert names_of_tests(classes[f"{name.removeprefix('_')}_{method}"]) == original


def test_a_missing_suite_is_named() -> None:
    with pytest.raises(SuiteMissing, match=r"installed without test\.test_no_such_suite"):
        suite("test.test_no_such_suite")


def test_a_test_of_private_attributes_skips_where_there_are_none() -> None:
    look = needing("maxsize", "_no_such_attribute", of=lambda case: case)
    with pytest.raises(unittest.SkipTest, match=r"private attributes: _no_such_attribute$"):
        look(queue.Queue()).__enter__()
    with needing("maxsize", of=lambda case: case)(queue.Queue()):
        pass
