"""Bodies to elements of a queue: inline, beside it, or in bundles, as flows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from pressure import blobs, bundles, flows
from pressure.codec import Codec
from pressure.core import Core
from pressure.errors import (
    DELETED_MEANWHILE,
    PressureError,
    QueueDoesNotExistError,
    QueueError,
    ServerOutOfMemoryError,
)
from pressure.requests import Flow
from pressure.session import Session

__all__ = ["Prepared", "prepare", "put_bodies"]


class Prepared(NamedTuple):
    """What travels of some bodies, as long as the queue is the one of this codec."""

    codec: Codec
    values: Sequence[bytes]


def prepare(core: Core[Any], bodies: Sequence[bytes]) -> Prepared | None:
    """Make what travels of some bodies before it is their turn; None if that can't be done yet."""
    codec = core.codec
    values = _packed_inline(core, bodies) if codec is not None and not core.bundles else None
    return Prepared(codec, values) if codec is not None and values is not None else None


def put_bodies(
    core: Core[Any],
    session: Session[Any],
    bodies: Sequence[bytes],
    until: float | None,
    mode: str = "",
    *,
    waited: bool = False,
    prepared: Prepared | None = None,
) -> Flow[int]:
    """Put serialized items; returns how many were accepted by `until`. `waited`: an earlier try has
    waited for room, so nothing may get into a successor of the queue. `prepared`: see `prepare`."""
    if not core.generation:
        yield from flows.describe(core)
    done = 0
    groups = bundles.sizes(core, session, bodies) if core.bundles else []
    if groups:
        done = yield from _put_bundles(core, session, bodies, groups, until)
        bodies = bodies[done:]
        if not bodies or (until == flows.AT_ONCE and len(bodies) == 1):
            return done
    while True:
        large: dict[int, bytes] = {}
        if prepared is not None and prepared.codec is core.codec:
            values: Sequence[bytes] | None = prepared.values
        else:
            values = _packed_inline(core, bodies)
        if values is None:
            values, large = yield from _pack(core, bodies)
        try:
            accepted = yield from flows.put(core, session, values, until, mode)
            if large:
                yield from _discard_refused(core, large, accepted)
            return done + accepted
        except flows.OtherGeneration:
            yield from _discard_refused(core, large, 0)
            yield from flows.describe(core)
            if waited:
                raise QueueDoesNotExistError(core.name, DELETED_MEANWHILE) from None
        except PressureError as exc:
            if isinstance(exc, QueueError | ServerOutOfMemoryError):
                yield from _discard_refused(core, large, exc.accepted)
            exc.accepted += done
            raise


def _put_bundles(
    core: Core[Any],
    session: Session[Any],
    bodies: Sequence[bytes],
    groups: Sequence[int],
    until: float | None,
) -> Flow[int]:
    """Put some bodies in groups of these sizes, without waiting for room; returns how many were
    accepted; none if the queue is another than it was."""
    values = bundles.packed(core, bodies, groups)
    try:
        # There may be no room for a bundle while there is some for an item.
        wait = flows.AT_ONCE if core.bound else until
        accepted = yield from flows.put(core, session, values, wait)
    except flows.OtherGeneration:
        return 0
    except PressureError as exc:
        exc.accepted = sum(groups[: exc.accepted])
        raise
    return sum(groups[:accepted])


def _packed_inline(core: Core[Any], bodies: Sequence[bytes]) -> Sequence[bytes] | None:
    """The items of some bodies; None if one is too large to travel inline."""
    if core.raw:
        return bodies
    codec = core.codec
    assert codec is not None
    pack, message_id = codec.pack_plain, core.message_id
    if len(bodies) == 1:
        body = bodies[0]
        return [pack(message_id(), body)] if len(body) <= blobs.INLINE_BYTES else None
    if max(map(len, bodies), default=0) > blobs.INLINE_BYTES:
        return None
    return [pack(message_id(), body) for body in bodies]


def _pack(core: Core[Any], bodies: Sequence[bytes]) -> Flow[tuple[list[bytes], dict[int, bytes]]]:
    """The items of some bodies, and those whose bodies lie beside the queue by their places."""
    codec = core.codec
    assert codec is not None
    values: list[bytes] = []
    large: dict[int, bytes] = {}
    for at, body in enumerate(bodies):
        message_id = core.message_id()
        if len(body) <= blobs.INLINE_BYTES:
            values.append(codec.pack_plain(message_id, body))
            continue
        try:
            value = yield from blobs.upload(core, message_id, body)
        except ServerOutOfMemoryError:
            # What was stored of them would keep the memory full.
            yield from _discard_refused(core, large, 0)
            raise
        values.append(value)
        large[at] = value
    return values, large


def _discard_refused(core: Core[Any], large: dict[int, bytes], accepted: int) -> Flow[None]:
    for at, item in large.items():
        if at >= accepted:
            yield from blobs.discard(core, item)
