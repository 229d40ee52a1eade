"""Bodies that are too large for a list: they travel in chunks beside the queue.

The list then holds an envelope whose body says how many chunks there are, how many bytes, and under
which id. No single command carries more than a chunk, so other users of the server are not held up;
while one chunk is signed or copied here the server is busy with the next.
"""

from __future__ import annotations

import os
import struct
from typing import Any, NamedTuple

from pressure import envelope
from pressure.content import Buffer, Content, room
from pressure.core import Core
from pressure.envelope import Envelope
from pressure.errors import QueueDoesNotExistError, ServerOutOfMemoryError
from pressure.protocol import Command, Status
from pressure.requests import Flow, Stream

__all__ = [
    "CHUNK_BYTES",
    "CROWDED_BYTES",
    "INLINE_BYTES",
    "BlobGone",
    "discard",
    "download",
    "inline_bytes",
    "is_blob",
    "keep",
    "upload",
]

INLINE_BYTES = 64 * 1024
CROWDED_BYTES = 16 * 1024
"""The same for bodies of which several travel at once: what is in lists is copied more often."""
CHUNK_BYTES = 512 * 1024
ID_BYTES = 16
_REFERENCE = struct.Struct(">IQ16s")


class BlobGone(ValueError):
    """The chunks that an item refers to are not there (any more)."""


class Reference(NamedTuple):
    """What stands in the place of a body that is stored beside the queue.

    The id is another one for each upload: two workers that answer the same task never write to the
    same chunks.
    """

    chunks: int
    size: int
    id: bytes

    @classmethod
    def of(cls, body: bytes) -> Reference:
        """Raises `ValueError` if the body is none, or contradicts itself."""
        try:
            reference = cls(*_REFERENCE.unpack(body))
        except struct.error as exc:
            raise ValueError(f"a blob reference has {_REFERENCE.size} bytes") from exc
        if reference.chunks != -(-reference.size // CHUNK_BYTES):
            raise ValueError(f"{reference.size:,} bytes are not {reference.chunks:,} chunks")
        return reference


def inline_bytes(bodies: int) -> int:
    """How large bodies of so many may be to travel in the list."""
    return INLINE_BYTES if bodies == 1 else CROWDED_BYTES


def is_blob(item: Envelope) -> bool:
    return bool(item.flags & envelope.BLOB)


def upload(
    core: Core[Any],
    message_id: bytes,
    content: Content | bytes,
    max_deliveries: int | None = None,
    server: bytes = b"",
) -> Flow[bytes]:
    """Store a body beside the queue; returns the item that is to be put for it (`server`: which is
    to say that it was put there).

    Raises `QueueDoesNotExistError`, and what the server refuses. If the put never comes, the server
    drops the chunks after an hour, or with the queue.
    """
    codec = core.codec
    assert codec is not None
    if isinstance(content, bytes):
        content = Content([content])
    pieces = content.pieces(CHUNK_BYTES)
    reference = Reference(len(pieces), len(content), os.urandom(ID_BYTES))
    reply = yield core.protocol.announce(reference.id, reference.chunks, core.ttl_ms)
    if reply[0] == Status.ABSENT:
        raise QueueDoesNotExistError(core.name)
    seal = codec.seal(
        message_id,
        _REFERENCE.pack(*reference),
        flags=envelope.BLOB,
        max_deliveries=max_deliveries,
        server=server,
    )

    def command(index: int) -> Command:
        return core.protocol.blob_write(reference.id, index, pieces[index])

    def written(index: int, reply: object) -> bool:
        seal.update(pieces[index])
        return True

    try:
        yield Stream(len(pieces), command, written)
    except ServerOutOfMemoryError:
        # What was stored of it would keep the memory full. It stays announced, so that a chunk that
        # comes still later is dropped in its time.
        yield core.protocol.blob_withdraw(reference.id, reference.chunks)
        raise
    if core.ttl_ms:
        # Chunks that come after the queue is gone would stay for ever.
        yield core.protocol.expire_blobs(core.ttl_ms)
    return seal.item()


def keep(core: Core[Any], item: bytes) -> Flow[None]:
    """The item was stored by other means than a put: if its body is a blob, that is to stay."""
    parsed = Envelope.parse(item)
    if is_blob(parsed):
        reference = Reference.of(parsed.body)
        yield core.protocol.end_upload(reference.id, reference.chunks)


def discard(core: Core[Any], item: bytes) -> Flow[None]:
    """Drop the body of an item that is not put, if it is a blob."""
    try:
        parsed = Envelope.parse(item)
        if not is_blob(parsed):
            return
        reference = Reference.of(parsed.body)
    except ValueError:
        # What came back from the server need not be what was sent.
        return
    if reference.size <= core.settings.max_item_bytes:
        yield core.protocol.blob_withdraw(reference.id, reference.chunks)
        yield core.protocol.end_upload(reference.id, reference.chunks)


def download(core: Core[Any], item: Envelope) -> Flow[Buffer]:
    """Fetch a body and check the signature. The chunks stay until the item is acknowledged.

    Raises `BlobGone`, `BadSignature`; `ValueError` before anything is fetched if it is too large.
    """
    codec = core.codec
    assert codec is not None
    reference = Reference.of(item.body)
    if reference.size > core.settings.max_item_bytes:
        raise ValueError(
            f"its body has {reference.size:,} bytes, and max_item_bytes is "
            f"{core.settings.max_item_bytes:,} here"
        )
    seal = codec.unseal(item)
    body = room(reference.size)
    filled = 0

    def command(index: int) -> Command:
        return core.protocol.blob_read(reference.id, index)

    def read(index: int, chunk: bytes | None) -> bool:
        nonlocal filled
        if chunk is None or len(chunk) > len(body) - filled:
            return False
        body[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
        seal.update(chunk)
        return True

    done = yield Stream(reference.chunks, command, read)
    if done < reference.chunks:
        raise BlobGone(f"chunk {done} of {reference.chunks} is gone from the server, or too long")
    if filled != len(body):
        raise BlobGone(f"it has {filled:,} bytes instead of {len(body):,}")
    seal.check()
    return body
