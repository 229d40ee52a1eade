"""The dead-letter list, for asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from pressure.aio.handle import AsyncHandle
from pressure.letters import PAGE, DeadLetter, change_letters, parse_letter
from pressure.protocol import Command

__all__ = ["AsyncDeadLetters"]


class AsyncDeadLetters:
    """The dead letters of one queue, its `dead_letters`: iterate, count, replay, purge."""

    def __init__(self, handle: AsyncHandle) -> None:
        self._handle = handle

    async def __aiter__(self) -> AsyncIterator[DeadLetter]:
        """The newest first."""
        protocol = self._handle.core.protocol
        first = 0
        while True:
            page = await self._handle.ask(protocol.dead_letters(first, first + PAGE - 1))
            for letter in page:
                yield parse_letter(self._handle.core, letter)
            if len(page) < PAGE:
                return
            first += PAGE

    async def count(self) -> int:
        """How many there are."""
        keys = self._handle.core.protocol.keys
        return int(await self._handle.ask(Command(("LLEN", keys.dead_letters))))

    async def replay(self, ids: Iterable[str] | None = None) -> int:
        """Put these (None: all) back into the queue, as new; returns how many there were.

        Raises `QueueClosedError`; nothing is lost if the server goes away in the middle.
        """
        core = self._handle.core
        return await self._handle.call(
            lambda session: change_letters(core, core.protocol.replay, ids)
        )

    async def purge(self, ids: Iterable[str] | None = None) -> int:
        """Drop these (None: all) for good; returns how many there were."""
        core = self._handle.core
        return await self._handle.call(
            lambda session: change_letters(core, core.protocol.discard, ids)
        )
