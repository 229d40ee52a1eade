"""`PressureQueue` for asyncio: `asyncio.Queue`'s interface, and the same queues on the server.

A queue is one and the same whether it is used from here, from `pressure.PressureQueue`, or by a
client in another language: the rules are stated once, in `pressure.flows`, and run by both.

The one deviation from `asyncio.Queue`: since the queue is on a server, everything that looks at it
is a coroutine, also `put_nowait`, `get_nowait`, `qsize`, `empty`, `full`, `task_done` and
`shutdown`. ("nowait" means that they don't wait for room or for an item.)
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from types import TracebackType
from typing import Any, Generic, TypeVar

from pressure import errors, lifecycle, putting, reading
from pressure.address import Address, Client
from pressure.aio.batches import batches
from pressure.aio.control import AsyncQueueControl
from pressure.aio.errors import QueueClosedError, QueueEmptyError, QueueFullError, for_asyncio
from pressure.aio.handle import AsyncHandle
from pressure.aio.lease import AsyncLease, Leasing
from pressure.aio.letters import AsyncDeadLetters
from pressure.aio.link import AsyncLink
from pressure.aio.pool import FAREWELL
from pressure.aio.taker import AsyncTaker, QueueIterator
from pressure.arguments import checked_count, deadline, put_deadline
from pressure.core import NOT_PICKLED, Core
from pressure.credentials import given_settings, resolve_keys
from pressure.errors import PressureError
from pressure.keys import resolve_prefix, validate_name
from pressure.pace import Pace
from pressure.serializers import Serializer, serializer_for
from pressure.settings import Settings

__all__ = [
    "AsyncDeadLetters",
    "AsyncLease",
    "PressureQueue",
    "QueueClosedError",
    "QueueEmptyError",
    "QueueFullError",
]

T = TypeVar("T")
R = TypeVar("R")


class PressureQueue(AsyncQueueControl, Generic[T]):
    """A handle to the queue `name`, for use on one event loop.

    Args:
        name, url, prefix, codec, key, min_replicas, settings: as for `pressure.PressureQueue`.
        client: a `redis.asyncio.Redis` or `RedisCluster` of your own (or its blocking twin),
            instead of a url.

    The handle belongs to the event loop of its first use, until that loop is closed; any number of
    tasks may use it. `async with q:` or `await q.disconnect()` releases its connections, and so
    does the end of `asyncio.run`.

    *Cancellation.* A cancelled `get` loses nothing and takes nothing: an item that had already been
    sent is back at the head of the queue in a moment, also if nobody calls again. A cancelled `put`
    waits up to a second for the server's answer before it raises `CancelledError`; when it does,
    the item is in the queue or never will be. Mostly it is not: it waited for room. All operations
    work with `asyncio.timeout`, `asyncio.wait_for` and task groups.

    Acknowledgements and leases: see `get` and `lease` of `pressure.PressureQueue`. Leases are
    renewed by a thread, so that code which holds up the event loop doesn't lose them; but
    acknowledgements of `get` are sent by the event loop.
    """

    def __init__(
        self,
        name: str,
        *,
        url: str | None = None,
        client: Client | None = None,
        prefix: str | None = None,
        codec: str | Serializer = "pickle",
        key: bytes | str | Iterable[bytes | str] | None = None,
        min_replicas: int | None = None,
        settings: Settings | None = None,
    ) -> None:
        validate_name(name)
        serializer = serializer_for(codec)
        address = Address.of(url, client)
        settings = given_settings(settings).placed(name, address, min_replicas)
        if serializer is not None:
            settings = resolve_keys(settings, key, address)
        core: Core[AsyncLink] = Core(name, resolve_prefix(prefix), serializer, settings)
        super().__init__(core, AsyncHandle(core, address))
        self._pace = Pace()
        self._taker: AsyncTaker[T] = AsyncTaker(self._handle, self._pace)

    # Putting

    async def put(self, item: T, timeout: float | None = None) -> None:
        """Put an item; returns once the server has accepted it.

        `timeout` is in seconds; None waits for ever. Raises `QueueFullError` (an
        `asyncio.QueueFull`), `QueueClosedError` (an `asyncio.QueueShutDown`),
        `QueueDoesNotExistError`, `ItemTooLargeError`, or what pickling raises: then nothing was
        put. If the server stays away in the middle: `OutcomeUnknownError`.
        """
        await self._put(item, await self._put_until(timeout), "")

    async def put_nowait(self, item: T) -> None:
        """Put an item if there is room now, else raise `QueueFullError`."""
        await self._put(item, 0.0, "")

    async def overfill(self, item: T) -> None:
        """Put an item even if the queue is full."""
        await self._put(item, 0.0, "overfill")

    async def put_many(
        self, iterable: Iterable[T] | AsyncIterable[T], timeout: float | None = None
    ) -> int:
        """Put all items of a plain or asynchronous iterable, many at a time; returns how many.

        It streams: the iterable may be endless, and the bound is honoured. When `timeout` (for the
        whole call) runs out, or the queue is closed, the error's `accepted` says how many were put.
        If the iterable raises, what it gave before is put. What it gives gathers while it is quick,
        so it must not wait for an answer to what it has just given: use `put` for that.
        """
        until = await self._put_until(timeout)
        accepted = 0
        async with contextlib.aclosing(
            batches(self._pace, iterable, self._core.serialize)  # type: ignore[type-var]
        ) as groups:
            async for batch, failure in groups:
                try:
                    accepted += await self._put_bodies(batch, until, "")
                except PressureError as exc:
                    exc.accepted += accepted
                    raise
                if failure is not None:
                    if isinstance(failure, PressureError):
                        failure.accepted = accepted
                    raise failure
        return accepted

    async def _put_until(self, timeout: float | None) -> float | None:
        if timeout is None or not timeout < 0:
            return deadline(True, timeout)
        # What this handle knows of the bound may be out of date.
        return put_deadline(True, timeout, await self.maxsize())

    async def _put(self, item: T, until: float | None, mode: str) -> None:
        await self._put_bodies([self._core.serialize(item)], until, mode)

    async def _put_bodies(self, bodies: list[bytes], until: float | None, mode: str) -> int:
        pool = self._handle.pool
        with for_asyncio():
            accepted = await pool.call(
                lambda session: putting.put_bodies(self._core, session, bodies, until, mode),
                until,
                slots=pool.asking if until == 0.0 else pool.putting,
                verdict=FAREWELL,
            )
        if accepted < len(bodies):
            full = QueueFullError(self.name)
            full.accepted = accepted
            raise full
        return accepted

    # Getting

    async def get(self, timeout: float | None = None) -> T:
        """Take the oldest item.

        `timeout` is in seconds; None waits for ever. Raises `QueueEmptyError` (an
        `asyncio.QueueEmpty`), `QueueClosedError` (an `asyncio.QueueShutDown`) once the queue is
        closed and drained, `QueueDoesNotExistError`, or `PayloadError` for an item that can't be
        read, which is then in the dead-letter list. An item is acknowledged with the next call or
        within 50 ms; a crash before that delivers it once more.
        """
        return await self._taker.get(deadline(True, timeout))

    async def get_nowait(self) -> T:
        """Take the oldest item if there is one now, else raise `QueueEmptyError`."""
        return await self._taker.get(0.0)

    async def get_many(self, max_items: int, timeout: float | None = None) -> list[T]:
        """Wait for an item as `get` does, and take what else is there, up to `max_items`.

        If it is cancelled, all of them are given back.
        """
        return await self._taker.get_many(deadline(True, timeout), checked_count(max_items))

    def __aiter__(self) -> AsyncIterator[T]:
        """Get items until the queue is closed and drained.

        A fast consumer fetches several at a time, if nobody else waits for them; what is fetched
        and not used is given back within 100 ms.
        """
        return QueueIterator(self, self._taker)

    # Leases

    def lease(self, timeout: float | None = None) -> Leasing[T]:
        """Take the oldest item on lease: it is in the queue again unless it is acknowledged.

        ``async with q.lease(timeout=5) as item:`` acknowledges when the block succeeds and gives
        the item back when it raises; ``lease = await q.lease()`` leaves that to you. `timeout` is
        for the wait (seconds). The lease renews itself while this process lives. Raises as `get`
        does.
        """
        return Leasing(lambda: self._taker.lease(deadline(True, timeout)))

    # join

    async def task_done(self) -> None:
        """Say that an item that `get` returned is done, as `asyncio.Queue.task_done`.

        Raises `ValueError` if called more often than items were got, by all consumers together.
        """
        await self._handle.pool.flush()
        counted = await self._handle.call(lambda session: lifecycle.task_done(self._core, session))
        if not counted and not self._core.may_count_twice:
            raise ValueError("task_done() called too many times")

    async def join(self, timeout: float | None = None) -> None:
        """Wait until every item is done, whoever got it, as `asyncio.Queue.join`.

        A consumer that dies doesn't hold it up: what it had on lease comes back, and what it had
        got counts as done. Raises `TimeoutError` if `timeout` (seconds) is given and runs out.
        """
        until = deadline(True, timeout)
        pool = self._handle.pool
        finished = await pool.call(
            lambda session: lifecycle.join(self._core, until), until, slots=pool.joining
        )
        if not finished:
            raise TimeoutError(f"queue {self.name!r}: not finished within {timeout} s")

    async def unfinished_tasks(self) -> int:
        """How many items are queued, on lease, or got and not yet done."""
        return await self._handle.call(lambda session: lifecycle.unfinished(self._core))

    # Looking

    async def peek(self) -> T:
        """The oldest item, which stays where it is. Raises `QueueEmptyError`."""
        return await self._peek(-1)

    async def peek_reverse(self) -> T:
        """The newest item, which stays where it is. Raises `QueueEmptyError`."""
        return await self._peek(0)

    async def _peek(self, index: int) -> T:
        try:
            return await self._handle.call(lambda session: reading.peek(self._core, index))
        except errors.QueueEmptyError:
            raise QueueEmptyError(self.name) from None

    # This handle

    async def disconnect(self) -> None:
        """Release this handle's connections, and give back what it holds. The queue lives on.

        The handle can still be used: it connects again.
        """
        await self._handle.disconnect()

    async def __aenter__(self) -> PressureQueue[T]:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.disconnect()

    def __reduce__(self) -> Any:
        raise TypeError(NOT_PICKLED)

    def __repr__(self) -> str:
        return f"<PressureQueue {self.name!r} at {self._handle.address} (asyncio)>"
