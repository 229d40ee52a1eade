"""What travels of the records that a producer sends, from when it is made until it is accepted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pressure import blobs, flows
from pressure.codec import Codec
from pressure.core import Core
from pressure.link import Link
from pressure.parcels import Record, pack, quickly_packed
from pressure.requests import Flow

__all__ = ["ONCE", "Outbox"]

ONCE = 1
"""The `max_deliveries` of what may be delivered only once."""


class Outbox:
    """What was uploaded for a record that was refused serves for its next try. If the next records
    are others, it is removed: so neither is anything uploaded twice, nor does it stay."""

    def __init__(self, core: Core[Any], link: Link) -> None:
        self._core = core
        self._link = link
        self._home: tuple[Codec | None, str] = None, ""
        self._uploaded: dict[bytes, bytes] = {}

    def fill(self, records: Sequence[Record], server: bytes) -> Flow[list[bytes]]:
        """What travels of the first of these records: of as many as one put takes. `server` is
        where they go, for those that may be delivered only once."""
        core, codec = self._core, self._core.codec
        assert codec is not None
        if self._home != (codec, self._link.run):
            # At another server, or in another queue of this name, it is not there.
            self._uploaded = {}
        wanted = {record.id for record in records if record.max_deliveries != ONCE}
        for id in [id for id in self._uploaded if id not in wanted]:
            yield from blobs.discard(core, self._uploaded.pop(id))
        inline = blobs.inline_bytes(len(records))
        values: list[bytes] = []
        size = 0
        for record in records:
            once = record.max_deliveries == ONCE
            value = self._uploaded.get(record.id)
            if value is None and not once:
                value = quickly_packed(core, codec, record, inline)
            if value is None:
                value = yield from pack(core, codec, record, server if once else b"", inline)
                if len(record.body) > inline:
                    self._uploaded[record.id] = value
            size += len(value)
            if values and size > flows.BATCH_BYTES:
                break
            values.append(value)
        self._home = codec, self._link.run
        return values

    def accepted(self, records: Sequence[Record]) -> None:
        """These are in the queue."""
        if self._uploaded:
            for record in records:
                self._uploaded.pop(record.id, None)

    def forget(self) -> None:
        """Some may be in the queue."""
        self._uploaded = {}

    def empty(self) -> Flow[None]:
        """Remove what was uploaded: it keeps the memory full that is missing."""
        while self._uploaded:
            _, value = self._uploaded.popitem()
            yield from blobs.discard(self._core, value)
