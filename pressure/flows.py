"""The rules of blocking, waking and recovering, stated once.

Each function is a flow: a generator that yields `Command`, `Block` and `Sleep` requests and is sent
the replies. Drivers run them over a synchronous or an asyncio connection, so there is one statement
of the logic and no second copy. Deadlines are `time.monotonic` values; None waits for ever, 0 not
at all.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from pressure.core import Core
from pressure.errors import (
    OperationUnblocked,
    PressureError,
    QueueClosedError,
    QueueDoesNotExistError,
    QueueInUseError,
)
from pressure.protocol import Status
from pressure.requests import Block, Flow, Sleep
from pressure.retry import Disconnected
from pressure.session import ID_BYTES, Session

__all__ = [
    "RECHECK",
    "RECHECK_LIMIT",
    "SLICE",
    "TINY",
    "OtherGeneration",
    "Taken",
    "adopt",
    "await_role",
    "check_unblocked",
    "describe",
    "expired",
    "put",
    "reap_due",
    "retire",
    "role_waiter",
    "take",
    "wait_at_most",
]

SLICE = 2.0
"""The longest block at the server (seconds). A blocked caller costs two commands a slice."""
TINY = 0.005
"""Time-outs below this (seconds) do not block at the server, whose timer is coarser."""
RECHECK = 0.02
"""How often to look again at items that another consumer has fetched ahead and may give back."""
RECHECK_LIMIT = 0.5
BATCH = 1000
BATCH_BYTES = 1 << 20
AT_ONCE = float("-inf")
"""A deadline: don't even wait for places that are only held for a moment."""


class OtherGeneration(Exception):
    """The queue was deleted and made anew: what was encoded for the old one must be encoded again.
    Internal."""


class Taken(NamedTuple):
    """What `take` brought: `ahead` is how many of the last items count as fetched ahead; `waited`
    says that the first had to be waited for."""

    items: list[bytes]
    ahead: int
    waited: bool


def describe(core: Core[Any]) -> Flow[bool]:
    """Learn generation and bound. Returns whether the queue is closed."""
    reply = yield core.protocol.describe(os.urandom(ID_BYTES).hex().encode())
    if reply[0] == Status.ABSENT:
        raise QueueDoesNotExistError(core.name)
    _, bound, generation, closed = reply
    if generation != core.generation or bound != core.bound:
        core.learn(generation, bound)
    return bool(closed)


def put(
    core: Core[Any],
    session: Session[Any],
    values: Sequence[bytes],
    until: float | None,
    mode: str = "",
) -> Flow[int]:
    """Put values in order; returns how many were accepted by `until`. Raises `OtherGeneration`
    only while none has been."""
    accepted = 0
    # Another thread may make the queue anew; this call is for the one that was there at its start.
    generation = core.generation
    try:
        while accepted < len(values):
            more = yield from _put_some(core, session, generation, values, accepted, until, mode)
            if not more:
                break
            accepted += more
    except PressureError as exc:
        exc.accepted = accepted
        raise
    return accepted


def _put_some(
    core: Core[Any],
    session: Session[Any],
    generation: bytes,
    values: Sequence[bytes],
    accepted: int,
    until: float | None,
    mode: str,
) -> Flow[int]:
    """Put the next batch of `values`, as far as there is room for it; waits for room for one."""
    waited = False
    gave_up_at: float | None = None
    unblocked = core.unblocked
    while True:
        batch = _next_batch(values, accepted)
        reply = yield core.protocol.put(
            generation,
            session.producer,
            session.next_number(),
            core.client,
            batch,
            mode=mode,
            ttl_ms=core.ttl_ms,
            hold=session.hold,
        )
        status = reply[0]
        if status == Status.OK:
            count: int = reply[1]
            session.places = reply[2]
            return count
        if status == Status.FULL:
            session.places = 0
            if expired(until):
                # Some of the room is held by others, who use it or free it at once.
                if not reply[1] or until == AT_ONCE:
                    return 0
                gave_up_at = gave_up_at or time.monotonic() + RECHECK_LIMIT
                if time.monotonic() >= gave_up_at:
                    return 0
                yield Sleep(RECHECK)
                continue
            check_unblocked(core, unblocked)
            waited = True
            yield wait_at_most(core.protocol.wait_for_room, until)
        elif status == Status.IN_USE:
            yield from await_role(core, "producer", reply[1], until)
            check_unblocked(core, unblocked)
        elif status == Status.CLOSED:
            raise QueueClosedError(core.name)
        elif status == Status.AGAIN and not (waited or accepted):
            raise OtherGeneration
        else:
            _raise_absent(core, waited or accepted > 0)


def _next_batch(values: Sequence[bytes], start: int) -> Sequence[bytes]:
    size = 0
    for at in range(start, min(start + BATCH, len(values))):
        size += len(values[at])
        if size > BATCH_BYTES and at > start:
            return values[start:at]
    return values[start : start + BATCH]


def take(
    core: Core[Any],
    session: Session[Any],
    count: int,
    until: float | None,
    *,
    ahead: bool = False,
) -> Flow[Taken]:
    """Take up to `count` items, oldest first; none if there was none by `until`.

    Raises `QueueClosedError` once the queue is closed and drained.
    """
    waited = False
    generation = core.generation
    gave_up_at: float | None = None
    unblocked = core.unblocked
    while True:
        if session.stale:
            items = yield from adopt(core, session)
            if items:
                return Taken(items, session.adopted_ahead, waited)
        last_try = expired(until)
        acks = session.collect()
        number = session.next_number() if acks.tags else 0
        waiter = _waiter(session, blocking=not last_try)
        try:
            reply = yield core.protocol.take(
                generation,
                session.consumer,
                core.client,
                lease_ms=core.lease_ms,
                known=session.known,
                count=count,
                ahead=ahead,
                ttl_ms=core.ttl_ms,
                waiter=waiter,
                number=number,
                acks=acks,
            )
        except BaseException as exc:
            session.doubt(number, acks)
            if isinstance(exc, Disconnected):
                continue
            raise
        status = reply[0]
        if status in (Status.OK, Status.EMPTY, Status.CLOSED, Status.IN_USE):
            session.known = True
            session.waiting = status == Status.EMPTY and not last_try
        if status == Status.OK:
            return Taken(reply[1:], len(reply) - 2 if ahead else 0, waited)
        if status == Status.EMPTY:
            _, lapsed, fetched_ahead = reply
            if lapsed and (yield from reap_due(core)):
                continue
            if fetched_ahead and last_try:
                # Another consumer has fetched these, and gives back what it doesn't use.
                gave_up_at = gave_up_at or time.monotonic() + RECHECK_LIMIT
                if time.monotonic() < gave_up_at:
                    yield Sleep(RECHECK)
                    continue
            if last_try:
                return Taken([], 0, waited)
            check_unblocked(core, unblocked)
            waited = True
            if not waiter:
                # The connection was made only now: nobody could wake it yet.
                continue
            item = yield from _blocking_take(core, session, generation, until)
            if item is not None:
                return Taken([item], 0, waited)
            check_unblocked(core, unblocked)
        elif status == Status.CLOSED:
            if not reply[1]:
                raise QueueClosedError(core.name)
            # What others have fetched ahead, they hand out or give back. If one of them died, the
            # reaper does so later.
            gave_up_at = gave_up_at or time.monotonic() + RECHECK_LIMIT
            if last_try and time.monotonic() >= gave_up_at:
                return Taken([], 0, waited)
            check_unblocked(core, unblocked)
            yield Sleep(RECHECK if time.monotonic() < gave_up_at else RECHECK_LIMIT)
        elif status == Status.LOST:
            core.forfeited = True
            session.reset()
        elif status == Status.IN_USE:
            yield from await_role(core, "consumer", reply[1], until)
            check_unblocked(core, unblocked)
        elif status == Status.AGAIN and not waited:
            session.reset()
            yield from describe(core)
            generation = core.generation
        else:
            session.reset()
            _raise_absent(core, waited)


def _blocking_take(
    core: Core[Any], session: Session[Any], generation: bytes, until: float | None
) -> Flow[bytes | None]:
    """Block until an item comes, the slice ends, or the deadline passes."""
    left = SLICE if until is None else until - time.monotonic()
    if left < TINY:
        yield Sleep(max(0.0, left))
        return None
    seconds = min(SLICE, left + 0.1)
    command = core.protocol.blocking_take(session.consumer, seconds)
    try:
        item: bytes | None = yield Block(command, seconds, until)
        if item is None:
            return None
        reply = yield core.protocol.settle(generation, session.consumer, core.client, len(item))
    except OperationUnblocked:
        # The caller gave up, and nothing came: it waits no longer.
        yield core.protocol.settle(generation, session.consumer, core.client, 0)
        session.waiting = False
        raise
    except BaseException as exc:
        session.stale = True
        if isinstance(exc, Disconnected):
            return None
        raise
    session.waiting = False
    if reply[0] == Status.LOST:
        session.reset()
    return item if reply[0] == Status.OK else None


def adopt(core: Core[Any], session: Session[Any]) -> Flow[list[bytes]]:
    """Take a new consumer id after a lost reply, and find what that reply brought."""
    new = os.urandom(ID_BYTES)
    reply = yield core.protocol.adopt(session.consumer, new, core.lease_ms)
    if reply[0] == Status.LOST:
        # Never registered, or declared dead: nothing is held.
        session.reset()
        return []
    session.consumer = new
    session.known = True
    session.waiting = False
    session.stale = False
    _, number, ahead, *items = reply
    session.resolve(number)
    held = [(core.tag_of(item), item) for item in items]
    return session.unseen(held, ahead, core.on_the_way(session))


def reap_due(core: Core[Any]) -> Flow[int]:
    """Renew this handle's leases and put back what dead consumers held; returns how much."""
    consumers = core.consumers()
    lost, due = yield core.protocol.renew(core.lease_ms, consumers)
    if lost:
        gone = set(lost)
        for other in list(core.sessions):
            if other.known and other.consumer in gone:
                core.forfeited = True
                other.forfeit()
    given_back = 0
    for consumer in due:
        reply = yield core.protocol.reap(consumer)
        if reply[0] == Status.OK:
            given_back += reply[1]
    return given_back


def retire(core: Core[Any], session: Session[Any]) -> Flow[None]:
    """Clean up after a session whose last take was cut short: nobody waits for its items."""
    items = yield from adopt(core, session)
    tags = [core.tag_of(item) for item in items]
    direct = len(tags) - session.adopted_ahead
    try:
        if tags[direct:]:
            yield core.protocol.give_back(session.consumer, tags[direct:], charge=False, ahead=True)
        if tags[:direct]:
            yield core.protocol.give_back(session.consumer, tags[:direct], charge=False)
    except BaseException:
        session.stale = True
        raise


def await_role(core: Core[Any], role: str, holder: bytes, until: float | None) -> Flow[None]:
    """Wait for a 0.15 client to return its role, without taking it."""
    who = holder.decode(errors="replace") or "a client without a name"
    text = f"the {role} role is held by {who}, a client of protocol 0.15; if it is dead, "
    text += f"break_role({role!r}) frees the role"
    if expired(until):
        raise QueueInUseError(core.name, text)
    freed = yield wait_at_most(role_waiter(core, role), until)
    if freed is None and not expired(until):
        core.warn_once(text)


def role_waiter(core: Core[Any], role: str) -> Any:
    return lambda seconds: core.protocol.wait_for_role(role, seconds)


def wait_at_most(command: Any, until: float | None) -> Block | Sleep:
    left = SLICE if until is None else until - time.monotonic()
    if left < TINY:
        return Sleep(max(0.0, left))
    seconds = min(SLICE, left + 0.1)
    return Block(command(seconds), seconds, until)


def _waiter(session: Session[Any], *, blocking: bool) -> str:
    if blocking:
        waiter: str = session.link.waiter
        return waiter
    return "-" if session.waiting else ""


def check_unblocked(core: Core[Any], since: int) -> None:
    if core.unblocked != since:
        raise OperationUnblocked(core.name)


def _raise_absent(core: Core[Any], waited: bool) -> None:
    raise QueueDoesNotExistError(
        core.name, "it was deleted while this operation waited" if waited else ""
    )


def expired(until: float | None) -> bool:
    return until is not None and until <= time.monotonic()
