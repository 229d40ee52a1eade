"""Several small items of one producer as one element of the list.

What an element costs at the server, and for its signature, is shared by the items of a bundle.
Only queues whose consumers all know bundles have them: those of `pressure.multiprocessing` without
a name. To the server a bundle is one item of a certain weight, which is taken, given back and
acknowledged as a whole. Who hands out its items one by one has acknowledged it within the time in
which a single item would be, or cuts it by then: what is left goes back, each item by itself.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Sequence
from typing import Any

from pressure import envelope
from pressure.core import Core
from pressure.session import Session

__all__ = [
    "LEAST",
    "is_bundle",
    "is_one",
    "joined",
    "packed",
    "singly",
    "sizes",
    "split",
    "unpacked",
    "weight",
]

LEAST, MOST = 16, 32
"""Who puts so few items at a time puts each by itself; and the most items of a bundle."""
MOST_BYTES = 16 * 1024
"""So large is a bundle at most. What an element costs matters little for large items."""
FRESH = 0.1
"""For so long (seconds) it is taken for true that there is just one consumer. Several would give
back to each other what they don't need of a bundle, and get items out of order."""
ONCE = b"multiprocessing.resource_sharer"
"""What has this in its pickle, as connections and sockets have, may be unpickled only once; items
of a bundle may be unpickled again if that took long."""
BOUND_SHARE = 4
"""A bundle fills no more than this part of a queue's bound."""

_COUNT = struct.Struct(">H")


def is_bundle(item: bytes) -> bool:
    """Whether an envelope says that it is one."""
    return len(item) > envelope.HEADER_BYTES and bool(item[1] & envelope.BUNDLE)


def is_one(core: Core[Any], item: bytes) -> bool:
    """The same for an item of this queue, which may be anything if its items are raw."""
    return not core.raw and is_bundle(item)


def weight(core: Core[Any], item: bytes) -> int:
    """How many items an element carries."""
    if not is_one(core, item):
        return 1
    (count,) = _COUNT.unpack_from(item, envelope.HEADER_BYTES)
    return int(count)


def sizes(core: Core[Any], session: Session[Any], bodies: Sequence[bytes]) -> list[int]:
    """How many of these, which are put at once, each element is to have, in order; empty if each is
    to go by itself, as the last one always does: the caller may wait for what becomes of it."""
    if len(bodies) < LEAST or time.monotonic() - session.alone_at > FRESH:
        return []
    most = min(MOST, core.bound // BOUND_SHARE) if core.bound else MOST
    if most < LEAST or max(map(len, bodies)) > MOST_BYTES:
        return []
    if any([ONCE in body for body in bodies]):
        return []
    groups: list[int] = []
    size = count = 0
    for body in bodies[:-1]:
        size += len(body)
        if count == most or (count and size > MOST_BYTES):
            groups.append(count)
            size, count = len(body), 0
        count += 1
    return [*groups, count, 1]


def packed(core: Core[Any], bodies: Sequence[bytes], groups: Sequence[int]) -> list[bytes]:
    """The elements of some bodies, of which each carries as many as `sizes` says."""
    codec = core.codec
    assert codec is not None
    values = []
    at = 0
    for size in groups:
        if size == 1:
            values += singly(core, bodies[at : at + 1])
        else:
            body = joined(bodies[at : at + size])
            values.append(codec.pack(core.message_id(), body, flags=envelope.BUNDLE))
        at += size
    return values


def unpacked(core: Core[Any], item: bytes) -> list[bytes]:
    """The bodies of a bundle, whose signature is checked; none if it is unsound."""
    codec = core.codec
    assert codec is not None
    body = codec.open_bundle(item)
    try:
        return split(body) if body is not None else []
    except ValueError:
        return []


def singly(core: Core[Any], bodies: Iterable[bytes]) -> list[bytes]:
    """Each of these as an element of its own."""
    codec = core.codec
    assert codec is not None
    return [codec.pack_plain(core.message_id(), body) for body in bodies]


def joined(bodies: Sequence[bytes]) -> bytes:
    """The body of a bundle of these."""
    lengths = struct.pack(f">{len(bodies)}I", *map(len, bodies))
    return b"".join((_COUNT.pack(len(bodies)), lengths, *bodies))


def split(body: bytes) -> list[bytes]:
    """What `joined` joined. Raises `ValueError` if it is nothing of the kind."""
    try:
        (count,) = _COUNT.unpack_from(body)
        lengths = struct.unpack_from(f">{count}I", body, _COUNT.size)
    except struct.error as exc:
        raise ValueError("it is no bundle of items") from exc
    at = _COUNT.size + 4 * count
    bodies = []
    for length in lengths:
        bodies.append(body[at : at + length])
        at += length
    if at != len(body):
        raise ValueError("it is no bundle of items")
    return bodies
