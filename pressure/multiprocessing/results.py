"""What a pool's asynchronous methods return.

The outcomes come from the executor's listener thread, which also runs the callbacks, so these must
not block. A result keeps its pool alive until it is complete.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing import TimeoutError
from types import GenericAlias
from typing import Any, Generic, TypeVar

from pressure.multiprocessing.calls import Outcome

__all__ = [
    "AsyncResult",
    "ErrorCallback",
    "IMapIterator",
    "IMapUnorderedIterator",
    "Job",
    "MapResult",
]

log = logging.getLogger("pressure.multiprocessing")

T = TypeVar("T")
ErrorCallback = Callable[[BaseException], object] | None


class Job(ABC):
    """Several calls, or one, and whoever waits for them."""

    def __init__(self, pool: object, forget: Callable[[Job], None]) -> None:
        self._pool: object | None = pool
        self._forget: Callable[[Job], None] | None = forget

    @abstractmethod
    def put(self, index: int, outcome: Outcome) -> None:
        """The outcome of call `index`."""

    @abstractmethod
    def abandon(self, error: BaseException) -> None:
        """No more outcomes will come: whoever waits gets the error. No callback is called."""

    def _complete(self) -> None:
        forget, self._forget, self._pool = self._forget, None, None
        if forget is not None:
            forget(self)


class AsyncResult(Job, Generic[T]):
    """As `multiprocessing.pool.AsyncResult`, which is what `Pool.apply_async` returns.

    After `Pool.terminate` a result that had not come is `CancelledError`; the standard library's
    would never come.
    """

    def __init__(
        self,
        pool: object,
        forget: Callable[[Job], None],
        callback: Callable[[T], object] | None = None,
        error_callback: ErrorCallback = None,
    ) -> None:
        super().__init__(pool, forget)
        # Reentrant, as a condition needs it to wake with the lock held even if Ctrl-C comes.
        self._lock = threading.RLock()
        self._settled = False
        self._ready = False
        # Made when somebody waits: most look when it is done. Not an event, which can be left
        # locked by Ctrl-C, for whoever sets it.
        self._change: threading.Condition | None = None
        self._outcome: Outcome = (False, None)
        self._callbacks: tuple[Callable[[Any], object] | None, ErrorCallback]
        self._callbacks = callback, error_callback

    # Not `Generic`'s, for the standard library has this.
    __class_getitem__: Any = classmethod(GenericAlias)

    def ready(self) -> bool:
        """Whether the call is over, and its callback, too."""
        return self._ready

    def successful(self) -> bool:
        """Whether the call raised nothing. Raises `ValueError` if it isn't ready."""
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._outcome[0]

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the result is there, for `timeout` seconds at most."""
        with self._lock:
            if self._ready:
                return
            change = self._change = self._change or threading.Condition(self._lock)
            change.wait_for(self.ready, timeout)

    def get(self, timeout: float | None = None) -> T:
        """The result, or what the call raised. Raises `multiprocessing.TimeoutError` if it isn't
        there within `timeout` seconds."""
        self.wait(timeout)
        if not self.ready():
            raise TimeoutError
        success, value = self._outcome
        if success:
            result: T = value
            return result
        raise value

    def put(self, index: int, outcome: Outcome) -> None:
        self._settle(outcome, call_back=True)

    def abandon(self, error: BaseException) -> None:
        self._settle((False, error), call_back=False)

    def _settle(self, outcome: Outcome, *, call_back: bool) -> None:
        with self._lock:
            if self._settled:
                return
            self._settled = True
        self._outcome = outcome
        callback = self._callbacks[0 if outcome[0] else 1]
        self._callbacks = None, None
        try:
            if call_back and callback is not None:
                callback(outcome[1])
        except Exception:
            log.exception("a callback of a pool failed")
        finally:
            with self._lock:
                self._ready = True
                if self._change is not None:
                    self._change.notify_all()
            self._complete()


class MapResult(AsyncResult[list[T]]):
    """The result of `map_async`: complete when all chunks are, whether they failed or not."""

    def __init__(
        self,
        pool: object,
        forget: Callable[[Job], None],
        chunks: int,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: ErrorCallback = None,
    ) -> None:
        super().__init__(pool, forget, callback, error_callback)
        self._left = chunks
        self._chunks: list[list[Any]] = [[] for _ in range(chunks)]
        self._error: BaseException | None = None
        if not chunks:
            # As in the standard library no callback is called for nothing.
            self._settle((True, []), call_back=False)

    def put(self, index: int, outcome: Outcome, chunks: int = 1) -> None:
        """The outcome of chunk `index` or, if there won't be any others, of `chunks` of them."""
        success, value = outcome
        with self._lock:
            self._left -= chunks
            if success:
                self._chunks[index] = value
            elif self._error is None:
                self._error = value
            if self._left > 0 or self._settled:
                return
            results, self._chunks = self._chunks, []
        if self._error is not None:
            self._settle((False, self._error), call_back=True)
        else:
            self._settle((True, [item for chunk in results for item in chunk]), call_back=True)

    def abandon(self, error: BaseException) -> None:
        self._chunks = []
        super().abandon(error)


class IMapIterator(Job, Iterator[T]):
    """The iterator of `imap`: results in order, each as soon as it and those before it are there.

    An exception of a call is raised at its place, and one of the iterable after the last call.
    """

    def __init__(self, pool: object, forget: Callable[[Job], None], *, ahead: int) -> None:
        super().__init__(pool, forget)
        # Callers take the lock itself: a condition's `with` is Python, and Ctrl-C in it would leave
        # the lock held.
        self._lock = threading.RLock()
        self._condition = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._ahead = ahead
        self._begun = 0
        self._done = 0
        self._length: int | None = None
        self._error: BaseException | None = None
        self._ready: deque[Outcome] = deque()
        self._current: deque[T] = deque()
        self._early: dict[int, Outcome] = {}
        self._turn = 0

    def __iter__(self) -> IMapIterator[T]:
        return self

    def __next__(self) -> T:
        return self.next()

    def next(self, timeout: float | None = None) -> T:
        """The next result. Raises `multiprocessing.TimeoutError` if it isn't there within `timeout`
        seconds, and `StopIteration` at the end."""
        with self._lock:
            while not self._current:
                if not self._ready and not self._is_over():
                    self._condition.wait_for(lambda: self._ready or self._is_over(), timeout)
                if self._ready:
                    success, value = self._ready.popleft()
                    if not success:
                        raise value
                    self._current.extend(value)
                elif self._is_over():
                    if self._error is None:
                        raise StopIteration
                    error, self._error = self._error, None
                    raise error
                else:
                    raise TimeoutError
            return self._current.popleft()

    def _is_over(self) -> bool:
        return self._done == self._length

    def wait_for_room(self) -> bool:
        """Wait, before one more call begins, until few enough are under way. False: stop."""
        with self._lock:
            if self._begun - self._done >= self._ahead:
                # For much room: to be woken for each call would cost more than the call.
                self._room.wait_for(
                    lambda: self._begun - self._done <= self._ahead // 2 or self._length is not None
                )
            self._begun += 1
            return self._length is None

    def end(self, length: int, error: BaseException | None) -> None:
        """There are `length` calls, after which the iterable ended or raised `error`."""
        with self._lock:
            if self._length is not None:
                return
            self._length = length
            self._error = error
            over = self._is_over()
            self._condition.notify_all()
        if over:
            self._complete()

    def put(self, index: int, outcome: Outcome) -> None:
        with self._lock:
            if self._done == self._length:
                return
            self._done += 1
            self._sort_in(index, outcome)
            over = self._is_over()
            if over or self._ready:
                self._condition.notify_all()
            if self._begun - self._done == self._ahead // 2:
                self._room.notify_all()
        if over:
            self._complete()

    def _sort_in(self, index: int, outcome: Outcome) -> None:
        self._early[index] = outcome
        while (outcome_in_turn := self._early.pop(self._turn, None)) is not None:
            self._ready.append(outcome_in_turn)
            self._turn += 1

    def abandon(self, error: BaseException) -> None:
        with self._lock:
            if self._is_over():
                return
            self._length = self._done
            self._error = error
            self._condition.notify_all()
            self._room.notify_all()
        self._complete()


class IMapUnorderedIterator(IMapIterator[T]):
    """The iterator of `imap_unordered`: results as they come."""

    def _sort_in(self, index: int, outcome: Outcome) -> None:
        self._ready.append(outcome)
