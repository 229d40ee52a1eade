"""Items on lease, for asyncio: in the queue again unless they are acknowledged."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Generator
from types import TracebackType
from typing import Any, Generic, TypeVar

from pressure import upkeep
from pressure.aio.handle import AsyncHandle
from pressure.aio.link import AsyncLink
from pressure.errors import LeaseLostError
from pressure.session import Session

__all__ = ["AsyncLease", "Leasing"]

T = TypeVar("T")


class AsyncLease(Generic[T]):
    """An item and the duty to say what became of it.

    The lease renews itself while this process lives, even if its event loop is held up; if the
    process dies, the item is in the queue again after `lease` seconds.

    Attributes:
        item: what was put.
        deliveries: how often it was delivered before and not acknowledged.
    """

    __slots__ = ("_handle", "_life", "_session", "_tag", "deliveries", "item")

    def __init__(
        self,
        handle: AsyncHandle,
        session: Session[AsyncLink],
        tag: bytes,
        item: T,
        deliveries: int,
    ) -> None:
        self.item = item
        self.deliveries = deliveries
        self._handle = handle
        self._session = session
        self._life = session.life
        self._tag: bytes | None = tag

    @property
    def ended(self) -> bool:
        """Whether `ack` or `give_back` was called."""
        return self._tag is None

    async def ack(self) -> None:
        """Say that the item is done; it also counts as `task_done`.

        Raises `LeaseLostError` if the lease had run out, since then the item is in the queue again;
        and if `ack` or `give_back` was called before. Raises `OutcomeUnknownError` if it ran out
        while the reply to this was outstanding: then the item may be in the queue again or not. If
        it is cancelled, it is carried out all the same unless the server is away.
        """
        await self._finish(back=False)

    async def give_back(self, *, charge: bool = True) -> None:
        """Put the item back at the head of the queue.

        With `charge` it counts as a failed delivery, of which an item has `max_deliveries`. Raises
        `LeaseLostError` as `ack` does.
        """
        await self._finish(back=True, charge=charge)

    async def _finish(self, *, back: bool, charge: bool = False) -> None:
        tag, self._tag = self._tag, None
        core, leased = self._handle.core, self._session
        if tag is None:
            raise LeaseLostError(core.name, "this lease was acknowledged or given back before")
        if self._life != leased.life:
            raise LeaseLostError(core.name)
        kept = await self._handle.call(
            lambda session: upkeep.end_lease(core, leased, tag, back=back, charge=charge)
        )
        if not kept:
            raise LeaseLostError(core.name)

    def __repr__(self) -> str:
        return f"<AsyncLease of {self._handle.core.name!r}: {self.item!r}>"


class Leasing(Awaitable[AsyncLease[T]]):
    """What `PressureQueue.lease` returns: to be awaited, or for an `async with` statement.

    The latter gives the item, acknowledges it when the block succeeds, and gives it back (charged
    as a failed delivery) when the block raises. A block that is cancelled gives it back uncharged.
    """

    def __init__(self, take: Callable[[], Awaitable[AsyncLease[T]]]) -> None:
        self._take = take
        self._lease: AsyncLease[T] | None = None

    def __await__(self) -> Generator[Any, Any, AsyncLease[T]]:
        return self._take().__await__()

    async def __aenter__(self) -> T:
        if self._lease is not None:
            raise RuntimeError("this lease was entered before; call lease() for each")
        self._lease = await self._take()
        return self._lease.item

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        lease = self._lease
        if lease is None or lease.ended:
            return
        if exc_type is None:
            await lease.ack()
        else:
            # If it is in the queue already, the block's own exception matters more.
            with contextlib.suppress(LeaseLostError):
                await lease.give_back(charge=issubclass(exc_type, Exception))
