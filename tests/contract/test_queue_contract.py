"""What `queue.Queue` promises, asked of `queue.Queue` and of `PressureQueue` alike."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

import pressure
from tests.support.waiting import eventually

Make = Callable[[int], Any]
WAKE = 10.0
"""Until when a blocked caller must have returned. It bounds a hang, and says nothing of speed."""


@pytest.fixture(params=["stdlib", "pressure"])
def make(request: pytest.FixtureRequest, url: str, queue_name: str) -> Iterator[Make]:
    """Makes queues of the class under test."""
    if request.param == "stdlib":
        yield lambda maxsize: queue.Queue(maxsize)
        return
    made: list[pressure.PressureQueue[Any]] = []

    def make_ours(maxsize: int) -> pressure.PressureQueue[Any]:
        q: pressure.PressureQueue[Any] = pressure.PressureQueue(
            f"{queue_name}-{len(made)}", url=url
        )
        q.create(maxsize)
        made.append(q)
        return q

    yield make_ours
    for q in made:
        q.delete()
        q.disconnect()


@pytest.fixture
def make_closable(make: Make, request: pytest.FixtureRequest) -> Make:
    if sys.version_info < (3, 13) and isinstance(make(0), queue.Queue):
        pytest.skip("queue.Queue has no shutdown() before Python 3.13")
    return make


class Caller:
    """A thread that makes one call; its result or exception can be waited for."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.outcome: object = None
        self._thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self._thread.start()

    def _run(self, call: Callable[[], object]) -> None:
        try:
            self.outcome = call()
        except Exception as exc:
            self.outcome = exc

    @property
    def waits(self) -> bool:
        self._thread.join(0.1)
        return self._thread.is_alive()

    def result(self) -> object:
        self._thread.join(WAKE)
        assert not self._thread.is_alive(), "the caller still waits"
        return self.outcome


def test_first_in_first_out(make: Make) -> None:
    q = make(0)
    for number in range(20):
        q.put(number)
    assert [q.get() for _ in range(20)] == list(range(20))


def test_sizes(make: Make) -> None:
    q = make(2)
    assert (q.qsize(), q.empty(), q.full(), q.maxsize) == (0, True, False, 2)
    q.put("a")
    assert (q.qsize(), q.empty(), q.full()) == (1, False, False)
    q.put("b")
    assert (q.qsize(), q.empty(), q.full()) == (2, False, True)
    q.get()
    assert (q.qsize(), q.empty(), q.full()) == (1, False, False)


def test_an_unbounded_queue_is_never_full(make: Make) -> None:
    q = make(0)
    for number in range(50):
        q.put_nowait(number)
    assert not q.full()
    assert q.maxsize == 0


def test_full_and_empty_are_raised_at_once(make: Make) -> None:
    q = make(1)
    with pytest.raises(queue.Empty):
        q.get_nowait()
    with pytest.raises(queue.Empty):
        q.get(block=False)
    with pytest.raises(queue.Empty):
        q.get(False, 100)
    q.put(1)
    with pytest.raises(queue.Full):
        q.put_nowait(2)
    with pytest.raises(queue.Full):
        q.put(2, block=False)
    with pytest.raises(queue.Full):
        q.put(2, False, 100)
    assert q.qsize() == 1


@pytest.mark.parametrize("timeout", [0, 0.00001, 0.05, 0.2])
def test_timeouts_are_kept(make: Make, timeout: float) -> None:
    q = make(1)
    started = time.monotonic()
    with pytest.raises(queue.Empty):
        q.get(timeout=timeout)
    assert timeout <= time.monotonic() - started < timeout + WAKE
    q.put(1)
    started = time.monotonic()
    with pytest.raises(queue.Full):
        q.put(2, timeout=timeout)
    assert timeout <= time.monotonic() - started < timeout + WAKE


def test_negative_timeouts(make: Make) -> None:
    q = make(1)
    with pytest.raises(ValueError, match="'timeout' must be a non-negative number"):
        q.get(timeout=-1)
    with pytest.raises(ValueError, match="'timeout' must be a non-negative number"):
        q.put(1, timeout=-0.5)
    assert q.empty(), "a refused put puts nothing"
    q.put(1, False, -1)
    assert q.get(False, -1) == 1
    unbounded = make(0)
    unbounded.put(1, timeout=-1)
    assert unbounded.get() == 1


def test_a_blocked_get_returns_what_comes(make: Make) -> None:
    q = make(0)
    getter = Caller(q.get)
    assert getter.waits
    q.put("late")
    assert getter.result() == "late"


def test_a_blocked_put_returns_when_there_is_room(make: Make) -> None:
    q = make(1)
    q.put("first")
    putter = Caller(lambda: q.put("second"))
    assert putter.waits
    assert q.get() == "first"
    assert putter.result() is None
    assert q.get() == "second"


def test_each_blocked_caller_is_woken_once(make: Make) -> None:
    q = make(0)
    getters = [Caller(q.get) for _ in range(10)]
    assert all(getter.waits for getter in getters)
    for number in range(10):
        q.put(number)
    assert {getter.result() for getter in getters} == set(range(10))
    bounded = make(1)
    bounded.put("first")
    putters = [Caller(partial(bounded.put, number)) for number in range(10)]
    assert all(putter.waits for putter in putters)
    got = [bounded.get(timeout=WAKE) for _ in range(11)]
    assert sorted(map(str, got)) == sorted(["first", *map(str, range(10))])
    assert {putter.result() for putter in putters} == {None}


def test_the_bound_holds_for_many_threads(make: Make) -> None:
    q = make(5)
    sizes = []

    def put_all(at: int) -> None:
        for number in range(40):
            q.put((at, number))

    putters = [Caller(partial(put_all, at)) for at in range(4)]
    got = []
    for _ in range(160):
        sizes.append(q.qsize())
        got.append(q.get(timeout=WAKE))
    for putter in putters:
        putter.result()
    assert max(sizes) <= 5
    for at in range(4):
        assert [number for owner, number in got if owner == at] == list(range(40))


def test_join_waits_for_task_done(make: Make) -> None:
    q = make(0)
    q.join()
    for number in range(3):
        q.put(number)
    joiner = Caller(q.join)
    for _ in range(3):
        assert joiner.waits
        q.get()
        assert joiner.waits, "what was got is not done"
        q.task_done()
    assert joiner.result() is None


def test_join_wakes_everybody(make: Make) -> None:
    q = make(0)
    q.put(1)
    joiners = [Caller(q.join) for _ in range(4)]
    assert all(joiner.waits for joiner in joiners)
    q.get()
    q.task_done()
    assert [joiner.result() for joiner in joiners] == [None] * 4


def test_task_done_too_often(make: Make) -> None:
    q = make(0)
    with pytest.raises(ValueError, match=r"task_done\(\) called too many times"):
        q.task_done()
    q.put(1)
    q.get()
    q.task_done()
    with pytest.raises(ValueError, match=r"task_done\(\) called too many times"):
        q.task_done()


def test_unfinished_tasks(make: Make) -> None:
    q = make(0)
    assert q.unfinished_tasks == 0
    q.put(1)
    q.put(2)
    assert q.unfinished_tasks == 2
    q.get()
    assert q.unfinished_tasks == 2
    q.task_done()
    assert q.unfinished_tasks == 1


def test_a_bound_that_shrinks(make: Make) -> None:
    q = make(4)
    for number in range(3):
        q.put(number)
    q.maxsize = 2
    with pytest.raises(queue.Full):
        q.put_nowait(3)
    assert q.qsize() == 3
    assert [q.get_nowait() for _ in range(2)] == [0, 1]
    q.put_nowait(3)
    assert [q.get_nowait() for _ in range(2)] == [2, 3]


def test_while_one_thread_waits_to_put_others_finish(make: Make) -> None:
    """What one thread got is settled although another thread's call blocks meanwhile."""
    q = make(1)
    q.put(1)
    q.get()
    q.put(2)
    putter = Caller(lambda: q.put(3))
    assert putter.waits
    q.task_done()
    assert q.unfinished_tasks == 1
    assert q.get() == 2
    assert putter.result() is None


# Shutting down, as in Python 3.13


def test_shutdown_refuses_puts_and_drains(make_closable: Make) -> None:
    q = make_closable(2)
    assert not q.is_shutdown
    q.put(1)
    q.put(2)
    q.shutdown()
    assert q.is_shutdown
    for put in (partial(q.put, 3), partial(q.put_nowait, 3), partial(q.put, 3, timeout=0.01)):
        with pytest.raises(pressure.ShutDown):
            put()
    assert [q.get(), q.get_nowait()] == [1, 2]
    for get in (q.get, q.get_nowait, partial(q.get, timeout=0.01)):
        with pytest.raises(pressure.ShutDown):
            get()


def test_shutdown_again(make_closable: Make) -> None:
    q = make_closable(0)
    q.put(1)
    q.shutdown()
    q.shutdown()
    assert q.qsize() == 1
    q.shutdown(True)
    assert q.qsize() == 0
    q.shutdown(immediate=False)
    assert q.is_shutdown


@pytest.mark.parametrize("immediate", [False, True])
def test_shutdown_wakes_blocked_getters(make_closable: Make, immediate: bool) -> None:
    q = make_closable(0)
    getters = [Caller(q.get) for _ in range(4)]
    assert all(getter.waits for getter in getters)
    q.shutdown(immediate)
    assert all(isinstance(getter.result(), pressure.ShutDown) for getter in getters)


@pytest.mark.parametrize("immediate", [False, True])
def test_shutdown_wakes_blocked_putters(make_closable: Make, immediate: bool) -> None:
    q = make_closable(1)
    q.put(0)
    putters = [Caller(lambda: q.put(1)) for _ in range(4)]
    assert all(putter.waits for putter in putters)
    q.shutdown(immediate)
    assert all(isinstance(putter.result(), pressure.ShutDown) for putter in putters)
    assert q.qsize() == (0 if immediate else 1)


def test_task_done_after_shutdown(make_closable: Make) -> None:
    q = make_closable(0)
    q.put(1)
    q.put(2)
    joiner = Caller(q.join)
    assert q.get() == 1
    q.shutdown()
    assert q.get() == 2
    q.task_done()
    assert joiner.waits
    q.task_done()
    assert joiner.result() is None
    with pytest.raises(ValueError):
        q.task_done()


def test_immediate_shutdown_counts_what_it_drops_as_done(make_closable: Make) -> None:
    q = make_closable(0)
    for number in range(3):
        q.put(number)
    q.get()
    joiner = Caller(q.join)
    assert joiner.waits
    q.shutdown(immediate=True)
    assert joiner.waits, "join waits for what was fetched"
    assert q.unfinished_tasks == 1
    q.task_done()
    assert joiner.result() is None
    with pytest.raises(ValueError):
        q.task_done()


def test_more_getters_than_items_at_shutdown(make_closable: Make) -> None:
    q = make_closable(0)
    q.put(1)
    q.put(2)
    q.shutdown()
    outcomes = [Caller(q.get) for _ in range(3)]
    results = [outcome.result() for outcome in outcomes]
    assert sorted(result for result in results if isinstance(result, int)) == [1, 2]
    assert sum(isinstance(result, pressure.ShutDown) for result in results) == 1


def test_threads_may_come_and_go(make: Make) -> None:
    """What a thread left behind is settled though it is gone."""
    q = make(1)
    for number in range(20):
        assert Caller(partial(q.put, number)).result() is None
        assert Caller(q.get).result() == number
    assert eventually(q.empty)
