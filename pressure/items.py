"""Objects to items and back, as flows: they may have to fetch a blob or bury an item.

Nothing is unpickled before its size and signature were checked. What cannot be read goes to the
dead-letter list with the reason, and the queue goes on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from pressure import bundles, envelope, flows, taking
from pressure.core import Ahead, Core, reason
from pressure.errors import (
    PayloadError,
    SignatureError,
)
from pressure.protocol import Status
from pressure.reading import UNREAD, Unreadable, quickly_read, read_item
from pressure.requests import Flow, Sleep
from pressure.retry import Disconnected
from pressure.session import Session
from pressure.upkeep import ADOPTION

__all__ = [
    "SKIPPED",
    "Fetched",
    "Gathered",
    "bury_ahead",
    "fetch",
    "gather",
    "open_ahead",
    "open_item",
    "open_leased",
]

SKIPPED = object()
"""What `open_item` returns for an item that was buried for its deliveries, or that is not this
consumer's any more: take the next one."""


class Fetched(NamedTuple):
    """An item that was taken: its tag, the object (or `SKIPPED`), and how often it was delivered in
    vain before. `ahead` says that it was there at once, and others may have been fetched along with
    it; `kind`, how it is to be acknowledged."""

    tag: bytes
    obj: Any
    deliveries: int
    ahead: bool
    kind: str


def fetch(
    core: Core[Any], session: Session[Any], count: int, until: float | None, *, ahead: bool
) -> Flow[Fetched | None]:
    """Take up to `count` items by `until`, open the first and keep the others for later calls.

    It is neither acknowledged nor noted as leased yet: that is up to the caller, who knows whether
    it was handed out. Raises as `taking.take` and `open_item` do.
    """
    if not core.generation:
        yield from flows.describe(core)
    taken, behind, waited = yield from taking.take(core, session, count, until, ahead=ahead)
    if not taken:
        return None
    direct = len(taken) - behind
    try:
        if core.unbundles and any(map(bundles.is_bundle, taken)):
            # The first is opened by whoever takes the next one of those.
            core.store_ahead(session, "g", taken[:direct])
            core.store_ahead(session, "a", taken[direct:])
            return Fetched(b"", SKIPPED, 0, ahead and not waited, "")
        if not core.raw and any(map(bundles.is_bundle, taken)):
            yield from _cut_all(core, session, taken, direct)
            return Fetched(b"", SKIPPED, 0, False, "")
        if len(taken) > 1:
            core.store_ahead(session, "g", taken[1:direct])
            core.store_ahead(session, "a", taken[max(direct, 1) :])
        tag = core.tag_of(taken[0])
        obj, deliveries = quickly_read(core, taken[0])
        if obj is UNREAD:
            obj, deliveries = yield from open_leased(core, session, tag, taken[0], ahead=not direct)
        elif type(obj) is Unreadable:
            if (yield from _bury_unreadable(core, session, tag, obj.error, ahead=not direct)):
                raise obj.error
            obj = SKIPPED
    except PayloadError:
        raise
    except BaseException:
        # The session's next use finds it.
        session.stale = True
        raise
    return Fetched(tag, obj, deliveries, ahead and not waited, "g" if direct else "a")


def _cut_all(
    core: Core[Any], session: Session[Any], taken: Sequence[bytes], direct: int
) -> Flow[None]:
    """Put items back of which some are bundles, of these each item by itself. All but the `direct`
    first count as fetched ahead."""
    unsound = []
    for at, item in reversed(list(enumerate(taken))):
        bodies = bundles.unpacked(core, item) if bundles.is_bundle(item) else []
        tag, ahead = core.tag_of(item), at >= direct
        if bodies:
            values = bundles.singly(core, bodies)
            reply = yield core.protocol.cut(session.consumer, tag, values, ahead=ahead)
        elif bundles.is_bundle(item):
            unsound.append((tag, item, ahead))
            continue
        else:
            tags = [tag]
            reply = yield core.protocol.give_back(session.consumer, tags, charge=False, ahead=ahead)
        session.stale = session.stale or reply[0] == Status.LOST
    for tag, item, ahead in unsound:
        # Should there be more, the session's next use finds them.
        session.stale = session.stale or len(unsound) > 1
        yield from open_leased(core, session, tag, item, ahead=ahead)


def open_ahead(core: Core[Any], ahead: Ahead[Any]) -> Flow[Any]:
    """The object of an item that was fetched ahead, as `open_item`."""
    try:
        return (yield from open_item(core, ahead.session, ahead.tag, ahead.item))
    except PayloadError:
        raise
    except BaseException:
        ahead.session.stale = True
        raise


class Gathered(NamedTuple):
    """Items and their objects, oldest first. `ahead` as in `Fetched`."""

    items: list[tuple[Ahead[Any], Any]]
    ahead: bool = False


def gather(
    core: Core[Any],
    session: Session[Any],
    most: int,
    until: float | None,
    *,
    count: int,
    ahead: bool = False,
) -> Flow[Gathered]:
    """Up to `most` items that can be had by `until`: those fetched ahead first, else `count` are
    taken (0: none are). Empty if there were none. None is acknowledged yet, and an end by force
    loses none.

    Raises as `fetch` does while there is nothing.
    """
    found: list[tuple[Ahead[Any], Any]] = []
    fetched_ahead = False
    try:
        while len(found) < most:
            next_one = core.pop_ahead()
            if next_one is not None:
                try:
                    obj = yield from open_ahead(core, next_one)
                except PayloadError:
                    core.moved(next_one)
                    if not found:
                        raise
                    # It is in the dead letters; those that were found must reach the caller.
                    continue
                if obj is SKIPPED:
                    core.moved(next_one)
                else:
                    found.append((next_one, obj))
            elif found or not count:
                break
            else:
                fetched = yield from fetch(core, session, count, until, ahead=ahead)
                if fetched is None:
                    break
                fetched_ahead = fetched.ahead
                if fetched.obj is not SKIPPED:
                    one = Ahead(session, session.life, (fetched.kind, fetched.tag), b"")
                    session.opening.append(one.mark)
                    found.append((one, fetched.obj))
    except PayloadError:
        raise
    except BaseException:
        for one, _ in found:
            one.session.stale = True
            core.moved(one)
        raise
    return Gathered(found, fetched_ahead)


def open_item(core: Core[Any], session: Session[Any], tag: bytes, item: bytes) -> Flow[Any]:
    """The object of an item that the session holds.

    Raises `PayloadError` for one that cannot be read, which is in the dead letters then; returns
    `SKIPPED` for one that was delivered too often, which is there, too, and for one that cannot be
    read since the lease was lost meanwhile: whoever has it now may have freed its body.
    """
    obj, _ = yield from open_leased(core, session, tag, item)
    return obj


def open_leased(
    core: Core[Any], session: Session[Any], tag: bytes, item: bytes, *, ahead: bool = False
) -> Flow[tuple[Any, int]]:
    """As `open_item`, and how often the item was delivered in vain before. `ahead` says that it
    counts as fetched ahead, should nobody have stored it so."""
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
        yield from _bury(core, session, more, tag, ahead)
        return SKIPPED, deliveries
    try:
        return (yield from read_item(core, item)), deliveries
    except PayloadError as exc:
        if (yield from _bury_unreadable(core, session, tag, exc, ahead=ahead)):
            raise
        return SKIPPED, deliveries


def bury_ahead(core: Core[Any], ahead: Ahead[Any], error: PayloadError) -> Flow[Any]:
    """Bury an item that was fetched ahead for `error`, and raise that; returns `SKIPPED` if it is
    not this consumer's any more."""
    try:
        buried = yield from _bury_unreadable(core, ahead.session, ahead.tag, error)
    except BaseException:
        ahead.session.stale = True
        raise
    if buried:
        raise error
    return SKIPPED


def _bury_unreadable(
    core: Core[Any], session: Session[Any], tag: bytes, error: PayloadError, *, ahead: bool = False
) -> Flow[bool]:
    kind = "signature" if isinstance(error, SignatureError) else "unreadable"
    return (yield from _bury(core, session, reason(kind, error.detail), tag, ahead))


def _bury(core: Core[Any], session: Session[Any], why: str, tag: bytes, ahead: bool) -> Flow[bool]:
    """Returns whether the item is in the dead letters; else the lease was lost."""
    # What was fetched ahead fills the bound until it is taken off that count.
    ahead = ahead or ("a", tag) in session.opening
    again = False
    life = session.life
    patience = time.monotonic() + ADOPTION
    while True:
        consumer = session.consumer
        command = core.protocol.bury(consumer, why, [tag], ahead=ahead)
        try:
            reply = yield command._replace(repeatable=False)
        except Disconnected:
            again = True
            continue
        if reply[0] != Status.LOST:
            # While the lease holds, only the first try can have removed it.
            buried: bool = again or reply[1] > 0
            session.stale = session.stale or not buried
            return buried
        if session.life != life:
            return False
        # The session's connection broke meanwhile, and its items have a new owner's name, or will
        # have it as soon as it is known here.
        if session.stale and time.monotonic() < patience:
            yield Sleep(flows.RECHECK)
        elif session.consumer == consumer:
            # Another thread may be using the session: its next use starts over.
            core.lost_lease(session)
            session.forfeit()
            return False
