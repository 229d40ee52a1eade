"""The thread that keeps a process's promises, without a server."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable

import pytest

from pressure import keeper
from tests.support.waiting import eventually

WAIT = 20.0


class OwingAgain:
    """A handle whose next call ends just as the thread has found that nothing is owed."""

    def __init__(self, paid: threading.Event) -> None:
        self._paid = paid
        self._looked = False

    def maintain(self, now: float) -> float:
        if self._looked:
            self._paid.set()
        else:
            self._looked = True
            keeper.wake(time.monotonic(), self)
        return float("inf")

    def disconnect(self) -> None:
        pass

    def after_fork(self) -> None:
        pass


def test_who_owes_something_lives_until_it_is_paid() -> None:
    paid = threading.Event()
    handle = OwingAgain(paid)
    keeper.keep(handle, "a server of its own")
    keeper.wake(time.monotonic(), handle)
    del handle
    assert paid.wait(WAIT)


class Looked:
    """A handle that owes nothing."""

    def __init__(self) -> None:
        self.looked = threading.Event()

    def maintain(self, now: float) -> float:
        self.looked.set()
        return float("inf")

    def disconnect(self) -> None:
        pass

    def after_fork(self) -> None:
        pass


def collect(function: Callable[..., object], *args: object) -> None:
    """Have the garbage collector call something in this thread."""
    garbage = Looked()
    garbage.looked.garbage = garbage  # type: ignore[attr-defined]
    weakref.finalize(garbage, function, *args)
    del garbage
    gc.collect()


def test_the_garbage_collector_may_run_while_the_thread_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handle = Looked()
    keeper.keep(handle, "a server that nobody talks to")
    set_ident = threading.Thread._set_ident  # type: ignore[attr-defined]

    def set_ident_and_collect(thread: threading.Thread) -> None:
        set_ident(thread)
        if thread.name == "pressure":
            collect(keeper.wake, time.monotonic(), handle)

    monkeypatch.setattr(threading.Thread, "_set_ident", set_ident_and_collect)
    starter = threading.Thread(target=keeper.wake, args=(time.monotonic(), handle), daemon=True)
    starter.start()
    starter.join(WAIT)
    assert not starter.is_alive(), "hung"
    assert handle.looked.wait(WAIT)


def test_the_garbage_collector_starts_no_thread() -> None:
    handle = Looked()
    keeper.keep(handle, "a server that somebody talked to")
    before = set(threading.enumerate())
    collect(keeper.wake, time.monotonic(), handle)
    assert not set(threading.enumerate()) - before
    keeper.wake(time.monotonic(), handle)
    assert handle.looked.wait(WAIT)


def test_many_threads_wake_it_at_once() -> None:
    handle = Looked()
    keeper.keep(handle, "a server of many threads")
    ready = threading.Barrier(8)

    def wake() -> None:
        ready.wait(WAIT)
        keeper.wake(time.monotonic(), handle)

    before = set(threading.enumerate())
    threads = [threading.Thread(target=wake) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert handle.looked.wait(WAIT)
    assert eventually(lambda: len(set(threading.enumerate()) - before) == 1)


def test_acknowledgements_are_looked_for_often_enough() -> None:
    """Half of the time they may ride is over when they are due, and the next look comes before the
    other half is."""
    assert keeper.TICK / 2 + keeper.LOOK < keeper.TICK <= 0.05
