"""What is found again: the items of a lost reply, and those of consumers that died, as flows."""

from __future__ import annotations

import os
from typing import Any

from pressure.commands import Command, Status
from pressure.core import Core
from pressure.requests import Flow
from pressure.session import ID_BYTES, Session

__all__ = ["adopt", "reap_due", "reap_gone", "retire", "taken_expires"]


def adopt(
    core: Core[Any], session: Session[Any], all_held: list[bytes] | None = None
) -> Flow[list[bytes]]:
    """Take a new consumer id after a lost reply, and find what that reply brought. `all_held` gets
    everything that is held."""
    # Cut short (by Ctrl-C, say), it may have been carried out: then only the same id finds all.
    new = session.heir = session.heir or os.urandom(ID_BYTES)
    reply = yield core.protocol.adopt(session.consumer, new, core.lease_ms)
    session.heir = b""
    if reply[0] == Status.LOST:
        # Never registered, or declared dead: nothing is held.
        session.reset()
        return []
    session.consumer = new
    session.register(core.generation)
    session.waiting = False
    session.stale = False
    _, number, ahead, *items = reply
    if all_held is not None:
        all_held += items
    held = [(core.tag_of(item), item) for item in items]
    session.resolve(number, {tag for tag, _ in held})
    return session.unseen(held, ahead, core.on_the_way(session))


def reap_due(core: Core[Any]) -> Flow[int]:
    """Renew this handle's leases and put back what dead consumers held; returns how much."""
    consumers = core.consumers()
    lost, due = yield core.protocol.renew(core.lease_ms, consumers)
    if lost:
        gone = set(lost)
        for other in list(core.sessions):
            if other.known and other.consumer in gone:
                core.lost_lease(other)
                other.forfeit()
    given_back = 0
    for consumer in due:
        reply = yield core.protocol.reap(consumer)
        if reply[0] == Status.OK:
            given_back += reply[1]
    return given_back


def reap_gone(core: Core[Any]) -> Flow[int]:
    """`reap_due`, and `_reap_departed`."""
    given_back = yield from reap_due(core)
    return given_back + (yield from _reap_departed(core))


def _reap_departed(core: Core[Any]) -> Flow[int]:
    """Put back what late commands have moved to consumers that are gone, without waiting until the
    reaper looks there anyway; returns how much."""
    departed = yield core.protocol.departed()
    if not departed:
        return 0
    taken = [core.protocol.keys.taken(consumer) for consumer in departed]
    if not (yield Command(("EXISTS", *taken))):
        return 0
    given_back = 0
    for consumer in departed:
        reply = yield core.protocol.reap(consumer)
        if reply[0] == Status.OK:
            given_back += reply[1]
    return given_back


def retire(core: Core[Any], session: Session[Any]) -> Flow[None]:
    """Clean up after a session whose last take was cut short: nobody waits for its items."""
    items = yield from adopt(core, session)
    tags = [core.tag_of(item) for item in items]
    direct = len(tags) - session.adopted_ahead
    # Until they are back: a closed queue has not come to its end before.
    session.stale = bool(tags)
    if tags[direct:]:
        yield core.protocol.give_back(session.consumer, tags[direct:], charge=False, ahead=True)
    if tags[:direct]:
        yield core.protocol.give_back(session.consumer, tags[:direct], charge=False)
    session.stale = False


def taken_expires(core: Core[Any], session: Session[Any]) -> Command | None:
    """What gives the list of what a consumer holds the queue's time to live, if that has one: where
    a plain command makes the list, it must not stay if this process dies at that moment."""
    if not core.ttl_ms:
        return None
    return core.protocol.expire(core.protocol.keys.taken(session.consumer), core.ttl_ms)
