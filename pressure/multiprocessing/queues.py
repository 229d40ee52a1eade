"""`Queue`, `JoinableQueue` and `SimpleQueue` with the standard library's contracts, on a server.

Only what differs from `multiprocessing`'s own is said here. A handle may be pickled at any time and
sent anywhere: it says where the queue is, without credentials. It may be used in forked children.
What cannot be pickled raises in `put`. `name` and `url` share a queue with processes, also on other
machines, that inherit nothing: whoever comes first creates it, and it lives until it is deleted;
a `pressure.PressureQueue` of that name is the same queue. Without a name the queue is gone when its
creator is. Without a `url` (or `PRESSURE_URL`) it lives on an embedded server that all processes of
the tree share. `ctx` is for programs that give one to `multiprocessing.queues.Queue`, and has no
effect.

What cannot be unpickled raises `pressure.PayloadError` in `get`, whose `__cause__` is the object's
own exception; the item is dropped, and does not count as unfinished: `task_done` is not to be
called for it. What a consumer had got and not acknowledged when it was ended by force (`terminate`,
`kill`, `os._exit`), or had fetched ahead, comes back once its lease has run out, after 15 s at
most; until then others find the queue empty, though `qsize` counts what was fetched ahead. One that
returns, raises, or ends by `sys.exit` gives it back at once.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
import weakref
from queue import Empty, Full
from typing import TYPE_CHECKING, Any, Generic

from pressure import lifecycle
from pressure.arguments import lenient_deadline
from pressure.errors import (
    QueueClosedError,
    QueueDoesNotExistError,
    QueueEmptyError,
    ServerUnavailableError,
)
from pressure.executor.context import before_outcomes
from pressure.multiprocessing import caretaker
from pressure.multiprocessing.location import Location
from pressure.multiprocessing.producer import Producer
from pressure.multiprocessing.remote import Remote

if TYPE_CHECKING:
    # Type checkers bring it along.
    from typing_extensions import TypeVar

    # As the standard library's, `Queue()` needs no annotation.
    T = TypeVar("T", default=Any)
else:
    from typing import TypeVar

    T = TypeVar("T")

__all__ = ["JoinableQueue", "Queue", "SimpleQueue"]

PATIENCE = 1.0
"""For so long (seconds), or little more, outcomes of tasks wait for queues whose server is away."""
RESPITE = 5.0
"""For so long (seconds) after that they don't wait again."""
_GONE = (QueueDoesNotExistError, QueueClosedError, ServerUnavailableError)
"""How a call fails whose queue was deleted, or whose server has ended."""


_producers: weakref.WeakSet[Producer] = weakref.WeakSet()


class _Handle(Generic[T]):
    """What the three have in common: the queue at the server, and how it gets elsewhere."""

    def __init__(self, maxsize: int, name: str | None, url: str | None) -> None:
        self._open(Remote.make(maxsize, name, url), maxsize)

    def _open(self, remote: Remote, maxsize: int) -> None:
        self._remote = remote
        self._maxsize = maxsize
        self._closed = False

    def __getstate__(self) -> tuple[Location, int]:
        return self._remote.shared(), self._maxsize

    def __setstate__(self, state: tuple[Location, int]) -> None:
        where, maxsize = state
        self._open(Remote.at(where), maxsize)

    @property
    def name(self) -> str:
        """The queue's name, for `name=` elsewhere."""
        return self._remote.where.name

    def delete(self) -> None:
        """Delete the queue for everybody, with all that is in it."""
        self._remote.call(lifecycle.delete(self._remote.core))
        self._remote.handle.forget_queue()


class Queue(_Handle[T]):
    """As `multiprocessing.Queue`. An unbounded queue's `put` never waits for the server to come
    back; a bounded one's returns when the item has its place there.

    Who gets in quick succession fetches several items at once; what isn't used within about 100 ms
    goes back to the head. So one of several consumers may see an older item after a newer one.
    """

    _exact = False
    _reserves = True

    def __init__(
        self,
        maxsize: int = 0,
        *,
        ctx: object = None,
        name: str | None = None,
        url: str | None = None,
    ) -> None:
        super().__init__(maxsize, name, url)

    def _open(self, remote: Remote, maxsize: int) -> None:
        super()._open(remote, maxsize)
        exact = self._exact or remote.bound > 0
        self._serialize = remote.core.serialize
        self._producer = Producer(remote, exact=exact, reserves=exact and self._reserves)
        finalizer = weakref.finalize(self, self._producer.abandon)
        finalizer.atexit = False
        # At last: any thread may fork at any time.
        _producers.add(self._producer)

    def put(self, obj: T, block: bool = True, timeout: float | None = None) -> None:
        """As `multiprocessing.Queue.put`; raises what pickling raises, and then nothing was put."""
        if self._closed:
            raise ValueError(f"Queue {self!r} is closed")
        until = lenient_deadline(block, timeout)
        try:
            accepted = self._producer.put(self._serialize(obj), until)
        except _GONE:
            if self._remote.caretaker.outwaits(until):
                raise Full from None
            raise
        if not accepted:
            raise Full

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """As `multiprocessing.Queue.get`."""
        if self._closed:
            raise ValueError(f"Queue {self!r} is closed")
        until = lenient_deadline(block, timeout)
        if until is not None:
            # What this process has put is there.
            self._producer.settle()
        try:
            item: T = self._remote.get(until)
        except QueueEmptyError:
            raise Empty from None
        except _GONE:
            if self._remote.caretaker.outwaits(until):
                raise Empty from None
            raise
        return item

    def put_nowait(self, obj: T) -> None:
        self.put(obj, False)

    def get_nowait(self) -> T:
        return self.get(False)

    def qsize(self) -> int:
        """How many items are in the queue; what this process has buffered counts. What another has
        buffered, for some milliseconds, does not."""
        return self._producer.counted(lambda buffered: self._remote.size().length + buffered)

    def empty(self) -> bool:
        if self._closed and self._producer.used:
            raise OSError("handle is closed")
        return self._producer.counted(
            lambda buffered: buffered == 0 and self._remote.size(1).length == 0
        )

    def full(self) -> bool:
        bound = self._remote.bound
        if not bound:
            return False
        self._producer.settle()
        return self._producer.counted(
            lambda buffered: self._remote.size(bound - buffered).length + buffered >= bound
        )

    def close(self) -> None:
        """This handle is not used any more. What it has buffered is still sent."""
        if not self._closed:
            self._closed = True
            self._producer.close()

    def join_thread(self) -> None:
        """Wait until all is sent that was put. The handle must be closed."""
        assert self._closed, f"Queue {self!r} not closed"
        self._producer.join()

    def cancel_join_thread(self) -> None:
        """Don't wait at exit until all is sent: it may be lost."""
        self._producer.accept_loss()


class JoinableQueue(Queue[T]):
    """As `multiprocessing.JoinableQueue`. A consumer that dies doesn't hold `join` up."""

    _exact = True
    _reserves = False

    def _open(self, remote: Remote, maxsize: int) -> None:
        super()._open(remote, maxsize)
        remote.counts_done = True
        # Each item is finished by itself.
        remote.core.bundles = False

    def task_done(self) -> None:
        """Raises `ValueError` if called more often than items were got."""
        remote = self._remote
        remote.handle.flush_idle()
        counted = remote.handle.call_over(lambda session: lifecycle.task_done(remote.core, session))
        if not counted and not remote.core.may_count_twice:
            raise ValueError("task_done() called too many times")

    def join(self) -> None:
        """Wait until every item is done, whoever got it."""
        try:
            self._remote.call(lifecycle.join(self._remote.core, None))
        except _GONE:
            self._remote.caretaker.outwaits(None)
            raise


class SimpleQueue(_Handle[T]):
    """As `multiprocessing.SimpleQueue`: nothing is buffered."""

    def __new__(cls, *args: Any, **options: Any) -> Any:
        # `ProcessPoolExecutor(mp_context=pressure.multiprocessing)` makes one, and waits for what
        # comes at the pipe inside.
        caller = sys._getframe(1).f_globals.get("__name__")
        if cls is SimpleQueue and not options and caller == "concurrent.futures.process":
            return multiprocessing.SimpleQueue()
        return super().__new__(cls)

    def __init__(
        self, *, ctx: object = None, name: str | None = None, url: str | None = None
    ) -> None:
        super().__init__(0, name, url)

    def put(self, obj: T) -> None:
        self._check_open()
        try:
            self._remote.put(self._remote.core.serialize(obj), None)
        except _GONE:
            self._remote.caretaker.outwaits(None)
            raise

    def get(self) -> T:
        self._check_open()
        try:
            item: T = self._remote.get(None)
        except _GONE:
            self._remote.caretaker.outwaits(None)
            raise
        return item

    def empty(self) -> bool:
        self._check_open()
        return self._remote.size(1).length == 0

    def close(self) -> None:
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise OSError(f"{type(self).__name__} is closed")


_flush_at = 0.0


def _flush() -> None:
    """What tasks have put is at the server when their outcomes are, and what they got is
    acknowledged: whoever has the outcomes may end the pool, and so kill this process. What can't be
    done in time is left to the threads in the background, as is all for a while after that."""
    global _flush_at
    now = time.monotonic()
    if caretaker.on_duty and now >= _flush_at:
        until = now + PATIENCE
        for producer in list(_producers):
            producer.flush(until)
        for one in list(caretaker.on_duty):
            one.flush(until)
        if time.monotonic() >= until:
            _flush_at = time.monotonic() + RESPITE


def _after_fork() -> None:
    for producer in list(_producers):
        producer.reset()


before_outcomes.append(_flush)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
