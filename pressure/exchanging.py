"""The flow of a worker: record outcomes and claim the next items in one step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from pressure import flows
from pressure.core import Core
from pressure.errors import QueueClosedError, QueueDoesNotExistError
from pressure.protocol import Outcome, Status
from pressure.requests import Block, Flow, Sleep
from pressure.retry import Disconnected
from pressure.session import Session

__all__ = ["exchange", "wait_for_one"]


def exchange(
    core: Core[Any],
    session: Session[Any],
    outcomes: Sequence[Outcome],
    count: int,
    until: float | None,
) -> Flow[list[bytes]]:
    """Record outcomes and take up to `count` items on lease, blocking until `until` for the first.

    After a lost reply it is all sent again under a new consumer id: what was recorded then is no
    longer held, and so not recorded twice. Outcomes of lost leases are dropped. Raises
    `QueueClosedError`, `QueueDoesNotExistError`.
    """
    unblocked = core.unblocked
    fresh = True
    while True:
        if session.stale:
            found = yield from flows.adopt(core, session)
            _hold(core, session, found)
            if found and not outcomes:
                return found
            if found:
                # The first try recorded the outcomes and took these; or neither. Say it again.
                yield from exchange(core, session, outcomes, 0, 0.0)
                return found
        last_try = count == 0 or (until is not None and until <= time.monotonic())
        # It stays registered while it works: to unblock one that isn't blocked does no harm.
        waiter = "" if last_try or session.waiting else session.link.waiter
        try:
            reply = yield core.protocol.exchange(
                core.generation,
                session.consumer,
                core.client,
                outcomes,
                lease_ms=core.lease_ms,
                known=session.known,
                count=count,
                ttl_ms=core.ttl_ms,
                waiter=waiter,
                moved=session.moved,
            )
        except Disconnected:
            session.stale, session.stale_ahead = True, False
            continue
        except BaseException:
            session.stale, session.stale_ahead = True, False
            raise
        status = reply[0]
        if status in (Status.OK, Status.EMPTY, Status.CLOSED):
            session.known = True
            session.moved = 0
            for outcome in outcomes:
                session.leased.pop(outcome.tag, None)
            outcomes = ()
            session.waiting = session.waiting or (status == Status.EMPTY and not last_try)
        if status == Status.OK:
            items: list[bytes] = reply[2:]
            _hold(core, session, items)
            return items
        if status == Status.EMPTY:
            if reply[2] and (yield from flows.reap_due(core)):
                continue
            if last_try or core.unblocked != unblocked:
                return []
            fresh = False
            item = yield from wait_for_one(core, session, until)
            if item is not None:
                return [item]
        elif status == Status.CLOSED:
            if count == 0:
                return []
            raise QueueClosedError(core.name)
        elif status == Status.LOST:
            core.forfeited = True
            session.reset()
            outcomes = ()
            if count == 0:
                return []
        elif status == Status.AGAIN and fresh:
            # Made anew: nothing of what was held is known there.
            session.reset()
            outcomes = ()
            yield from flows.describe(core)
        else:
            session.reset()
            raise QueueDoesNotExistError(core.name)


def _hold(core: Core[Any], session: Session[Any], items: Sequence[bytes]) -> None:
    for item in items:
        session.leased[core.tag_of(item)] += 1


def wait_for_one(core: Core[Any], session: Session[Any], until: float | None) -> Flow[bytes | None]:
    """Block for one item. What `settle` does for it is left to the next `exchange`, which comes
    soon: until then no room is signalled. If the lease was lost, its outcome will be dropped."""
    left = flows.SLICE if until is None else until - time.monotonic()
    if left < flows.TINY:
        yield Sleep(max(0.0, left))
        return None
    seconds = min(flows.SLICE, left + 0.1)
    try:
        item: bytes | None = yield Block(
            core.protocol.blocking_take(session.consumer, seconds), seconds, until
        )
    except BaseException as exc:
        session.stale, session.stale_ahead = True, False
        if isinstance(exc, Disconnected):
            return None
        raise
    if item is not None:
        session.moved += len(item)
        _hold(core, session, [item])
    return item
