"""Bodies that are too large for a list: they travel in chunks beside the queue.

The list then holds an envelope whose body says how many chunks there are and how many bytes. No
single command carries more than a chunk, so other users of the server are not held up.
"""

from __future__ import annotations

import struct
from typing import Any

from pressure.core import Core
from pressure.errors import QueueDoesNotExistError
from pressure.link import Flow
from pressure.protocol import Status

__all__ = ["CHUNK_BYTES", "INLINE_BYTES", "BlobGone", "discard", "download", "size_of", "upload"]

INLINE_BYTES = 64 * 1024
CHUNK_BYTES = 512 * 1024
_REFERENCE = struct.Struct(">IQ")


class BlobGone(ValueError):
    """The chunks that an item refers to are not there (any more)."""


def reference_to(body: bytes) -> bytes:
    """What is put in the place of a body that is stored beside the queue."""
    return _REFERENCE.pack(-(-len(body) // CHUNK_BYTES), len(body))


def upload(core: Core[Any], message_id: bytes, body: bytes) -> Flow[bytes]:
    """Store a body beside the queue; returns its reference."""
    chunks = -(-len(body) // CHUNK_BYTES)
    reply = yield core.protocol.announce(message_id, chunks)
    if reply[0] == Status.ABSENT:
        raise QueueDoesNotExistError(core.name)
    view = memoryview(body)
    for index in range(chunks):
        chunk = bytes(view[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])
        yield core.protocol.blob_write(message_id, index, chunk)
    return reference_to(body)


def discard(core: Core[Any], message_id: bytes, reference: bytes) -> Flow[None]:
    """Drop a body whose put was refused."""
    chunks, _ = _REFERENCE.unpack(reference)
    yield core.protocol.blob_withdraw(message_id, chunks)


def size_of(reference: bytes | memoryview) -> int:
    """How large the body is that a reference stands for. Raises `ValueError` if it is none."""
    try:
        return int(_REFERENCE.unpack(reference)[1])
    except struct.error as exc:
        raise ValueError(f"a blob reference has {_REFERENCE.size} bytes") from exc


def download(core: Core[Any], message_id: bytes, reference: bytes | memoryview) -> Flow[bytes]:
    """Fetch a body. Raises `BlobGone`; the chunks stay until the item is acknowledged."""
    chunks, size = _REFERENCE.unpack(reference)
    parts = []
    for index in range(chunks):
        part = yield core.protocol.blob_read(message_id, index)
        if part is None:
            raise BlobGone(f"chunk {index} of {chunks} is gone from the server")
        parts.append(part)
    body = b"".join(parts)
    if len(body) != size:
        raise BlobGone(f"it has {len(body):,} bytes instead of {size:,}")
    return body
