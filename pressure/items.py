"""Objects to items and back, as flows: they may have to fetch a blob or bury an item.

Nothing is unpickled before its size and signature were checked. What cannot be read goes to the
dead-letter list with the reason, and the queue goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pressure import blobs, envelope, flows
from pressure.codec import BadSignature
from pressure.core import Core, reason
from pressure.errors import PayloadError, QueueError, SignatureError
from pressure.link import Flow
from pressure.session import Session

__all__ = ["SKIPPED", "open_item", "open_leased", "put_bodies", "read_item"]

SKIPPED = object()
"""What `open_item` returns for an item that was buried for its deliveries: take the next one."""


def put_bodies(
    core: Core[Any],
    session: Session[Any],
    bodies: Sequence[bytes],
    until: float | None,
    mode: str = "",
) -> Flow[int]:
    """Put serialized items; returns how many were accepted by `until`."""
    if not core.generation:
        yield from flows.describe(core)
    while True:
        values, references = yield from _pack(core, bodies)
        try:
            accepted = yield from flows.put(core, session, values, until, mode)
            yield from _discard_refused(core, values, references, accepted)
            return accepted
        except flows.OtherGeneration:
            yield from _discard_refused(core, values, references, 0)
            yield from flows.describe(core)
        except QueueError as exc:
            yield from _discard_refused(core, values, references, exc.accepted)
            raise


def _pack(core: Core[Any], bodies: Sequence[bytes]) -> Flow[tuple[list[bytes], dict[int, bytes]]]:
    if core.raw:
        return list(bodies), {}
    codec = core.codec
    assert codec is not None
    values: list[bytes] = []
    references: dict[int, bytes] = {}
    for at, body in enumerate(bodies):
        message_id = core.message_id()
        if len(body) <= blobs.INLINE_BYTES:
            values.append(codec.pack(message_id, body))
        else:
            reference = yield from blobs.upload(core, message_id, body)
            references[at] = reference
            # The signature covers the content, not only where it lies.
            values.append(codec.pack(message_id, reference, flags=envelope.BLOB, content=body))
    return values, references


def _discard_refused(
    core: Core[Any], values: Sequence[bytes], references: dict[int, bytes], accepted: int
) -> Flow[None]:
    for at, reference in references.items():
        if at >= accepted:
            yield from blobs.discard(core, envelope.message_id(values[at]), reference)


def open_item(core: Core[Any], consumer: bytes, tag: bytes, item: bytes) -> Flow[Any]:
    """The object of an item that `consumer` holds.

    Raises `PayloadError` for one that cannot be read, which is then in the dead-letter list; returns
    `SKIPPED` for one that was delivered too often, which is there, too.
    """
    obj, _ = yield from open_leased(core, consumer, tag, item)
    return obj


def open_leased(
    core: Core[Any], consumer: bytes, tag: bytes, item: bytes
) -> Flow[tuple[Any, int]]:
    """As `open_item`, and how often the item was delivered in vain before."""
    deliveries = 0
    if core.raw:
        most = core.settings.max_deliveries
        if most:
            deliveries = int((yield core.protocol.delivery_count(tag)) or 0)
    else:
        most, deliveries = envelope.caps(item)
    if 0 < most <= deliveries:
        text = f"{deliveries} failed deliveries"
        more = reason("max_deliveries", text, deliveries=deliveries)
        yield core.protocol.bury(consumer, more, [tag])
        return SKIPPED, deliveries
    try:
        return (yield from read_item(core, item)), deliveries
    except PayloadError as exc:
        kind = "signature" if isinstance(exc, SignatureError) else "unreadable"
        yield core.protocol.bury(consumer, reason(kind, exc.detail), [tag])
        raise


def read_item(core: Core[Any], item: bytes) -> Flow[Any]:
    """The object of an item, wherever that came from. Raises `PayloadError`."""
    if core.raw:
        return item
    codec, serializer = core.codec, core.serializer
    assert codec is not None and serializer is not None
    try:
        parsed = codec.parse(item)
        content = b""
        if parsed.flags & envelope.BLOB:
            if blobs.size_of(parsed.body) > core.settings.max_item_bytes:
                raise ValueError("its body exceeds max_item_bytes")
            content = yield from blobs.download(core, parsed.message_id, parsed.body)
        codec.check(parsed, content)
        return serializer.loads(content or bytes(parsed.body))
    except BadSignature as exc:
        raise SignatureError(core.name, f"an item is refused: {exc}") from exc
    except Exception as exc:
        text = f"an item cannot be read ({type(exc).__name__}: {exc}); see the dead letters"
        raise PayloadError(core.name, text) from exc
