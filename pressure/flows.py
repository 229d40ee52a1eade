"""The rules of blocking, waking and recovering, stated once.

Each function is a flow: a generator that yields `Command`, `Block` and `Sleep` requests and is sent
the replies. Drivers run them over a synchronous or an asyncio connection, so there is one statement
of the logic and no second copy. Deadlines are `time.monotonic` values; None waits for ever, 0 not
at all.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from pressure.bundles import is_one
from pressure.core import Core
from pressure.errors import (
    DELETED_MEANWHILE,
    OperationUnblocked,
    PressureError,
    QueueClosedError,
    QueueDoesNotExistError,
    QueueInUseError,
)
from pressure.protocol import Status
from pressure.recovering import adopt, reap_due, reap_gone, retire, taken_expires
from pressure.replication import put_replicated
from pressure.requests import Block, Flow, Sleep
from pressure.retry import Disconnected
from pressure.session import ID_BYTES, Session

__all__ = [
    "RECHECK",
    "RECHECK_LIMIT",
    "SLICE",
    "TINY",
    "OtherGeneration",
    "TailLost",
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
    "taken_expires",
    "wait_at_most",
]

SLICE = 2.0
"""The longest block at the server (seconds). A blocked caller costs two commands a slice."""
TINY = 0.005
"""Time-outs below this (seconds) do not block at the server, whose timer is coarser."""
RECHECK = 0.02
"""How often to look again at items that another consumer has fetched ahead and may give back."""
RECHECK_LIMIT = 0.5
UNSETTLED_LIMIT = 10.0
"""How long a closed queue waits for calls that were cut short to give back what they had taken."""
BATCH, BATCH_BYTES = 1000, 1 << 20
AT_ONCE = float("-inf")
"""A deadline: don't even wait for places that are only held for a moment."""


class OtherGeneration(Exception):
    """The queue was deleted and made anew: what was encoded for the old one must be encoded again.
    Internal."""


class TailLost(Exception):
    """The server, which took over from another, lacks what this producer put after `number`, though
    that was confirmed. Nothing was put now. Internal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


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
    """Put values in order; returns how many were accepted by `until`, of a producer that keeps
    track of what is confirmed as many as one put takes. Raises `OtherGeneration` only while none
    has been."""
    accepted = 0
    # Another thread may make the queue anew; this call is for the one that was there at its start.
    generation = core.generation
    unblocked = core.unblocked
    refusals: _Refusals | None = None
    try:
        while accepted < len(values):
            batch = values if len(values) == 1 else _next_batch(values, accepted)
            command = core.protocol.put(
                generation,
                session.producer,
                session.next_number(),
                core.client,
                batch,
                mode=mode,
                ttl_ms=core.ttl_ms,
                hold=session.hold,
                confirmed=session.confirmed,
            )
            if core.settings.min_replicas:
                reply = yield from put_replicated(core, session, command)
            else:
                reply = yield command
            if reply[0] == Status.OK:
                accepted += reply[1]
                session.places = reply[2]
                if reply[3:]:
                    session.alone_at = time.monotonic() if reply[3] == 1 else -math.inf
                if session.confirmed >= 0:
                    session.confirmed = session.sequence
                    # What such a producer puts with one call is known by one number: if that is
                    # lost, so is all of it.
                    break
                refusals = None
                if until == AT_ONCE and reply[1] < len(batch):
                    break
            else:
                refusals = refusals or _Refusals(core, until, accepted > 0, unblocked)
                if not (yield from refusals.wait(session, reply)):
                    break
    except PressureError as exc:
        exc.accepted += accepted
        raise
    return accepted


class _Refusals:
    """What a put does that is refused, once or more in a row."""

    __slots__ = ("_core", "_gave_up_at", "_unblocked", "_until", "_waited")

    def __init__(self, core: Core[Any], until: float | None, begun: bool, unblocked: int) -> None:
        self._core = core
        self._until = until
        self._waited = begun
        self._gave_up_at: float | None = None
        self._unblocked = unblocked

    def wait(self, session: Session[Any], reply: Any) -> Flow[bool]:
        """Wait until it may be tried again; False when there is no time left for that."""
        core, until = self._core, self._until
        status = reply[0]
        if status == Status.FULL:
            session.places = 0
            if expired(until):
                # Some of the room is held by others, who use it or free it at once.
                if not reply[1] or until == AT_ONCE:
                    return False
                self._gave_up_at = self._gave_up_at or time.monotonic() + RECHECK_LIMIT
                if time.monotonic() >= self._gave_up_at:
                    return False
                yield Sleep(RECHECK)
                return True
            check_unblocked(core, self._unblocked)
            self._waited = True
            yield wait_at_most(core.protocol.wait_for_room, until)
        elif status == Status.IN_USE:
            self._waited = True
            yield from await_role(core, "producer", reply[1], until)
            check_unblocked(core, self._unblocked)
        elif status == Status.CLOSED:
            raise QueueClosedError(core.name)
        elif status == Status.LOST:
            raise TailLost(reply[1])
        elif status == Status.AGAIN and not self._waited:
            raise OtherGeneration
        else:
            raise QueueDoesNotExistError(core.name, DELETED_MEANWHILE if self._waited else "")
        return True


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
    settled: bool | None = None
    gave_up_at: float | None = None
    unblocked = core.unblocked
    while True:
        if session.stale:
            items = yield from adopt(core, session)
            if items:
                return Taken(items, session.adopted_ahead, waited)
        last_try = expired(until)
        acks, number = session.collect_for_take(raw=core.raw)
        waiter = _waiter(session, blocking=not last_try)
        try:
            reply = yield core.protocol.take(
                generation,
                session.consumer,
                core.client,
                lease_ms=core.lease_ms,
                known=session.known,
                blocked=session.waiting,
                count=count,
                ahead=ahead,
                ttl_ms=core.ttl_ms,
                waiter=waiter,
                number=number,
                acks=acks,
                in_a_row=session.is_row(acks),
            )
        except BaseException as exc:
            session.doubt(number, acks)
            if isinstance(exc, Disconnected):
                continue
            raise
        status, session.acknowledging = reply[0], None
        if status == Status.EMPTY and len(reply) == 1:
            session.scattered(acks)
            continue
        if status in (Status.OK, Status.EMPTY, Status.CLOSED, Status.IN_USE):
            session.register(generation)
            session.waiting = status == Status.EMPTY and not (last_try or reply[3:])
        if status == Status.OK:
            behind = len(reply) - 2 + is_one(core, reply[1])
            return Taken(reply[1:], behind if ahead else 0, waited)
        if status == Status.EMPTY:
            _, lapsed, fetched_ahead, *pausing = reply
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
            if pausing:
                yield wait_at_most(core.protocol.wait_for_resume, until)
                check_unblocked(core, unblocked)
                continue
            item = yield from _blocking_take(core, session, generation, until)
            if item is not None:
                return Taken([item], int(is_one(core, item)), waited)
            check_unblocked(core, unblocked)
        elif status == Status.CLOSED:
            gave_up_at = gave_up_at or time.monotonic() + RECHECK_LIMIT
            # Not the end if a lease has run out, a late command has moved something to a consumer
            # that is gone, or a cut-short call of this handle may give something back: look again.
            before, patient = settled, time.monotonic() < gave_up_at + UNSETTLED_LIMIT
            settled = not (patient and core.unsettled(but=session))
            if before is None:
                yield from reap_gone(core)
                continue
            if before and settled and not reply[1]:
                raise QueueClosedError(core.name)
            # What others have fetched ahead, they hand out or give back. If one of them died, the
            # reaper does so later.
            if last_try and time.monotonic() >= gave_up_at:
                return Taken([], 0, waited)
            check_unblocked(core, unblocked)
            yield Sleep(RECHECK if time.monotonic() < gave_up_at else RECHECK_LIMIT)
        elif status == Status.LOST:
            core.lost_lease(session)
            session.reset()
        elif status == Status.IN_USE:
            waited = True
            yield from await_role(core, "consumer", reply[1], until)
            check_unblocked(core, unblocked)
        elif status == Status.AGAIN and not waited:
            session.reset()
            yield from describe(core)
            generation = core.generation
        else:
            session.reset()
            raise QueueDoesNotExistError(core.name, DELETED_MEANWHILE if waited else "")


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
        item: bytes | None = yield Block(command, seconds, until, taken_expires(core, session))
        if item is None:
            return None
        # Of a bundle the server sees for itself that it counts as fetched ahead.
        size = -1 if is_one(core, item) else len(item)
        reply = yield core.protocol.settle(generation, session.consumer, core.client, size)
    except OperationUnblocked:
        # The caller gave up, and nothing came: it waits no longer.
        yield core.protocol.settle(generation, session.consumer, core.client, None)
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


def await_role(core: Core[Any], role: str, holder: bytes, until: float | None) -> Flow[None]:
    """Wait for a 0.15 client to return its role, without taking it."""
    # Anybody may have written it, and it may end up in a terminal.
    who = repr(holder.decode(errors="replace"))[1:-1] or "a client without a name"
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


def expired(until: float | None) -> bool:
    return until is not None and until <= time.monotonic()
