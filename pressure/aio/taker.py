"""Items from the server to a task: at once, ahead of need, or on lease."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

from pressure import items, upkeep
from pressure.aio.errors import QueueClosedError, QueueEmptyError, for_asyncio
from pressure.aio.handle import AsyncHandle
from pressure.aio.lease import AsyncLease
from pressure.aio.link import AsyncLink
from pressure.items import Fetched, Gathered
from pressure.pace import Pace
from pressure.requests import Flow
from pressure.session import Session

__all__ = ["AsyncTaker", "QueueIterator"]

T = TypeVar("T")


class AsyncTaker(Generic[T]):
    """Takes items for the tasks that use one handle.

    Deadlines are `time.monotonic` values; None waits for ever, 0 not at all. All methods raise
    `QueueEmptyError` at their deadline, `QueueClosedError` once the queue is closed and drained,
    `QueueDoesNotExistError`, and `PayloadError` for an item that can't be read. What is taken for a
    task that is cancelled is given back.
    """

    def __init__(self, handle: AsyncHandle, pace: Pace) -> None:
        self._handle = handle
        self._pace = pace

    async def get(self, until: float | None) -> T:
        """The oldest item."""
        return (await self._get(1, until, count=1))[0]

    async def get_ahead(self) -> T:
        """The oldest item; more are fetched while the caller is quick."""
        return (await self._get(1, None, count=self._pace.next_count(), ahead=True))[0]

    async def get_many(self, until: float | None, count: int) -> list[T]:
        """The oldest item, and what else is there, up to `count`."""
        return await self._get(count, until, count=count)

    async def _get(
        self, most: int, until: float | None, *, count: int = 1, ahead: bool = False
    ) -> list[T]:
        """Up to `most` items; takes `count` if none were fetched before."""
        core, pool = self._handle.core, self._handle.pool

        async def gather(slots: asyncio.Semaphore, count: int) -> Gathered:
            return await pool.call(
                lambda session: items.gather(core, session, most, until, count=count, ahead=ahead),
                until,
                slots=slots,
                taking=True,
                commit=self._hand_out,
                undo=self._hand_back,
            )

        found = Gathered([])
        with for_asyncio():
            if core.buffer and until != 0.0:
                # What is here already does not have to wait for those who wait. When it is our turn
                # it may be gone: the next is not waited for among those who don't wait.
                found = await gather(pool.asking, 0)
            if not found.items:
                found = await gather(pool.asking if until == 0.0 else pool.getting, count)
        if not found.items:
            raise QueueEmptyError(core.name)
        return [obj for _, obj in found.items]

    def _hand_out(self, session: Session[AsyncLink], found: Gathered) -> None:
        for one, _ in found.items:
            one.session.pending.append(one.mark)
            self._handle.core.moved(one)
        if found.ahead:
            self._pace.fetched()

    def _hand_back(self, session: Session[AsyncLink], found: Gathered) -> Flow[None]:
        core = self._handle.core
        left = [one for one, _ in found.items]
        try:
            while left:
                # The newest first, so that the oldest ends up at the very head.
                one = left[-1]
                yield from upkeep.hand_back(core, one.session, one.tag, ahead=one.kind == "a")
                core.moved(left.pop())
        finally:
            for one in left:
                # Their sessions find them when they are next looked after.
                one.session.stale = True
                core.moved(one)

    async def lease(self, until: float | None) -> AsyncLease[T]:
        """The oldest item, on lease."""
        core, pool = self._handle.core, self._handle.pool
        lease: list[AsyncLease[T]] = []

        def commit(session: Session[AsyncLink], fetched: Fetched | None) -> None:
            if fetched is not None and fetched.obj is not items.SKIPPED:
                session.leased[fetched.tag] += 1
                lease.append(
                    AsyncLease(self._handle, session, fetched.tag, fetched.obj, fetched.deliveries)
                )

        def undo(session: Session[AsyncLink], fetched: Fetched | None) -> Flow[None]:
            if fetched is not None and fetched.obj is not items.SKIPPED:
                yield from upkeep.hand_back(core, session, fetched.tag, ahead=fetched.kind == "a")

        if core.has_ahead:
            # It is older than what is in the queue.
            with for_asyncio():
                await pool.give_back_ahead(until)
        while not lease:
            with for_asyncio():
                fetched = await pool.call(
                    lambda session: items.fetch(core, session, 1, until, ahead=False),
                    until,
                    slots=pool.getting,
                    taking=True,
                    commit=commit,
                    undo=undo,
                )
            if fetched is None:
                raise QueueEmptyError(core.name)
        return lease[0]


class QueueIterator(Generic[T]):
    """What `async for item in queue` runs."""

    def __init__(self, queue: object, taker: AsyncTaker[T]) -> None:
        # The queue is released when nobody has it any more.
        self._queue = queue
        self._taker = taker

    def __aiter__(self) -> QueueIterator[T]:
        return self

    async def __anext__(self) -> T:
        try:
            return await self._taker.get_ahead()
        except QueueClosedError:
            raise StopAsyncIteration from None
