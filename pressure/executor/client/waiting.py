"""How a task waits for tasks that it has submitted itself: it runs them if nobody else does.

All workers may be waiting for children at once. So whoever waits looks now and then whether a child
is still in the queue, takes it back, and runs it in his own thread. A child is thus either running
somewhere, or in the queue and found there by whoever waits for it, or claimed by a worker behind a
task that runs long, which gives it back within moments. So something always goes on.

`wait` and `as_completed` of `concurrent.futures` don't call methods of ours. They leave an object
in each future's `_waiters` and wait for its event; `Waiters` puts one there that helps.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED
from typing import Any, Protocol, TypeVar, cast

from pressure.executor.client.futures import TaskFuture, Withdrawer
from pressure.executor.client.options import Options

__all__ = ["ChildFuture", "Helper"]

T = TypeVar("T")


FIRST_PAUSE = 0.03
"""A worker tells within about this time (seconds) that it runs a child."""
LONGEST_PAUSE = 0.5
RUNNING_PAUSE = 2.0
"""A child that runs comes back to the queue only if its worker dies."""
TRIES = 4
"""How many children are looked for at once of all that somebody waits for."""


class Helper(Withdrawer, Protocol):
    """What a child's future needs of its executor. `waits` has an element for each thread that
    waits here, and so will help by itself."""

    waits: set[object]

    def help(self, future: ChildFuture[Any]) -> bool:
        """Take the child back, if nobody has begun it, and run it in this thread. Returns whether
        that was so."""


class ChildFuture(TaskFuture[T]):
    """The future of a task that a task has submitted."""

    def __init__(self, task_id: bytes, withdrawer: Withdrawer, options: Options) -> None:
        super().__init__(task_id, withdrawer, options)
        self._helper = cast(Helper, withdrawer)
        self._waiters: Any = _Waiters(self)

    def result(self, timeout: float | None = None) -> T:
        """As `Future.result`; may run the task, and then takes as long as that."""
        return super().result(self._wait(timeout))

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As `Future.exception`; may run the task, and then takes as long as that."""
        return super().exception(self._wait(timeout))

    def _wait(self, timeout: float | None) -> float | None:
        """Wait until it is done, or the time is over. Returns what is left of that."""
        if self.done() or (timeout is not None and timeout <= 0):
            return timeout
        until = None if timeout is None else time.monotonic() + timeout
        self._helper.waits.add(this := object())
        try:
            self._wait_until(until)
        finally:
            self._helper.waits.discard(this)
        return None if until is None else max(0.0, until - time.monotonic())

    def _wait_until(self, until: float | None) -> None:
        pauses = _Pauses()
        while not self.done() and not self._helper.help(self):
            pause = RUNNING_PAUSE if self.running() else next(pauses)
            if until is not None:
                pause = min(pause, until - time.monotonic())
                if pause <= 0:
                    return
            with self._condition:
                if self._state not in (CANCELLED_AND_NOTIFIED, FINISHED):
                    self._condition.wait(pause)


class _Pauses:
    def __init__(self) -> None:
        self._pause = FIRST_PAUSE / 2

    def __next__(self) -> float:
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        return self._pause


class _Waiters(list[Any]):
    """The `_waiters` of a future."""

    def __init__(self, future: ChildFuture[Any]) -> None:
        super().__init__()
        self._future = future

    def append(self, waiter: Any) -> None:
        event = waiter.event
        if type(event) is not _HelpingEvent:
            event = waiter.event = _HelpingEvent()
        event.children.append(self._future)
        super().append(waiter)


class _HelpingEvent(threading.Event):
    """Whoever waits for it runs children meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.children: list[ChildFuture[Any]] = []

    def wait(self, timeout: float | None = None) -> bool:
        if self.is_set() or (timeout is not None and timeout <= 0):
            return self.is_set()
        until = None if timeout is None else time.monotonic() + timeout
        waits = self.children[0]._helper.waits
        waits.add(this := object())
        try:
            self._wait_until(until)
        finally:
            waits.discard(this)
        return self.is_set()

    def _wait_until(self, until: float | None) -> None:
        pauses = _Pauses()
        while not self.is_set():
            if self._help():
                pauses = _Pauses()
                continue
            pause = next(pauses)
            if until is not None:
                pause = min(pause, until - time.monotonic())
                if pause <= 0:
                    return
            super().wait(pause)

    def _help(self) -> bool:
        self.children = [child for child in self.children if not child.done()] or self.children[:1]
        # The latest: others begin with the first.
        idle = [child for child in reversed(self.children) if not (child.running() or child.done())]
        return any(child._helper.help(child) for child in idle[:TRIES])
