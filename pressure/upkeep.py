"""What a handle owes the server while nobody calls, as flows: acknowledge, give back, sign off."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from pressure import flows, recovering
from pressure.bundles import singly
from pressure.core import Ahead, Core
from pressure.errors import OutcomeUnknownError, PressureError
from pressure.opened import Bundle
from pressure.protocol import Acks, Command, Status
from pressure.recovering import retire
from pressure.requests import Flow, Sleep
from pressure.retry import Broken, Disconnected
from pressure.session import Session

__all__ = [
    "ADOPTION",
    "acknowledge",
    "acknowledge_aside",
    "end_lease",
    "give_back_ahead",
    "hand_back",
    "settle",
    "sign_off",
]

ADOPTION = 1.0
"""How long (seconds) the end of a lease, or a burial, waits until the session has found its items
again."""


def acknowledge(core: Core[Any], session: Session[Any]) -> Flow[None]:
    """Send the acknowledgements that wait in a session."""
    acks = session.collect()
    if not acks.tags:
        return
    number = session.next_number()
    try:
        yield core.protocol.ack(session.consumer, acks, number)
        session.acknowledging = None
    except BaseException:
        session.doubt(number, acks)
        raise


def acknowledge_aside(
    core: Core[Any],
    session: Session[Any],
    marks: Sequence[tuple[str, bytes]],
    ask: Callable[[Command], Any],
) -> None:
    """Send what a session is to acknowledge aside with `ask`: once, over another connection. It has
    no number, for the session's own commands might be ahead of that."""
    consumer = session.consumer
    done = False
    try:
        kinds, tags = zip(*marks, strict=True)
        reply = ask(core.protocol.ack(consumer, Acks("".join(kinds), tags)))
        done = reply[0] != Status.LOST
        if not done and not session.stale and session.consumer == consumer:
            # Else the session has a new name, or is about to take it on.
            core.lost_lease(session)
            session.forfeit()
    except BaseException as exc:
        refused = isinstance(exc, PressureError) or (isinstance(exc, Broken) and not exc.sent)
        if core.raw and not refused:
            # Raw items may be alike, and a repeat might acknowledge another: if it was not done,
            # the session finds them, and they come again.
            done = session.stale = True
            core.forfeited += 1
        raise
    finally:
        for mark in marks if done else ():
            # Not before, or else it would seem unseen to an adoption that comes in between.
            with contextlib.suppress(ValueError):
                session.aside.remove(mark)


def settle(core: Core[Any], session: Session[Any]) -> Flow[None]:
    """Bring a session in order that nobody uses."""
    if session.stale:
        yield from retire(core, session)
    yield from acknowledge(core, session)


def hand_back(
    core: Core[Any], session: Session[Any], tag: bytes, *, ahead: bool = False
) -> Flow[None]:
    """Put an item back that was taken for a caller who is gone."""
    lost = True
    try:
        reply = yield core.protocol.give_back(session.consumer, [tag], charge=False, ahead=ahead)
        lost = reply[0] == Status.LOST
    finally:
        # It may be held under another name by now: the session looks.
        session.stale = session.stale or lost


def give_back_ahead(core: Core[Any]) -> Flow[None]:
    """Give back what was fetched ahead and not handed out, in its order. Bundles that are being
    handed out are older than all else."""
    groups: dict[tuple[int, str], list[Ahead[Any]]] = {}
    while (ahead := core.pop_ahead()) is not None:
        groups.setdefault((id(ahead.session), ahead.kind), []).append(ahead)
    while groups:
        # The newest first, so that the oldest end up at the very head.
        (_, kind), items = groups.popitem()
        session = items[0].session
        try:
            held = yield from _give_back(core, session, kind, items)
            session.stale = session.stale or not held
        except BaseException:
            # They are still this consumer's; its session finds them when it is next looked after.
            for left in groups.values():
                left[0].session.stale = True
                for ahead in left:
                    core.moved(ahead)
            session.stale = True
            raise
        finally:
            for ahead in items:
                core.moved(ahead)
    yield from _cut_all(core)


def _give_back(
    core: Core[Any], session: Session[Any], kind: str, items: Sequence[Ahead[Any]]
) -> Flow[bool]:
    """Whether they were still this consumer's."""
    tags = [ahead.tag for ahead in items]
    patience = time.monotonic() + ADOPTION
    while True:
        consumer = session.consumer
        reply = yield core.protocol.give_back(consumer, tags, charge=False, ahead=kind == "a")
        if reply[0] != Status.LOST:
            return True
        # As in `end_lease`. Raw items may be alike: whether the first try was carried out is left
        # to the session to find out.
        if core.raw or session.life != items[0].life:
            return False
        if session.heir and time.monotonic() < patience:
            yield Sleep(flows.RECHECK)
        elif session.consumer == consumer:
            return False


def _cut_all(core: Core[Any]) -> Flow[None]:
    """Put what is left of bundles that are being handed out back, each item by itself."""
    if any(session.stale for session in list(core.sessions)):
        # What such a session has is newer. When it is looked after, that goes back first.
        return
    for bundle in core.opened.to_cut():
        held = bundle.gone or (yield from _cut(core, bundle))
        late = core.opened.was_cut(bundle)
        if late and held:
            yield from flows.put(core, bundle.session, singly(core, late), flows.AT_ONCE, "head")
        core.opened.done(bundle, len(late))


def _cut(core: Core[Any], bundle: Bundle) -> Flow[bool]:
    """Whether it was still this consumer's."""
    session, (kind, tag) = bundle.session, bundle.mark
    # The same each time: the server has carried out the first of these, if any.
    values = singly(core, bundle.named)
    patience = time.monotonic() + ADOPTION
    while not bundle.is_lost():
        consumer = session.consumer
        reply = yield core.protocol.cut(consumer, tag, values, ahead=kind == "a")
        if reply[0] != Status.LOST:
            return True
        # As in `end_lease`.
        if session.stale and time.monotonic() < patience:
            yield Sleep(flows.RECHECK)
        elif session.consumer == consumer and not bundle.is_lost():
            core.lost_lease(session)
            session.forfeit()
    return False


def sign_off(core: Core[Any], session: Session[Any]) -> Flow[None]:
    """Acknowledge, give everything else back, and be forgotten."""
    if session.stale:
        yield from recovering.adopt(core, session)
    number, acks = session.next_number(), session.collect()
    yield core.protocol.leave(session.consumer, session.producer, acks, number)


def end_lease(
    core: Core[Any], session: Session[Any], tag: bytes, *, back: bool, charge: bool = False
) -> Flow[bool]:
    """Acknowledge a leased item or give it `back`; returns False if the lease had been lost.

    Raises `OutcomeUnknownError` if it was lost when a first try, whose reply had not come, was made
    again: nobody can tell then whether that has acknowledged the item.
    """

    def command(consumer: bytes) -> Command:
        if back:
            return core.protocol.give_back(consumer, [tag], charge=charge)
        return core.protocol.ack(consumer, Acks("f", [tag]))

    again = False
    life = session.life
    patience = time.monotonic() + ADOPTION
    try:
        while True:
            consumer = session.consumer
            try:
                reply = yield command(consumer)._replace(repeatable=False)
            except Disconnected:
                again = True
                continue
            if reply[0] != Status.LOST or session.life != life:
                break
            # The session's connection broke meanwhile, and the items have a new owner's name, or
            # will have it as soon as it is known here.
            if session.consumer == consumer:
                if not session.stale or time.monotonic() > patience:
                    break
                yield Sleep(flows.RECHECK)
    except BaseException:
        # Unknown: the session gives it back if it is still there.
        session.stale = True
        raise
    finally:
        # Not before, or else the item would seem unseen to an adoption that comes in between.
        session.unlease(tag)
    if again and reply[0] == Status.LOST and not back:
        raise OutcomeUnknownError(
            f"queue {core.name!r}: a lease ended while the server was away, and whether its item "
            "had been acknowledged before is not known: it may be in the queue again"
        )
    # While the lease holds, only the first try can have removed the item. Where that is not known,
    # an item that was to be given back is back in any case.
    return again or (reply[0] != Status.LOST and bool(reply[1]))
