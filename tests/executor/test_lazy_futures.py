"""Futures make their locks and lists when they are needed; nobody may notice that."""

from __future__ import annotations

import gc
import pickle
import threading
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, InvalidStateError, as_completed, wait
from typing import Any

import pytest

from pressure.executor.client.answers import settle
from pressure.executor.client.futures import TaskFuture
from pressure.executor.client.mapping import results
from pressure.executor.client.options import Options

PATIENCE = 30.0
ID = b"i" * 16


class Executor:
    """Takes every task back."""

    def __init__(self) -> None:
        self.asked = 0
        self.futures: dict[bytes, TaskFuture[Any]] = {}

    def withdraw(self, task_id: bytes) -> bool:
        self.asked += 1
        return True

    def withdraw_many(self, task_ids: Iterable[bytes]) -> list[TaskFuture[Any]]:
        self.asked += 1
        return [self.futures[task_id] for task_id in task_ids]


def pending() -> TaskFuture[Any]:
    return TaskFuture(ID, Executor(), Options())


def at_once(*works: Any) -> None:
    """Call these in threads that begin at the same moment."""
    start = threading.Barrier(len(works))

    def go(work: Any) -> None:
        start.wait(PATIENCE)
        work()

    threads = [threading.Thread(target=go, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_nothing_is_made_for_a_future_that_nobody_waits_for() -> None:
    future = pending()
    assert not future.done() and not future.running() and not future.cancelled()
    future.set_result(7)
    assert future.done() and future.result() == 7 and future.exception() is None
    assert future._others is None


def test_the_garbage_collector_finds_no_dictionary_and_at_last_no_task() -> None:
    futures = [pending() for _ in range(100)]
    for number, future in enumerate(futures):
        future._record, future._needs, future._number = bytes(100), (), number
    for future in futures:
        assert not [one for one in gc.get_referents(future) if isinstance(one, dict)]
        future._head = b"head"
        settle(future, None, None)
        assert not [one for one in gc.get_referents(future) if isinstance(one, dict)]
        assert future._record == b"" and future._withdrawer is None
        assert future.result() is None


def test_a_callback_needs_nothing_else() -> None:
    future, called = pending(), list[Future[Any]]()
    future.add_done_callback(called.append)
    future.set_result(7)
    assert called == [future]
    assert future._others is None


def test_it_has_all_that_a_future_has() -> None:
    future = pending()
    for name in vars(Future()):
        assert hasattr(future, name)
    assert "pending" in repr(future)
    assert future._condition is future._condition


@pytest.mark.parametrize("done", [False, True])
def test_it_is_not_pickled(done: bool) -> None:
    future = pending()
    if done:
        future.set_result(7)
    with pytest.raises(TypeError, match="future"):
        pickle.dumps(future)


@pytest.mark.parametrize("watched", [False, True])
def test_it_is_resolved_once(watched: bool) -> None:
    for fails in (False, True):
        future = pending()
        if watched:
            future.add_done_callback(lambda _: None)
        if fails:
            future.set_exception(KeyError())
        else:
            future.set_result(1)
        with pytest.raises(InvalidStateError):
            future.set_result(2)
        with pytest.raises(InvalidStateError):
            future.set_exception(ValueError())
        assert not future.cancel()


def test_an_error_comes_with_its_own_traceback() -> None:
    future = pending()
    future.set_exception(KeyError("x"))
    for _ in range(2):
        with pytest.raises(KeyError):
            future.result()
    assert isinstance(future.exception(), KeyError)


def test_who_comes_while_it_is_resolved_hears_of_it() -> None:
    for _ in range(200):
        future = pending()
        called: list[Any] = []
        heard: list[Any] = []
        at_once(
            lambda future=future: future.set_result(5),
            lambda future=future, called=called: future.add_done_callback(called.append),
            lambda future=future, heard=heard: heard.append(future.result(PATIENCE)),
            lambda future=future, heard=heard: heard.append(len(wait([future], PATIENCE).done)),
        )
        assert called == [future]
        assert sorted(heard) == [1, 5]


@pytest.mark.parametrize("watched", ["never", "first", "between", "last"])
@pytest.mark.parametrize("end", ["result", "error", "cancel"])
def test_callbacks_are_called_once_and_in_order(
    watched: str, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether the base class's part was made before them, between them, after them or never."""
    future, called = pending(), list[object]()

    def fail(done: Future[Any]) -> None:
        called.append("failed")
        raise ValueError("on purpose")

    def watch(moment: str) -> None:
        if watched == moment:
            assert wait([future], 0).not_done

    watch("first")
    future.add_done_callback(called.append)
    future.add_done_callback(fail)
    watch("between")
    future.add_done_callback(lambda done: called.append(done.cancelled()))
    watch("last")
    {
        "result": lambda: future.set_result(7),
        "error": lambda: future.set_exception(OSError("on purpose")),
        "cancel": future.cancel,
    }[end]()
    assert called == [future, "failed", end == "cancel"]
    assert "exception calling callback" in caplog.text
    future.add_done_callback(called.append)
    assert called[3:] == [future]


def test_it_is_either_cancelled_or_resolved() -> None:
    for _ in range(200):
        future = pending()
        won: list[str] = []

        def resolve(future: TaskFuture[Any] = future, won: list[str] = won) -> None:
            try:
                future.set_result(1)
            except InvalidStateError:
                return
            won.append("resolved")

        def cancel(future: TaskFuture[Any] = future, won: list[str] = won) -> None:
            if future.cancel():
                won.append("cancelled")

        at_once(resolve, cancel)
        assert won == [("cancelled" if future.cancelled() else "resolved")]


def test_wait_and_as_completed_see_it() -> None:
    futures = [pending() for _ in range(3)]
    timer = threading.Timer(0.05, lambda: futures[1].set_result("b"))
    timer.start()
    done, others = wait(futures, PATIENCE, return_when=FIRST_COMPLETED)
    assert done == {futures[1]} and len(others) == 2
    for future in others:
        future.set_result("c")
    assert set(as_completed(futures, PATIENCE)) == set(futures)
    timer.join(PATIENCE)


def test_what_a_map_leaves_is_cancelled_at_once() -> None:
    executor = Executor()
    for number in range(100):
        task_id = number.to_bytes(16, "big")
        executor.futures[task_id] = TaskFuture(task_id, executor, Options())
    futures = list(executor.futures.values())
    futures[0].set_running_or_notify_cancel()
    iterator = results(deque(futures), iter(()), time.monotonic() - 1.0)
    with pytest.raises(TimeoutError):
        next(iterator)
    assert futures[0].running() and all(future.cancelled() for future in futures[1:])
    assert executor.asked == 1
