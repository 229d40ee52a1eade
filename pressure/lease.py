"""Items on lease: taken, but in the queue again unless they are acknowledged."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar

from pressure import upkeep
from pressure.core import Core
from pressure.errors import LeaseLostError, PressureError
from pressure.link import Link
from pressure.session import Session

if TYPE_CHECKING:
    from pressure.handle import Handle

__all__ = ["Lease"]

T = TypeVar("T")


class Lease(Generic[T]):
    """An item and the duty to say what became of it.

    As a context manager it gives the item, acknowledges it when the block succeeds, and gives it
    back (charged as a failed delivery) when the block raises. The lease renews itself while this
    process lives; if the process dies, the item is in the queue again after `lease` seconds.

    Attributes:
        item: what was put.
        deliveries: how often it was delivered before and not acknowledged.
    """

    __slots__ = ("_handle", "_life", "_session", "_tag", "deliveries", "item")

    def __init__(
        self, handle: Handle, session: Session[Link], tag: bytes, item: T, deliveries: int
    ) -> None:
        self.item = item
        self.deliveries = deliveries
        self._handle = handle
        self._session = session
        self._life = session.life
        self._tag: bytes | None = tag

    def ack(self) -> None:
        """Say that the item is done; it also counts as `task_done`.

        Raises `LeaseLostError` if the lease had run out, since then the item is in the queue again;
        and if `ack` or `give_back` was called before. Raises `OutcomeUnknownError` if it ran out
        while the reply to this was outstanding: then the item may be in the queue again or not.
        """
        self._finish(back=False)

    def give_back(self, *, charge: bool = True) -> None:
        """Put the item back at the head of the queue.

        With `charge` it counts as a failed delivery, of which an item has `max_deliveries`. Raises
        `LeaseLostError` as `ack` does.
        """
        self._finish(back=True, charge=charge)

    @property
    def _core(self) -> Core[Link]:
        return self._handle.core

    def _finish(self, *, back: bool, charge: bool = False) -> None:
        tag, self._tag = self._tag, None
        if tag is None:
            raise LeaseLostError(
                self._core.name, "this lease was acknowledged or given back before"
            )
        session = self._session
        if self._life != session.life:
            raise LeaseLostError(self._core.name)
        leased = session.leased[tag]
        try:
            flow = upkeep.end_lease(self._core, session, tag, back=back, charge=charge)
            held = self._handle.call(flow)
        except BaseException:
            if session.leased[tag] >= leased:
                # Ctrl-C, say, before anything was sent: it can be finished still.
                self._tag = tag
            raise
        if not held:
            raise LeaseLostError(self._core.name)

    def _abandon(self) -> None:
        """Nobody will finish it any more: its session gives the item back, if it is still there."""
        tag, self._tag = self._tag, None
        if tag is not None and self._life == self._session.life:
            self._session.stale = True
            self._session.unlease(tag)
            self._handle.keep_up()

    def __enter__(self) -> T:
        return self.item

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._tag is None:
            return
        try:
            if exc_type is None:
                self.ack()
            else:
                # It comes back all the same, and the block's own exception matters more.
                with contextlib.suppress(PressureError):
                    self.give_back()
        except BaseException:
            # Ctrl-C, say, before anything was sent.
            self._abandon()
            raise

    def __repr__(self) -> str:
        return f"<Lease of {self._core.name!r}: {self.item!r}>"
