"""The future of a task: a real `concurrent.futures.Future` that can withdraw what it stands for."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from concurrent.futures._base import (
    CANCELLED,
    CANCELLED_AND_NOTIFIED,
    FINISHED,
    LOGGER,
    PENDING,
    RUNNING,
)
from typing import Any, Protocol, TypeVar

from pressure.condition import Condition
from pressure.content import Content
from pressure.executor.client.options import USUAL, Options
from pressure.executor.records import read_head

__all__ = ["Needed", "TaskFuture", "Withdrawer", "cancel_many"]

T = TypeVar("T")


class Withdrawer(Protocol):
    """What a future needs of its executor."""

    def withdraw(self, task_id: bytes) -> bool:
        """Take a task back, if nobody has begun it."""

    def withdraw_many(self, task_ids: Iterable[bytes]) -> list[TaskFuture[Any]]:
        """Take tasks back. Returns the futures of those that nobody had begun, which the caller
        cancels. Takes a moment if workers hold some that they have not begun. In a thread in which
        the garbage collector is at work it does nothing yet, and the tasks are cancelled soon."""


class Needed(Protocol):
    """What a task needs at the server: `data`, under its digest."""

    @property
    def digest(self) -> bytes: ...

    @property
    def data(self) -> bytes | Content: ...


# Held for moments only. Reentrant: a signal handler or a finalizer may look at a future while its
# thread holds it.
_guard = threading.RLock()


def _after_fork() -> None:
    global _guard
    _guard = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)


class _Lazy:
    """An attribute that `Future.__init__` makes for each future: here it is made when somebody asks
    for it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, future: Any, owner: Any = None) -> Any:
        return self if future is None else getattr(future._rest(), self._name)

    def __set__(self, future: Any, value: Any) -> None:
        setattr(future._rest(), self._name, value)


class TaskFuture(Future[T]):
    """As `concurrent.futures.Future`.

    Most futures are looked at only when they are done. A lock, a condition, a deque and two lists
    for each would cost more than all else that is done to submit a task, so the state stands in the
    future itself, and everything else that the base class makes comes into being once it is needed:
    when somebody waits or cancels. From then on all is done as the base class does it; until then
    only what follows, under one lock for all futures. Callbacks that are added early stand in a
    list which is the base class's, too, once there is one.

    What is needed to send the task again stands here as well until it is done: with an object of
    its own for that, the garbage collector would go through twice as many.

    Attributes:
        task_id: names the task in logs and dead letters (hex).
    """

    _state = PENDING
    _result: Any = None
    _exception: BaseException | None = None
    _others: Future[Any] | None = None
    _withdrawer: Withdrawer | None = None
    _options = USUAL
    _early: list[Callable[[Future[Any]], object]] | None = None
    _head = b""
    _attempts = 1
    _output = b""
    _record: bytes | Content = b""
    # What must be stored beside the reply queue before the task is sent.
    _needs: tuple[Needed, ...] = ()
    # Of the put that sent it.
    _number = 0
    _deaths: tuple[dict[str, Any], ...] = ()
    # Whether it was taken back to be cancelled, and so will never run.
    _taken_back = False

    def __init__(self, task_id: bytes, withdrawer: Withdrawer, options: Options) -> None:
        self._task_id = task_id
        self._withdrawer = withdrawer
        if options is not USUAL:
            self._options = options

    def _rest(self) -> Future[Any]:
        """What has all that is not in this future itself."""
        if self._others is None:
            others: Any = Future()
            # The listener takes it, too: it must not stay locked.
            others._condition = Condition()
            with _guard:
                # Each in one step, which nothing that this thread runs on the side can interrupt.
                others._done_callbacks = self.__dict__.setdefault("_early", [])
                self.__dict__.setdefault("_others", others)
        assert self._others is not None
        return self._others

    def __reduce__(self) -> Any:
        # As with the base class, whose lock this one may not have yet.
        raise TypeError("cannot pickle a future: it belongs to the process that made it")

    @property
    def task_id(self) -> str:
        return self._task_id.hex()

    def info(self) -> dict[str, Any]:
        """What is known of the run: `worker`, `started`, `finished` (seconds since the epoch by the
        worker's clock), `deliveries`, `attempts` (with its retries). Empty while nothing is."""
        if not self._head:
            return {}
        deliveries, started, finished, worker = read_head(self._head)
        return {
            "worker": worker.decode(errors="replace"),
            "started": started,
            "finished": finished,
            "deliveries": deliveries,
            "attempts": self._attempts,
        }

    def output(self) -> str:
        """What the task printed and logged, with the option `capture_output`; else empty. Empty
        until it is done, and if its worker died."""
        return self._output.decode(errors="replace")

    # A state that is final, or that is read once, can be read without a lock.

    def done(self) -> bool:
        return self._state in (FINISHED, CANCELLED, CANCELLED_AND_NOTIFIED)

    def running(self) -> bool:
        return self._state == RUNNING

    def cancelled(self) -> bool:
        return self._state in (CANCELLED, CANCELLED_AND_NOTIFIED)

    def result(self, timeout: float | None = None) -> T:
        if self._state == FINISHED and self._exception is None:
            return self._result  # type: ignore[no-any-return]
        try:
            return super().result(timeout)
        finally:
            # A traceback's frames must not refer back to the future.
            del self

    def exception(self, timeout: float | None = None) -> BaseException | None:
        return self._exception if self._state == FINISHED else super().exception(timeout)

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        if self._others is None:
            with _guard:
                if self._others is None and self._state in (PENDING, RUNNING):
                    self.__dict__.setdefault("_early", []).append(fn)
                    return
        super().add_done_callback(fn)

    def set_result(self, result: T) -> None:
        if not self._settle(result, None):
            super().set_result(result)

    def set_exception(self, exception: BaseException | None) -> None:
        if not self._settle(None, exception):
            super().set_exception(exception)

    def _settle(self, result: Any, exception: BaseException | None) -> bool:
        """Be done, and call the callbacks. False if the base class has to do it."""
        if self._others is not None:
            return False
        with _guard:
            if self._others is not None or self._state not in (PENDING, RUNNING):
                return False
            if exception is None:
                if result is not None:
                    self._result = result
            else:
                self._exception = exception
            # At last: who sees this looks at nothing else.
            self._state = FINISHED
        for callback in self._early or ():
            try:
                callback(self)
            except Exception:
                LOGGER.exception("exception calling callback for %r", self)
        return True

    def cancel(self) -> bool:
        """As `Future.cancel`: True only if the task was withdrawn and will never run.

        It asks the server where the task waits there, and then takes a round trip. It returns False
        as well for a moment in which a worker holds the task but has not begun it (it claims some
        milliseconds' work at once), and while the server is away: after some seconds, and then for
        a while at once. What runs is ended with the executor's `terminate`.
        """
        with self._condition:
            if self._state in (CANCELLED, CANCELLED_AND_NOTIFIED):
                return True
            if self._state != PENDING:
                return False
        return self._take_back()

    def _take_back(self) -> bool:
        """As `cancel`, also if it has run: its worker died then, and it is in the queue again."""
        withdrawer = self._withdrawer
        if withdrawer is not None and withdrawer.withdraw(self._task_id):
            return self._withdrawn()
        # Another thread may have taken it back meanwhile, and be about to say so here.
        return self._taken_back and self._withdrawn()

    def _over(self) -> None:
        """It is not sent any more."""
        try:
            # What is there no more is nothing to look at for the garbage collector.
            del self._withdrawer, self._record, self._needs, self._number
        except AttributeError:
            # It was over before, or its put was not heard of. (`suppress` would take longer.)
            return

    def _retried(self) -> bool:
        """The task waits for another try. False if it is not wanted any more."""
        with self._condition:
            if self._state not in (PENDING, RUNNING):
                return False
            self._state = PENDING
            self._attempts += 1
            return True

    def _withdrawn(self) -> bool:
        """The task will never run: wake whoever waits. Several threads may find that out."""
        self._over()
        with self._condition:
            # One that ran is back in the queue since its worker died, and was taken from there.
            cancels = self._state in (PENDING, RUNNING)
            if cancels:
                self._state = CANCELLED
                self._condition.notify_all()
            elif self._state == FINISHED:
                return False
        if cancels:
            self._invoke_callbacks()  # type: ignore[attr-defined]
        with self._condition:
            if self._state == CANCELLED:
                self.set_running_or_notify_cancel()
        return True

    def _Future__get_result(self) -> Any:
        # Before Python 3.14 the base class takes an error that is false for none.
        try:
            if self._exception is not None:
                raise self._exception
            return self._result
        finally:
            # A traceback's frames must not refer back to the future.
            self = None  # type: ignore[assignment]


def cancel_many(futures: Iterable[TaskFuture[Any]]) -> None:
    """As `cancel` of each, but the server is asked of all at once: while it is asked of each one,
    workers would take half of the others. What a worker holds and does not begin soon comes back,
    and is cancelled, too."""
    ids: dict[Withdrawer, list[bytes]] = {}
    for future in futures:
        withdrawer = future._withdrawer
        if withdrawer is not None and future._state == PENDING:
            ids.setdefault(withdrawer, []).append(future._task_id)
    for withdrawer, task_ids in ids.items():
        for future in withdrawer.withdraw_many(task_ids):
            future._withdrawn()


for _name in vars(Future()):
    if _name not in ("_state", "_result", "_exception"):
        setattr(TaskFuture, _name, _Lazy(_name))

# Python keeps attributes without a dictionary for each future, which its garbage collector would
# have to look at as well, if the class's first one had them all.
_first: Any = object.__new__(TaskFuture)
for _name in (
    "_task_id",
    "_withdrawer",
    "_options",
    "_record",
    "_needs",
    "_number",
    "_head",
    "_result",
):
    setattr(_first, _name, None)
_first._state = PENDING
