"""Items to objects, wherever they came from.

Nothing is unpickled before its size and signature were checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from pressure import blobs, bundles, envelope, flows
from pressure.core import Core
from pressure.errors import (
    PayloadError,
    QueueDoesNotExistError,
    QueueEmptyError,
    SignatureError,
)
from pressure.protocol import Status
from pressure.requests import Flow
from pressure.signing import BadSignature

__all__ = ["UNREAD", "Unreadable", "peek", "quickly_read", "quickly_read_all", "read_item"]

UNREAD = object()
"""What `quickly_read` returns for an item that `open_item` must see to."""


class Unreadable(NamedTuple):
    """What `quickly_read` returns for an item that could not be unpickled."""

    error: PayloadError


def quickly_read(core: Core[Any], item: bytes) -> tuple[Any, int]:
    """As `open_leased`, for an item that is sound and complete and not delivered too often."""
    if core.raw:
        return (UNREAD if core.settings.max_deliveries else item), 0
    codec, serializer = core.codec, core.serializer
    assert codec is not None and serializer is not None
    # Most items come for the first time.
    body, deliveries = codec.open_plain(item), 0
    if body is None:
        parts = codec.open_record(item)
        if parts is None or 0 < parts[0] <= parts[1]:
            return UNREAD, 0
        body, deliveries = parts[5], parts[1]
    if len(item) > core.most_bytes:
        return UNREAD, 0
    try:
        return serializer.loads(body), deliveries
    except (Exception, SystemExit) as exc:
        return Unreadable(_unreadable(core, exc)), deliveries


def quickly_read_all(core: Core[Any], items: Sequence[bytes]) -> list[Any]:
    """`quickly_read` of many, without the deliveries."""
    codec, serializer = core.codec, core.serializer
    if codec is None or serializer is None or len(items) == 1:
        return [quickly_read(core, item)[0] for item in items]
    loads, most_bytes = serializer.loads, core.most_bytes
    objects: list[Any] = []
    for item, body in zip(items, codec.open_plain_all(items), strict=True):
        if body is None or len(item) > most_bytes:
            objects.append(quickly_read(core, item)[0])
            continue
        try:
            objects.append(loads(body))
        except (Exception, SystemExit) as exc:
            objects.append(Unreadable(_unreadable(core, exc)))
    return objects


def read_item(core: Core[Any], item: bytes, *, looks: bool = False) -> Flow[Any]:
    """The object of an item, wherever that came from. Raises `PayloadError`. Who only `looks` at a
    bundle sees the first of its items."""
    if core.raw:
        return item
    codec, serializer = core.codec, core.serializer
    assert codec is not None and serializer is not None
    try:
        core.check_received(item)
        parsed = codec.parse(item)
        if blobs.is_blob(parsed):
            body = yield from blobs.download(core, parsed)
            body = bytes(body)
        else:
            codec.check(parsed)
            body = parsed.body
        if parsed.flags & envelope.BUNDLE and not looks:
            raise ValueError("it is a bundle of items, and not one")
        if parsed.flags & envelope.BUNDLE:
            body = bundles.split(body)[0]
    except BadSignature as exc:
        raise SignatureError(core.name, f"an item is refused: {exc}") from exc
    except ValueError as exc:
        raise _unreadable(core, exc) from exc
    try:
        return serializer.loads(body)
    except (Exception, SystemExit) as exc:
        raise _unreadable(core, exc) from exc


def peek(core: Core[Any], index: int) -> Flow[Any]:
    """The object of the item at a place of the queue (-1: the oldest), where it stays.

    Raises `QueueEmptyError`, `QueueDoesNotExistError`, and `PayloadError`.
    """
    if not core.generation:
        yield from flows.describe(core)
    while True:
        generation = core.generation
        reply = yield core.protocol.peek(index)
        if reply[0] == Status.ABSENT:
            raise QueueDoesNotExistError(core.name)
        if reply[0] == Status.EMPTY:
            raise QueueEmptyError(core.name)
        try:
            return (yield from read_item(core, reply[1], looks=True))
        except SignatureError:
            # The queue may have been made anew, and items are signed for one.
            yield from flows.describe(core)
            if core.generation == generation:
                raise


def _unreadable(core: Core[Any], exc: BaseException) -> PayloadError:
    text = f"an item cannot be read ({type(exc).__name__}: {exc})"
    # Of a queue without a name of its own nobody can look at them.
    hint = "" if core.settings.ttl else "; see the dead letters"
    error = PayloadError(core.name, text + hint)
    error.__cause__ = exc
    return error
