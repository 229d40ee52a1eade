"""The dead-letter list: what could not be delivered or read, and why."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pressure.envelope import HEADER_BYTES, Envelope
from pressure.errors import QueueClosedError, QueueDoesNotExistError
from pressure.protocol import Command, Status

if TYPE_CHECKING:
    from pressure.handle import Handle

__all__ = ["DeadLetter", "DeadLetters"]

_PAGE = 100


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter, as it lies on the server. Nothing of it was unpickled.

    Attributes:
        id: names it for `replay` and `purge`: the message id, or a raw item's digest, in hex.
        reason: `max_deliveries`, `unreadable`, `signature` or, from an executor, `worker_lost`.
        error: what was said of it, for people.
        buried_at: when, in seconds since the epoch by the server's clock.
        put_at: when it was put (the same clock); None for raw items.
        deliveries: how often it had been delivered in vain.
        size: of the item in bytes.
        details: whatever else is known.
        payload: the item itself, still encoded.
    """

    id: str
    reason: str
    error: str
    buried_at: float
    put_at: float | None
    deliveries: int
    size: int
    details: dict[str, Any]
    payload: bytes = field(repr=False)


class DeadLetters:
    """The dead letters of one queue: iterate, count, replay, purge."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def __iter__(self) -> Iterator[DeadLetter]:
        """The newest first."""
        first = 0
        while True:
            page: Any = self._ask(self._protocol.dead_letters(first, first + _PAGE - 1))
            for letter in page:
                yield self._parse(letter)
            if len(page) < _PAGE:
                return
            first += _PAGE

    def __len__(self) -> int:
        count: Any = self._ask(Command(("LLEN", self._protocol.keys.dead_letters)))
        return int(count)

    def __getitem__(self, id: str) -> DeadLetter:
        for letter in self:
            if letter.id == id:
                return letter
        raise KeyError(id)

    def replay(self, ids: Iterable[str] | None = None) -> int:
        """Put these (None: all) back into the queue, as new; returns how many there were.

        Raises `QueueClosedError`; nothing is lost if the server goes away in the middle.
        """
        return self._apply(self._protocol.replay, ids)

    def purge(self, ids: Iterable[str] | None = None) -> int:
        """Drop these (None: all) for good; returns how many there were."""
        return self._apply(self._protocol.discard, ids)

    @property
    def _protocol(self) -> Any:
        return self._handle.core.protocol

    def _ask(self, command: Command) -> object:
        return self._handle.ask(command)

    def _apply(self, operation: Any, ids: Iterable[str] | None) -> int:
        tags: list[bytes] = []
        if ids is not None:
            raw = self._handle.core.raw
            tags = [id.encode() if raw else bytes.fromhex(id) for id in ids]
            if not tags:
                return 0
        reply: Any = self._ask(operation(tags))
        name = self._handle.core.name
        if reply[0] == Status.ABSENT:
            raise QueueDoesNotExistError(name)
        if reply[0] == Status.CLOSED:
            raise QueueClosedError(name)
        return int(reply[1])

    def _parse(self, letter: bytes) -> DeadLetter:
        buried_ms, length = struct.unpack_from(">QI", letter)
        details = json.loads(letter[12 : 12 + length])
        item = letter[12 + length :]
        core = self._handle.core
        put_at: float | None = None
        deliveries = int(details.pop("deliveries", 0))
        if not core.raw and len(item) >= HEADER_BYTES:
            try:
                parsed = Envelope.parse(item)
            except ValueError:
                pass
            else:
                put_at, deliveries = parsed.put_ms / 1000, parsed.deliveries
        tag = core.tag_of(item)
        return DeadLetter(
            id=tag.decode() if core.raw else tag.hex(),
            reason=str(details.pop("reason", "")),
            error=str(details.pop("error", "")),
            buried_at=buried_ms / 1000,
            put_at=put_at,
            deliveries=deliveries,
            size=len(item),
            details=details,
            payload=item,
        )
