"""Records of bytes to items and back, as flows: large ones lie beside the queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from pressure import blobs, envelope
from pressure.codec import Codec
from pressure.content import Buffer, Content
from pressure.core import Core
from pressure.requests import Flow
from pressure.signing import BadSignature

__all__ = [
    "ID_BYTES",
    "Delivery",
    "Record",
    "fetch",
    "open_item",
    "pack",
    "quickly_opened",
    "quickly_opened_all",
    "quickly_packed",
    "store",
    "unstore",
]

ID_BYTES = 16


class Record(NamedTuple):
    """What is sent: a message id of 16 bytes, the body, and the most deliveries (0: no limit)."""

    id: bytes
    body: bytes | Content
    max_deliveries: int = 0


class Delivery(NamedTuple):
    """What is claimed. `error` says why the body must not be used, if it must not; `refused`, that
    its signature is the reason, `gone`, that a part of it isn't there. `unchecked` is the body that
    was refused: it may be looked at to tell whom it concerns, and no more. `server` says where it
    was put (`Link.server`), if it may be delivered only once."""

    id: bytes
    client_id: bytes
    body: Buffer
    deliveries: int
    max_deliveries: int
    put_ms: int
    error: str = ""
    refused: bool = False
    gone: bool = False
    unchecked: bytes = b""
    server: bytes = b""

    def is_elsewhere(self, here: bytes) -> bool:
        """Whether it was put to another run of a server than this one, as far as both are known."""
        return bool(self.server and here) and self.server != here


# Quicker than the class itself, for what is made for each task.
_delivery: Callable[[tuple[Any, ...]], Delivery] = partial(tuple.__new__, Delivery)


def pack(
    core: Core[Any],
    codec: Codec,
    record: Record,
    server: bytes = b"",
    inline: int | None = None,
) -> Flow[bytes]:
    """The item of a record. `server`: it is to say that it was put there (`Link.server`); larger
    bodies than `inline` lie beside the queue (None: than one may be that travels alone)."""
    id, body, cap = record
    core.check_size(body)
    if len(body) <= (inline or blobs.INLINE_BYTES):
        return codec.pack(id, bytes(body), max_deliveries=cap, server=server)
    return (yield from blobs.upload(core, id, body, cap, server))


def quickly_packed(
    core: Core[Any], codec: Codec, record: Record, inline: int | None = None
) -> bytes | None:
    """As `pack`, for a record that needs no more than itself; None for others."""
    body = record.body
    if type(body) is bytes and len(body) <= (inline or blobs.INLINE_BYTES):
        return codec.pack_record(record.id, body, record.max_deliveries)
    return None


def quickly_opened(core: Core[Any], item: bytes) -> Delivery | None:
    """As `open_item`, for an item that is sound and complete; None for others."""
    codec = core.codec
    assert codec is not None
    parts = codec.open_record(item)
    if parts is None or len(item) > core.most_bytes:
        return None
    most, deliveries, put_ms, message_id, client_id, body = parts
    return _delivery(
        (message_id, client_id, body, deliveries, most, put_ms, "", False, False, b"", b"")
    )


def quickly_opened_all(core: Core[Any], items: Sequence[bytes]) -> list[Delivery | None]:
    """The same for several items."""
    codec, most_bytes = core.codec, core.most_bytes
    assert codec is not None
    open_record = codec.open_record
    opened: list[Delivery | None] = []
    for item in items:
        parts = open_record(item)
        if parts is None or len(item) > most_bytes:
            opened.append(None)
            continue
        most, deliveries, put_ms, message_id, client_id, body = parts
        opened.append(
            _delivery(
                (message_id, client_id, body, deliveries, most, put_ms, "", False, False, b"", b"")
            )
        )
    return opened


def open_item(core: Core[Any], item: bytes) -> Flow[Delivery]:
    codec = core.codec
    assert codec is not None
    body: Buffer = b""
    error, refused, gone = "", False, False
    try:
        parsed = codec.parse(item)
    except ValueError as exc:
        # Whatever version wrote it, the ids stand there: its client can be told.
        client_id = item[30:46] if len(item) >= envelope.HEADER_BYTES else b""
        return Delivery(core.tag_of(item), client_id, b"", 0, 0, 0, str(exc))
    try:
        core.check_received(item)
        if blobs.is_blob(parsed):
            body = yield from blobs.download(core, parsed)
        else:
            codec.check(parsed)
            body = parsed.body
    except BadSignature as exc:
        error, refused = f"refused: {exc}", True
    except ValueError as exc:
        error, gone = str(exc), isinstance(exc, blobs.BlobGone)
    return Delivery(
        parsed.message_id,
        parsed.client_id,
        body,
        parsed.deliveries,
        parsed.max_deliveries,
        parsed.put_ms,
        error,
        refused,
        gone,
        parsed.body if refused else b"",
        parsed.server,
    )


def store(core: Core[Any], name: bytes, body: bytes | Content) -> Flow[None]:
    codec = core.codec
    assert codec is not None
    value = yield from pack(core, codec, Record(name[:ID_BYTES], body))
    yield core.protocol.store(name, value)
    if core.ttl_ms:
        yield core.protocol.expire(core.protocol.keys.store, core.ttl_ms)
    yield from blobs.keep(core, value)


def unstore(core: Core[Any], name: bytes) -> Flow[None]:
    value = yield core.protocol.fetch(name)
    if value is not None:
        yield core.protocol.unstore([name])
        yield from blobs.discard(core, value)


def fetch(core: Core[Any], name: bytes) -> Flow[Buffer | None]:
    value = yield core.protocol.fetch(name)
    if value is None:
        return None
    delivery = yield from open_item(core, value)
    if delivery.error:
        raise BadSignature(delivery.error)
    if delivery.id != name[:ID_BYTES]:
        raise BadSignature("it was stored under another name")
    return delivery.body
