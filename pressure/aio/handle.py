"""The asyncio side of a handle: which event loop it belongs to, and how it ends.

::

    PressureQueue ──> AsyncHandle ──> Pool <── timers, concluding tasks
                                       └────── guard <── the loop

When the handle is dropped, its pool signs off and closes all connections. If the event loop ends
before, it closes every async generator first, as `asyncio.run` has it: one of them is the pool's
guard, which does the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

from pressure.address import Address
from pressure.aio.link import AsyncLink
from pressure.aio.pool import Pool, Work
from pressure.core import Core
from pressure.protocol import Command

__all__ = ["AsyncHandle"]

T = TypeVar("T")

_inherited: list[object] = []
"""What a forked child must not clean up: it would disturb its parent's event loop."""
_guards: dict[Pool, AsyncGenerator[None, None]] = {}


class AsyncHandle:
    """The connections of one handle, on the event loop of its first use while that is open."""

    def __init__(self, core: Core[AsyncLink], address: Address) -> None:
        self.core = core
        self.address = address.for_queue(core.protocol.keys.base)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pool: Pool | None = None
        self._finalizer: weakref.finalize[[Pool], AsyncHandle] | None = None

    @property
    def pool(self) -> Pool:
        """The connections on the running loop. Raises `RuntimeError` on another one."""
        loop = asyncio.get_running_loop()
        pool = self._pool
        if loop is self._loop and pool is not None and not pool.renewer.forked:
            return pool
        return self._bind(loop)

    def _bind(self, loop: asyncio.AbstractEventLoop) -> Pool:
        if self._pool is not None and self._loop is not None:
            if self._pool.renewer.forked:
                _inherited.append((self._pool, _guards.pop(self._pool, None)))
                self.core.forget_processes()
            elif not self._loop.is_closed():
                raise RuntimeError(
                    f"this handle to the queue {self.core.name!r} belongs to another event loop; "
                    "make one for each loop (and so for each thread)"
                )
        self._loop = loop
        pool = self._pool = Pool(self.core, self.address)
        for old in [old for old in _guards if old.loop.is_closed()]:
            del _guards[old]
        guard = _guards[pool] = _guard(pool)
        _start(guard.__anext__())
        if self._finalizer is not None:
            self._finalizer.detach()
        self._finalizer = weakref.finalize(self, _release, pool)
        self._finalizer.atexit = False
        return pool

    async def call(self, work: Work[T]) -> T:
        """Run a flow that needs no particular session."""
        return await self.pool.call(work)

    async def ask(self, command: Command) -> Any:
        """Send one command."""
        return await self.pool.ask(command)

    async def disconnect(self) -> None:
        """Sign off and close all idle connections. The handle can still be used."""
        if self._pool is not None:
            await self.pool.disconnect()


async def _guard(pool: Pool) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        pool.over = True
        await pool.disconnect()


def _release(pool: Pool) -> None:
    """The handle is gone: have its loop close the connections. Called from any thread."""
    if not pool.renewer.forked:
        with contextlib.suppress(RuntimeError):
            pool.loop.call_soon_threadsafe(pool.close, lambda: _guards.pop(pool, None))


def _start(step: Coroutine[Any, Any, None]) -> None:
    """Run an async generator to its first yield, which it reaches without waiting."""
    try:
        step.send(None)
    except StopIteration:
        return
    raise AssertionError("it should not have waited")
