"""The dead-letter list: what could not be delivered or read, and why."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pressure.core import Core
from pressure.envelope import HEADER_BYTES, Envelope
from pressure.errors import QueueClosedError, QueueDoesNotExistError
from pressure.protocol import Command, Status
from pressure.requests import Flow

if TYPE_CHECKING:
    from pressure.handle import Handle

__all__ = ["PAGE", "DeadLetter", "DeadLetters", "change_letters", "parse_letter"]

PAGE = 100


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter, as it lies on the server. Nothing of it was unpickled.

    `PressureQueue.dead_letters` has them; so has `pressure dead` in a shell.

    Attributes:
        id: names it for `dead_letters.replay` and `dead_letters.purge` of its queue: the message
            id, or a raw item's digest, in hex.
        reason: `max_deliveries`, `unreadable`, `signature` or, from an executor, `worker_lost`
            or `doubtful`.
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
    """The dead letters of one queue, its `dead_letters`: iterate, count, replay, purge."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def __iter__(self) -> Iterator[DeadLetter]:
        """The newest first."""
        first = 0
        while True:
            page: Any = self._ask(self._protocol.dead_letters(first, first + PAGE - 1))
            for letter in page:
                yield parse_letter(self._handle.core, letter)
            if len(page) < PAGE:
                return
            first += PAGE

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

    def _apply(self, operation: Callable[[list[bytes]], Command], ids: Iterable[str] | None) -> int:
        return self._handle.call(change_letters(self._handle.core, operation, ids))


def change_letters(
    core: Core[Any], operation: Callable[[list[bytes]], Command], ids: Iterable[str] | None
) -> Flow[int]:
    """Apply an operation to these (None: all) dead letters; returns how many there were."""
    tags: list[bytes] = []
    if ids is not None:
        tags = [id.encode() if core.raw else bytes.fromhex(id) for id in ids]
        if not tags:
            return 0
    reply = yield operation(tags)
    if reply[0] == Status.ABSENT:
        raise QueueDoesNotExistError(core.name)
    if reply[0] == Status.CLOSED:
        raise QueueClosedError(core.name)
    return int(reply[1])


def parse_letter(core: Core[Any], letter: bytes) -> DeadLetter:
    """A dead letter from its bytes. Nothing is unpickled, and nothing in it is believed."""
    buried_ms, details, item = _parts(letter)
    put_at: float | None = None
    try:
        deliveries = int(details.pop("deliveries", 0))
    except (TypeError, ValueError, OverflowError):
        deliveries = 0
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


def _parts(letter: bytes) -> tuple[int, dict[str, Any], bytes]:
    """When it was buried, why, and the item. Who can write to the server may have made it up."""
    buried_ms, item = 0, letter
    try:
        buried_ms, length = struct.unpack_from(">QI", letter)
        item = letter[12 + length :]
        details = json.loads(letter[12 : 12 + length])
        if isinstance(details, dict):
            return buried_ms, details, item
    except (struct.error, ValueError, RecursionError):
        pass
    return buried_ms, {"reason": "unknown", "error": "this is no dead letter of pressure's"}, item
