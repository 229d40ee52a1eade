"""Raising an exception inside a task that runs in the main thread.

The watchdog decides, and asks the main thread by a signal, which ends a blocking call such as
`time.sleep`, too. The signal's handler runs in the main thread between two bytecodes. It raises
only while that thread is inside the task in question: never in the worker's own code, nor in the
next task.

A task that waits for a child may run that in its own thread (`pressure.executor.client.nested`), so
the main thread may be inside several tasks at once; the stack has them all, the innermost last.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from pressure.executor.errors import TaskTerminatedError, TaskTimeoutError
from pressure.executor.notes import Notes

__all__ = ["SIGNAL", "Guard", "Unguarded", "left"]

SIGNAL = signal.SIGURG
"""By default it is ignored, so one that arrives where nobody expects it does no harm."""


class _Limit:
    __slots__ = ("asked", "kill_at", "soft", "timeout")

    def __init__(self, timeout: float, grace: float) -> None:
        self.timeout = timeout
        self.soft = time.monotonic() + timeout
        self.kill_at = self.soft + grace
        self.asked = False


class Guard:
    """Ends what runs in the main thread of a worker process.

    The worker pushes a delivery on `stack` right before it calls a task's function, and removes it
    right after, whatever came of the call.
    """

    def __init__(self, notes: Notes) -> None:
        self.stack: list[Any] = []
        self._notes = notes
        self._limits: dict[int, _Limit] = {}
        """By depth in the stack."""
        self._inner: dict[bytes, _Limit | None] = {}
        """The ids of the tasks that others wait for and run, with a limit where one is to end."""
        # While `_note` looks at all of them.
        # Reentrant, since a task's own signal handler may end a task.
        self._noting = threading.RLock()
        self._terminated: Any = None
        self._marked = False
        """Whether anything but the stack is to be cleaned up after the outermost task."""
        self._request: tuple[Any, Exception] | None = None
        self._owed: tuple[Any, Exception] | None = None
        self._shielded = 0
        self._main = threading.main_thread().ident or 0

    def install(self) -> None:
        """In the main thread, before the first task."""
        signal.signal(SIGNAL, self._on_signal)

    def limit(self, timeout: float, grace: float) -> None:
        """The task that is about to begin may run for `timeout` seconds."""
        self._marked = True
        with self._noting:
            self._limits[len(self.stack)] = _Limit(timeout, grace)
            self._note()

    def leave(self, depth: int) -> None:
        """The main thread is out of the tasks above the first `depth`."""
        del self.stack[depth:]
        if self._marked:
            if self._limits:
                with self._noting:
                    for level in [level for level in self._limits if level >= depth]:
                        del self._limits[level]
                    self._note()
            if not depth:
                self._marked = False
                self._owed = self._terminated = None

    def _note(self) -> None:
        """The supervisor ends this process when the first of the limits is over for good."""
        limits = [*self._limits.values(), *filter(None, self._inner.values())]
        self._notes.kill_at(min((limit.kill_at for limit in limits), default=0.0))

    # Tasks that are run by those that wait for them

    def begin_inner(self, task_id: bytes) -> None:
        """The main thread is about to run this task while another waits for it."""
        self._inner[task_id] = None

    def end_inner(self, task_id: bytes) -> None:
        """It is out of that task, whatever came of it."""
        with self.shield(), self._noting:
            if self._inner.pop(task_id, None) is not None:
                self._note()

    def terminate(self, task_id: bytes, grace: float) -> bool:
        """Such a task is to end, within `grace` seconds. False if it isn't one. For any thread."""
        with self._noting:
            if task_id not in self._inner:
                return False
            if self._inner[task_id] is None:
                self._inner[task_id] = _Limit(0.0, grace)
                self._note()
            return True

    # What the watchdog calls

    def check(self) -> None:
        """Ask the main thread to end a task if its time is over or somebody wants it."""
        if self._request is None:
            self._request = self._due()
        if self._request is not None:
            self._marked = True
            # Again with each tick until it is heard: a signal just before a blocking call is lost.
            signal.pthread_kill(self._main, SIGNAL)

    def _due(self) -> tuple[Any, Exception] | None:
        stack = tuple(self.stack)
        if not stack:
            return None
        ordered = self._notes.ordered()
        if ordered == stack[0].id and self._terminated is not stack[0]:
            self._terminated = stack[0]
            return stack[0], TaskTerminatedError("the task was terminated")
        for task in stack[1:]:
            wanted = self._inner.get(task.id)
            if wanted is not None and not wanted.asked:
                wanted.asked = True
                return task, TaskTerminatedError("the task was terminated")
        if self._limits:
            now = time.monotonic()
            for depth, limit in sorted(self._limits.items()):
                if depth < len(stack) and now >= limit.soft and not limit.asked:
                    limit.asked = True
                    return stack[depth], TaskTimeoutError(
                        f"the task ran for longer than its timeout of {limit.timeout:g} s"
                    )
        return None

    # What runs in the main thread

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        request = self._request
        if request is None or self._shielded:
            return
        self._request = None
        task, error = request
        if any(running is task for running in self.stack):
            if task is not self.stack[-1]:
                self._owed = request
            raise error

    @contextmanager
    def shield(self) -> Iterator[None]:
        """Nothing is raised in here by a signal; what is asked for waits for the end."""
        self._shielded += 1
        try:
            yield
        finally:
            self._shielded -= 1

    def pay(self) -> None:
        """An inner task is over, and returns to the one that ran it. If it was interrupted for the
        sake of that one, or of one further out, then they hear of it now."""
        if self._owed is not None:
            task, error = self._owed
            if self.stack and task is self.stack[-1]:
                self._owed = None
            raise error


class Unguarded:
    """Stands for the guard in other threads, where nothing can be raised from outside."""

    def __init__(self) -> None:
        self.stack: list[Any] = []

    def limit(self, timeout: float, grace: float) -> None: ...

    def leave(self, depth: int) -> None: ...


def left(guard: Guard | Unguarded, depth: int, exc: BaseException) -> BaseException:
    """Leave the tasks above `depth`, of which `exc` has ended one; returns what ended it."""
    try:
        guard.leave(depth)
    except BaseException as late:
        # It was interrupted on its way out. Nobody asks twice.
        guard.leave(depth)
        return late
    return exc
