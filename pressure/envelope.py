"""The envelope around each item, fixed by byte offset (`protocol.md`, "The envelope").

Scripts and tools read it without unpickling the body: they need the message id to acknowledge or
withdraw an item, the deliveries to cap them, the time to tell its age.
"""

from __future__ import annotations

import socket
import struct
from typing import Any, NamedTuple

__all__ = [
    "BLOB",
    "BUNDLE",
    "HEADER_BYTES",
    "SERVER",
    "SERVER_BYTES",
    "SIGNED",
    "VERSION",
    "Envelope",
    "caps",
    "message_id",
    "pack",
    "prefix",
    "signed_part",
    "with_mac",
]

VERSION = 0x10
"""Protocol 1.0. A reader refuses an envelope of another major version (the high half-byte)."""

SIGNED = 0x01
BLOB = 0x02
BUNDLE = 0x04
"""The body is several items', see `pressure.bundles`."""
SERVER = 0x08
"""After the body it says which run of which server it was put to."""
SERVER_BYTES = 8

_HEADER = struct.Struct(">BBHHQ16s16s4s16s")
HEADER_BYTES = _HEADER.size
_PREFIX = struct.Struct(">BBH")
MESSAGE_ID = slice(14, 30)
"""Where the message id is in an item's bytes."""
FILLED_IN_LATER = b"\0" * 10
NO_KEY = b"\0" * 4
NO_MAC = b"\0" * 16


class Envelope(NamedTuple):
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
    item: bytes

    @classmethod
    def parse(cls, item: bytes) -> Envelope:
        """Parse the bytes of an item. Raises `ValueError` if they are no envelope of ours."""
        try:
            fields: list[Any] = [*_HEADER.unpack_from(item), item]
            envelope = cls(*fields)
        except struct.error:
            raise ValueError(
                f"an envelope has at least {HEADER_BYTES} bytes, this has {len(item)}"
            ) from None
        if envelope.flags & SERVER and len(item) < HEADER_BYTES + SERVER_BYTES:
            raise ValueError("an envelope ends before it says which server it was put to")
        if envelope.version >> 4 != VERSION >> 4:
            raise ValueError(
                f"it was written by protocol version {_readable(envelope.version)}, and pressure "
                f"on {socket.gethostname()} speaks {_readable(VERSION)}: install the same version "
                "on both sides"
            )
        return envelope

    @property
    def body(self) -> bytes:
        return self.item[HEADER_BYTES : -SERVER_BYTES if self.flags & SERVER else None]

    @property
    def server(self) -> bytes:
        """Which run of which server it was put to; empty if it doesn't say."""
        return self.item[-SERVER_BYTES:] if self.flags & SERVER else b""


def _readable(version: int) -> str:
    return f"{version >> 4}.{version & 15}"


def pack(
    body: bytes,
    *,
    flags: int,
    max_deliveries: int,
    message_id: bytes,
    client_id: bytes,
    key_id: bytes = NO_KEY,
    mac: bytes = NO_MAC,
) -> bytes:
    """The bytes of an item. Deliveries and time are zero; the server fills them in."""
    start = prefix(flags, max_deliveries)
    return b"".join((start, FILLED_IN_LATER, message_id, client_id, key_id, mac, body))


def prefix(flags: int, max_deliveries: int) -> bytes:
    """The first four bytes of an item."""
    return _PREFIX.pack(VERSION, flags, max_deliveries)


def signed_part(item: bytes) -> bytes:
    """What a signature covers of an item's bytes: all but what the server fills in, key and MAC."""
    return item[:4] + item[14:46] + item[HEADER_BYTES:]


def with_mac(item: bytes, mac: bytes) -> bytes:
    """An item's bytes with this signature in its place."""
    return item[:50] + mac + item[HEADER_BYTES:]


def message_id(item: bytes) -> bytes:
    """The message id of an item's bytes, without parsing the rest."""
    return item[MESSAGE_ID]


def caps(item: bytes) -> tuple[int, int]:
    """The most deliveries (0: no limit) and those so far, without parsing the rest."""
    if len(item) < HEADER_BYTES or item[0] >> 4 != VERSION >> 4:
        return 0, 0
    return int.from_bytes(item[2:4], "big"), int.from_bytes(item[4:6], "big")
