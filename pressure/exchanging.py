"""The flow of a worker: record outcomes and claim the next items in one step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pressure import flows, recovering
from pressure.core import Core
from pressure.envelope import MESSAGE_ID
from pressure.errors import QueueClosedError, QueueDoesNotExistError
from pressure.protocol import Outcome, Status
from pressure.requests import Block, Flow, Sleep
from pressure.retry import Disconnected
from pressure.session import MARK, Session

__all__ = ["Joined", "await_one", "exchange", "let_go", "release", "wait_for_one"]

LONG_SLICE = 3.0
"""The longest block at the server (seconds) of those who exchange: there may be many who idle."""


class Joined(NamedTuple):
    """Outcomes of all that a consumer holds, in its order, whose answers travel several in a value.

    `values` have the reply queues and what goes there; `apart` makes the outcomes one by one, which
    is needed if something else is held after all.
    """

    tags: list[bytes]
    values: Sequence[Outcome]
    apart: Callable[[], list[Outcome]]


def exchange(
    core: Core[Any],
    session: Session[Any],
    outcomes: Sequence[Outcome],
    count: int,
    until: float | None,
    *,
    wait: bool = True,
    all_done: bool = False,
    joined: Joined | None = None,
) -> Flow[list[bytes]]:
    """Record outcomes and take up to `count` items on lease, blocking until `until` for the first;
    without `wait` not at all, but as one who is about to. `all_done` stands for outcomes without an
    answer of all that is held, `joined` takes the place of outcomes.

    After a lost reply it is sent again under a new consumer id, as far as it is about what is held
    still: what was recorded is not, and so not recorded twice. Outcomes of lost leases are dropped.
    Raises `QueueClosedError`, `QueueDoesNotExistError`.
    """
    unblocked = core.unblocked
    fresh = True
    # The tags of all that is held, if the outcomes are of just that: they need not be sent.
    whole = list(session.leased) if all_done else _whole(session, outcomes)
    if joined is not None:
        whole = joined.tags if _holds_just(session, joined.tags) else []
        outcomes = joined.values if whole else joined.apart()
    while True:
        if session.stale:
            outcomes, whole = _apart(outcomes, whole, joined), []
            held: list[bytes] = []
            found = yield from recovering.adopt(core, session, held)
            outcomes = [one for one in outcomes if _holds(session, one[0], held)]
            _hold(session, found)
            if found and not outcomes:
                return found
            if found:
                # The first try recorded the outcomes and took these; or neither. Say it again.
                try:
                    yield from exchange(core, session, outcomes, 0, 0.0)
                except BaseException:
                    let_go(session, found)
                    raise
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
                held=whole,
            )
        except Disconnected:
            session.stale, session.stale_ahead = True, False
            continue
        except BaseException:
            session.stale, session.stale_ahead = True, False
            raise
        status = reply[0]
        if whole and status == Status.EMPTY and reply[1]:
            # That is not all, or something is to be freed with it: then one by one.
            outcomes, whole = _apart(outcomes, whole, joined), []
            continue
        if status in (Status.OK, Status.EMPTY, Status.CLOSED):
            session.register(core.generation)
            session.moved = 0
            core.looked = time.monotonic()
            if whole:
                session.leased.clear()
                session.marks.clear()
            else:
                for outcome in outcomes:
                    release(session, outcome[0])
            outcomes, whole = (), []
            if status == Status.EMPTY:
                session.paused = bool(reply[3:])
                session.waiting = not session.paused and (session.waiting or not last_try)
        if status == Status.OK:
            items: list[bytes] = reply[2:]
            _hold(session, items)
            return items
        if status == Status.EMPTY:
            if reply[2] and (yield from recovering.reap_due(core)):
                continue
            if last_try or not wait or core.unblocked != unblocked:
                return []
            fresh = False
            if session.paused:
                # Paused: nothing may be moved here until that is over.
                yield flows.wait_at_most(core.protocol.wait_for_resume, until)
                continue
            item = yield from wait_for_one(core, session, until)
            if item is not None:
                return [item]
        elif status == Status.CLOSED:
            if count == 0:
                return []
            raise QueueClosedError(core.name)
        elif status == Status.LOST:
            core.lost_lease(session)
            session.reset()
            outcomes, whole = (), []
            if count == 0:
                return []
        elif status == Status.AGAIN and fresh:
            # Made anew: nothing of what was held is known there.
            session.reset()
            outcomes, whole = (), []
            yield from flows.describe(core)
        else:
            session.reset()
            raise QueueDoesNotExistError(core.name)


def _hold(session: Session[Any], items: Sequence[bytes]) -> None:
    leased, marks = session.leased, session.marks
    if len(items) > 1 and not leased:
        tags = [item[MESSAGE_ID] for item in items]
        once = dict.fromkeys(tags, 1)
        if len(once) == len(tags):
            # As it mostly is. (The method of `Counter` would count them one by one.)
            dict.update(leased, once)
            marks.update(zip(tags, [(item[MARK],) for item in items], strict=True))
            return
    for item in items:
        # Quicker than a counter's own way.
        tag = item[MESSAGE_ID]
        count = leased.get(tag, 0)
        leased[tag] = count + 1
        marks[tag] = (*marks[tag], item[MARK]) if count else (item[MARK],)


def let_go(session: Session[Any], items: Sequence[bytes]) -> None:
    """These, which came last, did not reach the caller: the session's next use finds them."""
    for item in items:
        tag = item[MESSAGE_ID]
        count, marks = session.leased.pop(tag, 0), session.marks.pop(tag, ())
        if count > 1:
            session.leased[tag], session.marks[tag] = count - 1, marks[:-1]
    session.stale, session.stale_ahead = True, False


def _holds(session: Session[Any], tag: bytes, held: Sequence[bytes]) -> bool:
    """Whether the oldest item of this tag that came here is among those that are `held`, of which
    a newer one may have the same tag."""
    marks = session.marks.get(tag)
    return marks is None or any(item[MARK] == marks[0] for item in held)


def release(session: Session[Any], tag: bytes) -> None:
    """The oldest item of this tag is no longer held."""
    count, marks = session.leased.pop(tag, 0), session.marks.pop(tag, ())
    if count > 1:
        session.leased[tag], session.marks[tag] = count - 1, marks[1:]


def _whole(session: Session[Any], outcomes: Sequence[Outcome]) -> list[bytes]:
    """The tags of all that is held if the outcomes are of that, in its order, and bury nothing."""
    tags = [outcome[0] for outcome in outcomes]
    if not _holds_just(session, tags):
        return []
    return [] if any([outcome[3] for outcome in outcomes]) else tags


def _holds_just(session: Session[Any], tags: list[bytes]) -> bool:
    """Whether these, which come once each, are all that is held, in its order."""
    leased = session.leased
    return len(tags) == len(leased) and leased == dict.fromkeys(tags, 1) and tags == list(leased)


def _apart(
    outcomes: Sequence[Outcome], whole: Sequence[bytes], joined: Joined | None
) -> Sequence[Outcome]:
    """The outcomes one by one, of which `whole` are the tags, if they were said all at once."""
    if whole and joined is not None:
        return joined.apart()
    return outcomes or [Outcome(tag, None, b"") for tag in whole]


def wait_for_one(core: Core[Any], session: Session[Any], until: float | None) -> Flow[bytes | None]:
    """Block for one item. What `settle` does for it is left to the next `exchange`, which comes
    soon: until then no room is signalled. If the lease was lost, its outcome will be dropped."""
    left = LONG_SLICE if until is None else until - time.monotonic()
    if left < flows.TINY:
        yield Sleep(max(0.0, left))
        return None
    seconds = min(LONG_SLICE, left + 0.1)
    try:
        command = core.protocol.blocking_take(session.consumer, seconds)
        then = recovering.taken_expires(core, session)
        item: bytes | None = yield Block(command, seconds, until, then)
    except BaseException as exc:
        session.stale, session.stale_ahead = True, False
        if isinstance(exc, Disconnected):
            return None
        raise
    if item is not None:
        session.moved += len(item)
        _hold(session, [item])
    return item


def await_one(core: Core[Any], session: Session[Any]) -> Flow[bytes | None]:
    """After an exchange without `wait`: one request that blocks for one item, or for the end of the
    pause, for a slice. None, too, if the connection broke."""
    if not session.paused:
        return (yield from wait_for_one(core, session, None))
    try:
        yield flows.wait_at_most(core.protocol.wait_for_resume, None)
    except Disconnected:
        session.stale, session.stale_ahead = True, False
    return None
