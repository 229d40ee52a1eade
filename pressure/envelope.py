"""The envelope around each item, fixed by byte offset (`protocol.md`, "The envelope").

Scripts and tools read it without unpickling the body: they need the message id to acknowledge or
withdraw an item, the deliveries to cap them, the time to tell its age.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

__all__ = ["BLOB", "HEADER_BYTES", "SIGNED", "VERSION", "Envelope", "caps", "message_id", "pack"]

VERSION = 0x10
"""Protocol 1.0. A reader refuses an envelope of another major version (the high half-byte)."""

SIGNED = 0x01
BLOB = 0x02

_HEADER = struct.Struct(">BBHHQ16s16s4s16s")
HEADER_BYTES = _HEADER.size
_NOTHING = b""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A parsed envelope. `put_ms` is the server's time; `deliveries` those that failed so far."""

    version: int
    flags: int
    max_deliveries: int
    deliveries: int
    put_ms: int
    message_id: bytes
    client_id: bytes
    key_id: bytes
    mac: bytes
    body: memoryview

    @classmethod
    def parse(cls, item: bytes) -> Envelope:
        """Parse the bytes of an item. Raises `ValueError` if they are no envelope of ours."""
        if len(item) < HEADER_BYTES:
            raise ValueError(f"an envelope has at least {HEADER_BYTES} bytes, this has {len(item)}")
        fields: tuple[Any, ...] = _HEADER.unpack_from(item)
        envelope = cls(*fields, body=memoryview(item)[HEADER_BYTES:])
        if envelope.version >> 4 != VERSION >> 4:
            raise ValueError(
                f"it was written by protocol version {envelope.version >> 4}."
                f"{envelope.version & 15}, this client speaks {VERSION >> 4}.{VERSION & 15}"
            )
        return envelope


def pack(
    body: bytes,
    *,
    flags: int,
    max_deliveries: int,
    message_id: bytes,
    client_id: bytes,
    key_id: bytes = b"\0\0\0\0",
    mac: bytes = b"",
) -> bytes:
    """The bytes of an item. Deliveries and time are zero; the server fills them in."""
    return (
        _HEADER.pack(VERSION, flags, max_deliveries, 0, 0, message_id, client_id, key_id, mac)
        + body
    )


def message_id(item: bytes) -> bytes:
    """The message id of an item's bytes, without parsing the rest."""
    return item[14:30]


def caps(item: bytes) -> tuple[int, int]:
    """The most deliveries (0: no limit) and those so far, without parsing the rest."""
    if len(item) < HEADER_BYTES:
        return 0, 0
    return int.from_bytes(item[2:4], "big"), int.from_bytes(item[4:6], "big")
