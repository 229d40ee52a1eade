"""How to wait for one item at the cost of one round trip.

`pressure.taking.take` asks first, then blocks, then settles. Where items come one by one, and each
is waited for, this doesn't ask; it acknowledges, blocks and settles with commands that are sent at
once, and that the server carries out when their time comes. Where nobody depends on it, several
acknowledgements gather to one. Whatever doesn't go smoothly is left to `take`, which finds all that
this way may have brought. Nobody can wake such a wait when the queue is closed or deleted: it ends
by itself within two seconds, and `take` says why.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from redis.exceptions import NoScriptError

from pressure import flows, recovering
from pressure.core import Core
from pressure.errors import PressureError
from pressure.handle import Handle
from pressure.link import BLOCK_MARGIN, Link
from pressure.protocol import Acks, Command, Status
from pressure.retry import Broken
from pressure.scripts import SCRIPTS
from pressure.session import Session

__all__ = ["Arrival", "may_wait", "wait_for_one"]

LEAST = 0.02
"""Shorter waits (seconds) are not worth it."""
GATHER = 16
"""So many acknowledgements gather at most,"""
GATHER_FOR = 0.025
"""and for so long (seconds)."""


class Arrival(NamedTuple):
    """What came, if anything, and how many more are there. A bundle is counted as fetched ahead if
    it was settled."""

    item: bytes | None
    left: int
    settled: bool = True


NOTHING = Arrival(None, 0)


def may_wait(core: Core[Link], session: Session[Link], until: float | None) -> bool:
    """Whether the session is in a state for `wait_for_one`: known, connected, and empty-handed."""
    return (
        session.known
        and not session.stale
        and bool(session.link.waiter)
        and not session.leased
        and not session.opening
        and not session.aside
        and not core.has_ahead
        and bool(core.generation)
        and (until is None or until - time.monotonic() > LEAST)
    )


def wait_for_one(
    handle: Handle, session: Session[Link], until: float | None, *, at_once: bool
) -> Arrival:
    """Block until an item comes, a while passes, or the deadline does (monotonic). If nothing came,
    ask `take`: it may know why. `at_once`: the server must know at once what was got."""
    core, link = handle.core, session.link
    # Nobody waits for room in a queue without a bound, nor reads the statistics of one without a
    # name. There it is enough to know that the lease is not lost, which acknowledgements tell.
    counts = core.bound > 0 or not core.ttl_ms
    gathering = bool(session.pending) and not (counts or at_once or _overdue(session))
    patience = flows.SLICE if until is None else until - time.monotonic() + 0.1
    seconds = min(flows.SLICE, patience)
    acks = Acks() if gathering else session.collect()
    number = session.next_number() if acks.tags else 0
    settles = counts or not (acks.tags or gathering)
    try:
        commands = [core.protocol.blocking_take(session.consumer, seconds)]
        expires = recovering.taken_expires(core, session)
        if expires is not None:
            commands.append(expires)
        if settles:
            commands.append(
                core.protocol.settle(core.generation, session.consumer, core.client, -1)
            )
        else:
            commands.append(Command(("LLEN", core.protocol.keys.base)))
        if acks.tags:
            commands.insert(0, core.protocol.ack(session.consumer, acks, number))
        began = time.monotonic()
        link.send_all(commands)
        if acks.tags and link.receive()[0] != Status.OK:
            raise _NotSmooth
        session.acknowledging = None
        if gathering and not link.wait(_soonest(session.collected + GATHER_FOR, until)):
            # The connection is blocked.
            acks, number = session.collect(), session.next_number()
            reply: Any = handle.ask_aside(core.protocol.ack(session.consumer, acks, number))
            if reply[0] != Status.OK:
                raise _NotSmooth
            session.acknowledging = None
        item: bytes | None = _receive(handle, link, seconds, until)
        if expires is not None:
            link.receive()
        last = link.receive()
        if settles:
            settled, *rest = last
            left = rest[0] if rest else 0
        else:
            stood_still = time.monotonic() - began > core.settings.lease / 2
            settled, left = (Status.LOST if stood_still else Status.OK), last
        if settled != Status.OK:
            raise _NotSmooth
    except (_NotSmooth, Broken, TimeoutError, PressureError) as exc:
        link.close()
        session.doubt(number, acks)
        if isinstance(exc.__cause__, NoScriptError):
            for name in ("ack", "settle"):
                handle.ask(Command(("SCRIPT", "LOAD", SCRIPTS[name].text)))
        return NOTHING
    except BaseException:
        link.close()
        session.doubt(number, acks)
        raise
    session.waiting = False
    return Arrival(item, left, settles)


class _NotSmooth(Exception):
    pass


def _overdue(session: Session[Link]) -> bool:
    return len(session.pending) >= GATHER or time.monotonic() - session.collected >= GATHER_FOR


def _soonest(at: float, until: float | None) -> float:
    return at if until is None else min(at, until)


def _receive(handle: Handle, link: Link, seconds: float, until: float | None) -> Any:
    if until is None or time.monotonic() + seconds < until:
        # The command ends by itself, well before the socket's time-out.
        return link.receive()
    try:
        return link.receive(until)
    except TimeoutError:
        handle.unblock_all([link.waiter])
        return link.receive(time.monotonic() + BLOCK_MARGIN)
