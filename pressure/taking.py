"""Items of a queue to a consumer's taken list, as flows: the rules of waiting for one."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from pressure.bundles import is_one
from pressure.core import Core
from pressure.errors import (
    DELETED_MEANWHILE,
    OperationUnblocked,
    QueueClosedError,
    QueueDoesNotExistError,
)
from pressure.flows import (
    RECHECK,
    RECHECK_LIMIT,
    SLICE,
    TINY,
    await_role,
    check_unblocked,
    describe,
    expired,
    wait_at_most,
)
from pressure.protocol import Status
from pressure.recovering import adopt, reap_due, reap_gone, taken_expires
from pressure.requests import Block, Flow, Sleep
from pressure.retry import Disconnected
from pressure.session import Session

__all__ = ["Taken", "take"]

UNSETTLED_LIMIT = 10.0
"""How long a closed queue waits for calls that were cut short to give back what they had taken."""


class Taken(NamedTuple):
    """What `take` brought: `ahead` is how many of the last items count as fetched ahead; `waited`
    says that the first had to be waited for."""

    items: list[bytes]
    ahead: int
    waited: bool


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


def _waiter(session: Session[Any], *, blocking: bool) -> str:
    if blocking:
        waiter: str = session.link.waiter
        return waiter
    return "-" if session.waiting else ""
