"""What concerns a queue as a whole, for asyncio: its life, its size, who may use it."""

from __future__ import annotations

import asyncio
import contextlib
import time
import warnings
from typing import Any, TypeVar

from pressure import errors, flows, lifecycle
from pressure.aio.errors import for_asyncio
from pressure.aio.handle import AsyncHandle
from pressure.aio.letters import AsyncDeadLetters
from pressure.aio.link import AsyncLink
from pressure.arguments import checked_bound, usable_bound
from pressure.core import Core
from pressure.errors import QueueDoesNotExistError
from pressure.protocol import Command, Status
from pressure.requests import Flow
from pressure.stats import QueueStats, parse_stats

__all__ = ["AsyncQueueControl"]

R = TypeVar("R")


class AsyncQueueControl:
    """The part of `pressure.aio.queue.PressureQueue` that handles no items."""

    def __init__(self, core: Core[AsyncLink], handle: AsyncHandle) -> None:
        self._core = core
        self._handle = handle

    @property
    def name(self) -> str:
        return self._core.name

    @property
    def dead_letters(self) -> AsyncDeadLetters:
        """What could not be delivered or read, and why: `async for` (the newest first;
        `DeadLetter`s), `count`, `replay` to put them back into the queue, `purge` to drop them."""
        return AsyncDeadLetters(self._handle)

    # The queue's life

    async def create(self, bound: int | None = None) -> None:
        """Make the queue. At most `bound` items may be in it; None or 0: no limit.

        Raises `QueueAlreadyExistsError`; `TypeError` or `ValueError` for a bad bound.
        """
        limit = checked_bound(bound)
        await self._handle.call(lambda session: lifecycle.create(self._core, limit))

    async def exists(self) -> bool:
        """Whether the queue has been created and not deleted."""
        return bool(await self._handle.ask(Command(("EXISTS", self._core.protocol.keys.bound))))

    async def closed(self) -> bool:
        """Whether the queue is closed. Raises `QueueDoesNotExistError`."""
        return bool((await self._size())[2])

    async def close(self) -> None:
        """Close the queue for everybody: no more puts; gets go on until it is drained.

        Everybody who is blocked on it wakes. Raises `QueueClosedError` if it is closed already, and
        `QueueInUseError` if a client of protocol 0.15 doesn't return the producer role. To close
        only this handle there is `disconnect()`.
        """
        with for_asyncio():
            await self._handle.call(lambda session: self._described(lifecycle.close(self._core)))

    async def pause(self) -> None:
        """Have gets hand out nothing until `resume`, whoever calls and whoever restarts.

        To those who get, the queue looks empty; puts go on. See `pressure.PressureQueue.pause`.
        """
        await self._handle.call(lambda session: lifecycle.pause(self._core))

    async def resume(self) -> None:
        """End a pause, and wake those who wait. Raises `QueueDoesNotExistError`."""
        await self._handle.call(lambda session: lifecycle.resume(self._core))

    async def paused(self) -> bool:
        """Whether the queue is paused. Raises `QueueDoesNotExistError`."""
        return (await self.stats()).paused_at is not None

    async def shutdown(self, immediate: bool = False) -> None:
        """As `asyncio.Queue.shutdown` (Python 3.13): `close`, but calling it again does no harm.

        With `immediate`, what is queued is dropped and no longer counts as unfinished.
        """
        with contextlib.suppress(errors.QueueClosedError):
            await self.close()
        if immediate:
            await self.purge()

    async def delete(self) -> None:
        """Delete the queue and all its data. Everybody who is blocked on it wakes.

        Raises `QueueDoesNotExistError`.
        """
        returned = await self._handle.call(lambda session: lifecycle.delete(self._core))
        self._handle.pool.forget_queue()
        if not returned:
            warnings.warn(
                f"queue {self.name!r}: deleted, though a client of protocol 0.15 had not returned "
                "its role",
                RuntimeWarning,
                stacklevel=2,
            )

    async def purge(self) -> int:
        """Drop all that is queued, which then no longer counts as unfinished; returns how many.

        What consumers hold stays theirs. Raises `QueueDoesNotExistError`.
        """
        await self._handle.pool.give_back_ahead()
        dropped: int = (await self._ask(self._core.protocol.drain()))[1]
        return dropped

    # Looking

    async def qsize(self) -> int:
        """How many items are in the queue now. Raises `QueueDoesNotExistError`."""
        length: int = (await self._size())[0]
        return length

    async def empty(self) -> bool:
        """Whether the queue is empty now; that may change at once."""
        return await self.qsize() == 0

    async def full(self) -> bool:
        """Whether the bound is reached now."""
        length, bound, *_ = await self._size()
        return bool(0 < bound <= length)

    async def maxsize(self) -> int:
        """The bound; 0: none."""
        bound = usable_bound((await self._size())[1], self._core.protocol.keys.bound)
        return bound

    async def set_maxsize(self, bound: int) -> None:
        """Change the bound, for everybody; what exceeds it stays."""
        await self._ask(self._core.protocol.set_bound(checked_bound(bound)))

    async def stats(self) -> QueueStats:
        """Counters, sizes and the last clients, at one instant."""
        return parse_stats(self._core, await self._ask(self._core.protocol.stats()))

    async def break_role(self, role: str) -> str:
        """Free the `"producer"` or `"consumer"` role of a client of protocol 0.15 that died.

        Returns the name of the client that held it; empty if nobody did.
        """
        if role not in ("producer", "consumer"):
            raise ValueError(f"a role is 'producer' or 'consumer', not {role!r}")
        return await self._handle.call(lambda session: lifecycle.break_role(self._core, role))

    async def _size(self) -> Any:
        lagging = [one for one in self._core.sessions if one.lags]
        if lagging:
            await self._handle.pool.flush()
            # Another task may be just saying so; what it says later is about something later.
            under_way = [(one, one.acknowledging) for one in lagging if one.acknowledging]
            until = time.monotonic() + lifecycle.SETTLING
            while any(one.acknowledging is acks for one, acks in under_way):
                if time.monotonic() >= until:
                    break
                await asyncio.sleep(lifecycle.LOOK_AGAIN)
        return (await self._ask(self._core.protocol.size()))[1:]

    async def _ask(self, command: Command) -> Any:
        reply = await self._handle.ask(command)
        if reply[0] == Status.ABSENT:
            raise QueueDoesNotExistError(self.name)
        return reply

    def _described(self, flow: Flow[R]) -> Flow[R]:
        if not self._core.generation:
            yield from flows.describe(self._core)
        return (yield from flow)
