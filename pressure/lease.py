"""Items on lease: taken, but in the queue again unless they are acknowledged."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pressure.core import Core
from pressure.errors import LeaseLostError
from pressure.link import Link
from pressure.protocol import Acks, Command, Status
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
        and if `ack` or `give_back` was called before.
        """
        tag = self._end()
        core = self._core
        self._finish(core.protocol.ack(self._session.consumer, Acks("f", [tag])))

    def give_back(self, *, charge: bool = True) -> None:
        """Put the item back at the head of the queue.

        With `charge` it counts as a failed delivery, of which an item has `max_deliveries`. Raises
        `LeaseLostError` as `ack` does.
        """
        tag = self._end()
        core = self._core
        self._finish(core.protocol.give_back(self._session.consumer, [tag], charge=charge))

    @property
    def _core(self) -> Core[Link]:
        return self._handle.core

    def _end(self) -> bytes:
        tag, self._tag = self._tag, None
        if tag is None:
            raise LeaseLostError(self._core.name, "this lease was acknowledged or given back before")
        if self._life != self._session.life:
            raise LeaseLostError(self._core.name)
        self._session.leased[tag] -= 1
        return tag

    def _finish(self, command: Command) -> None:
        consumer = self._session.consumer
        reply: Any = self._handle.ask(command)
        if reply[0] == Status.LOST and self._session.consumer != consumer:
            # Another thread lost its connection meanwhile, and the items have a new owner's name.
            words = tuple(
                self._session.consumer if word == consumer else word for word in command.words
            )
            key, new_key = (
                self._core.protocol.keys.taken(name) for name in (consumer, self._session.consumer)
            )
            words = tuple(new_key if word == key else word for word in words)
            reply = self._handle.ask(command._replace(words=words))
        if reply[0] == Status.LOST or not reply[1]:
            raise LeaseLostError(self._core.name)

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
        if exc_type is None:
            self.ack()
        else:
            try:
                self.give_back()
            except LeaseLostError:
                # It is in the queue already, and the block's own exception matters more.
                pass

    def __repr__(self) -> str:
        return f"<Lease of {self._core.name!r}: {self.item!r}>"
