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
from typing import Any

from pressure.core import Core
from pressure.errors import (
    OperationUnblocked,
    QueueAlreadyExistsError,
    QueueClosedError,
    QueueDoesNotExistError,
    QueueError,
    QueueInUseError,
)
from pressure.link import Block, Flow, Sleep
from pressure.protocol import Command, Status
from pressure.retry import Disconnected
from pressure.session import ID_BYTES, Session

__all__ = [
    "OtherGeneration",
    "adopt",
    "break_role",
    "close",
    "create",
    "delete",
    "describe",
    "join",
    "put",
    "reap_due",
    "retire",
    "take",
    "task_done",
    "unfinished",
]

SLICE = 2.0
"""The longest block at the server (seconds). A blocked caller costs two commands a slice."""
TINY = 0.005
"""Time-outs below this (seconds) do not block at the server, whose timer is coarser."""
RECHECK = 0.02
"""How often to look again at items that another consumer has fetched ahead and may give back."""
RECHECK_LIMIT = 0.5
ACK_DELAY = 0.1
"""How late (seconds) the acknowledgement of what get() returned may be, with a margin."""
TOKEN_PATIENCE = 5.0
"""How long delete waits for 0.15 clients to return their roles."""
BATCH = 1000
BATCH_BYTES = 1 << 20


class OtherGeneration(Exception):
    """The queue was deleted and made anew: what was encoded for the old one must be encoded again.
    Internal."""


def describe(core: Core[Any]) -> Flow[bool]:
    """Learn generation and bound. Returns whether the queue is closed."""
    reply = yield core.protocol.describe(os.urandom(ID_BYTES).hex().encode())
    if reply[0] == Status.ABSENT:
        raise QueueDoesNotExistError(core.name)
    _, bound, generation, closed = reply
    if generation != core.generation or bound != core.bound:
        core.learn(generation, bound)
    return bool(closed)


def create(core: Core[Any], bound: int) -> Flow[None]:
    generation = os.urandom(ID_BYTES).hex().encode()
    consumers: Sequence[bytes] = ()
    while True:
        reply = yield core.protocol.create(bound, generation, consumers)
        if reply[0] == Status.AGAIN:
            consumers = reply[1:]
        elif reply[0] == Status.EXISTS:
            # A repeat after a lost reply finds what the first try made.
            seen = yield core.protocol.describe(generation)
            if seen[0] == Status.OK and seen[2] == generation:
                break
            raise QueueAlreadyExistsError(core.name)
        else:
            break
    core.learn(generation, bound)


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
    try:
        while accepted < len(values):
            more = yield from _put_some(core, session, values, accepted, until, mode)
            if not more:
                break
            accepted += more
    except QueueError as exc:
        exc.accepted = accepted
        raise
    return accepted


def _put_some(
    core: Core[Any],
    session: Session[Any],
    values: Sequence[bytes],
    accepted: int,
    until: float | None,
    mode: str,
) -> Flow[int]:
    """Put the next batch of `values`, as far as there is room for it; waits for room for one."""
    waited = False
    unblocked = core.unblocked
    while True:
        batch = _next_batch(values, accepted)
        reply = yield core.protocol.put(
            core.generation,
            session.producer,
            session.next_number(),
            core.client,
            batch,
            mode=mode,
            ttl_ms=core.ttl_ms,
        )
        status = reply[0]
        if status == Status.OK:
            count: int = reply[1]
            return count
        if status == Status.FULL:
            if _expired(until):
                return 0
            _check_unblocked(core, unblocked)
            waited = True
            yield _wait(core.protocol.wait_for_room, until)
        elif status == Status.IN_USE:
            yield from _await_role(core, "producer", reply[1], until)
            _check_unblocked(core, unblocked)
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
) -> Flow[tuple[list[bytes], bool]]:
    """Take up to `count` items, oldest first; an empty list if there was none by `until`. With them
    comes whether those after the first count as fetched ahead.

    Raises `QueueClosedError` once the queue is closed and drained.
    """
    waited = False
    gave_up_at: float | None = None
    unblocked = core.unblocked
    while True:
        if session.stale:
            items = yield from adopt(core, session)
            if items:
                return items, session.stale_ahead
        last_try = _expired(until)
        acks = session.collect()
        try:
            reply = yield core.protocol.take(
                core.generation,
                session.consumer,
                core.client,
                lease_ms=core.lease_ms,
                known=session.known,
                count=count,
                ahead=ahead,
                ttl_ms=core.ttl_ms,
                waiter=_waiter(session, blocking=not last_try),
                acks=acks,
            )
        except BaseException as exc:
            session.restore(acks)
            session.stale, session.stale_ahead = True, ahead
            if isinstance(exc, Disconnected):
                continue
            raise
        status = reply[0]
        if status in (Status.OK, Status.EMPTY, Status.CLOSED, Status.IN_USE):
            session.known = True
            session.waiting = status == Status.EMPTY and not last_try
        if status == Status.OK:
            return reply[1:], ahead
        if status == Status.EMPTY:
            _, expired, fetched_ahead = reply
            if expired and (yield from reap_due(core)):
                continue
            if fetched_ahead and last_try:
                # Another consumer has fetched these, and gives back what it doesn't use.
                gave_up_at = gave_up_at or time.monotonic() + RECHECK_LIMIT
                if time.monotonic() < gave_up_at:
                    yield Sleep(RECHECK)
                    continue
            if last_try:
                return [], False
            _check_unblocked(core, unblocked)
            waited = True
            item = yield from _blocking_take(core, session, until)
            if item is not None:
                return [item], False
            _check_unblocked(core, unblocked)
        elif status == Status.CLOSED:
            if not reply[1]:
                raise QueueClosedError(core.name)
            yield Sleep(RECHECK)
        elif status == Status.LOST:
            core.forfeited = True
            session.reset()
        elif status == Status.IN_USE:
            yield from _await_role(core, "consumer", reply[1], until)
            _check_unblocked(core, unblocked)
        elif status == Status.AGAIN and not waited:
            session.reset()
            yield from describe(core)
        else:
            session.reset()
            _raise_absent(core, waited)


def _blocking_take(
    core: Core[Any], session: Session[Any], until: float | None
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
        reply = yield core.protocol.settle(
            core.generation, session.consumer, core.client, len(item)
        )
    except BaseException as exc:
        session.stale, session.stale_ahead = True, False
        if isinstance(exc, Disconnected):
            return None
        raise
    session.waiting = False
    if reply[0] == Status.LOST:
        session.reset()
        return None
    return item


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
    buffered = [ahead.tag for ahead in list(core.buffer) if ahead.session is session]
    return session.unseen([(core.tag_of(item), item) for item in reply[1:]], buffered)


def reap_due(core: Core[Any]) -> Flow[int]:
    """Renew this handle's leases and put back what dead consumers held; returns how much."""
    consumers = core.consumers()
    lost, due = yield core.protocol.renew(core.lease_ms, consumers)
    if lost:
        gone = set(lost)
        for other in list(core.sessions):
            if other.known and other.consumer in gone:
                core.forfeited = True
                other.life += 1
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
    # Of a batch that was fetched ahead, all but the first count as such.
    direct = 1 if session.stale_ahead else len(tags)
    if tags[direct:]:
        yield core.protocol.give_back(session.consumer, tags[direct:], charge=False, ahead=True)
    if tags[:direct]:
        yield core.protocol.give_back(session.consumer, tags[:direct], charge=False)


def close(core: Core[Any]) -> Flow[None]:
    """Close the queue and wake everybody who is blocked on it."""
    until = time.monotonic() + TOKEN_PATIENCE
    while True:
        reply = yield core.protocol.close(core.generation, core.client)
        if reply[0] == Status.IN_USE:
            yield from _await_role(core, "producer", reply[1], until)
        elif reply[0] == Status.CLOSED:
            raise QueueClosedError(core.name, "it is closed already")
        elif reply[0] == Status.AGAIN:
            yield from describe(core)
        elif reply[0] == Status.OK:
            break
        else:
            raise QueueDoesNotExistError(core.name)
    yield from _wake(core, reply[1:])


def delete(core: Core[Any]) -> Flow[bool]:
    """Delete the queue. Returns False if a 0.15 client that held a role never returned it."""
    reply = yield core.protocol.delete()
    if reply[0] == Status.ABSENT:
        raise QueueDoesNotExistError(core.name)
    _, producer_free, consumer_free, blocked = reply[:4]
    waiters, consumers = reply[4 : 4 + blocked], reply[4 + blocked :]
    yield from _wake(core, waiters)
    until = time.monotonic() + TOKEN_PATIENCE
    returned = True
    for role, free in (("producer", producer_free), ("consumer", consumer_free)):
        while not free and returned:
            free = (yield _wait(_role_waiter(core, role), until)) is not None
            returned = free or not _expired(until)
    yield core.protocol.purge(consumers)
    return returned


def join(core: Core[Any], until: float | None) -> Flow[bool]:
    """Wait until nothing is unfinished; returns False if that took longer than `until`."""
    unblocked = core.unblocked
    while True:
        last_try = _expired(until)
        if not (yield from unfinished(core, wait_ms=0 if last_try else int(SLICE * 2000))):
            return True
        if last_try:
            return False
        _check_unblocked(core, unblocked)
        if not (yield from reap_due(core)):
            yield _wait(core.protocol.wait_for_joined, until)


def unfinished(core: Core[Any], *, wait_ms: int = 0) -> Flow[int]:
    """How many items are queued, held by a consumer, or fetched and not done."""
    consumers: Sequence[bytes] = ()
    while True:
        reply = yield core.protocol.unfinished(wait_ms, consumers)
        if reply[0] == Status.OK:
            count: int = reply[1]
            return count
        if reply[0] == Status.ABSENT:
            raise QueueDoesNotExistError(core.name)
        consumers = reply[1:]


def task_done(core: Core[Any], session: Session[Any]) -> Flow[bool]:
    """Count one fetched item as finished; returns False if there is none."""
    for last_try in (False, True):
        reply = yield core.protocol.task_done(
            session.producer, session.next_number(), core.consumers()
        )
        if reply[0] == Status.ABSENT:
            raise QueueDoesNotExistError(core.name)
        if reply[0] == Status.OK:
            return True
        if not last_try:
            # Another handle's acknowledgement may still be riding on its next call.
            yield Sleep(ACK_DELAY)
    return False


def break_role(core: Core[Any], role: str) -> Flow[str]:
    reply = yield core.protocol.break_role(role)
    if reply[0] == Status.ABSENT:
        raise QueueDoesNotExistError(core.name)
    return reply[1].decode(errors="replace") if reply[0] == Status.OK else ""


def _await_role(core: Core[Any], role: str, holder: bytes, until: float | None) -> Flow[None]:
    """Wait for a 0.15 client to return its role, without taking it."""
    if _expired(until):
        who = holder.decode(errors="replace") or "a client without a name"
        raise QueueInUseError(
            core.name,
            f"the {role} role is held by {who}, a client of protocol 0.15; if it is dead, "
            f"break_role({role!r}) frees the role",
        )
    yield _wait(_role_waiter(core, role), until)


def _role_waiter(core: Core[Any], role: str) -> Any:
    return lambda seconds: core.protocol.wait_for_role(role, seconds)


def _wait(command: Any, until: float | None) -> Block | Sleep:
    left = SLICE if until is None else until - time.monotonic()
    if left < TINY:
        return Sleep(max(0.0, left))
    seconds = min(SLICE, left + 0.1)
    return Block(command(seconds), seconds, until)


def _wake(core: Core[Any], waiters: Sequence[bytes]) -> Flow[None]:
    """End the blocking commands of the clients that registered as `client id @ server run id`."""
    if not waiters:
        return
    info = yield Command(("INFO", "server"))
    run_id = next((line[7:] for line in info.splitlines() if line.startswith(b"run_id:")), b"")
    pause = RECHECK / 4
    while pause < RECHECK_LIMIT:
        here = [client for client, _, server in map(_parts, waiters) if server == run_id]
        for client in here:
            yield Command(("CLIENT", "UNBLOCK", client, "TIMEOUT"))
        if not here:
            return
        # One that had registered and not yet blocked did not hear of it.
        yield Sleep(pause)
        pause *= 2
        waiters = yield Command(("HVALS", core.protocol.keys.waiters))


def _parts(waiter: bytes) -> tuple[bytes, bytes, bytes]:
    return waiter.partition(b"@")


def _waiter(session: Session[Any], *, blocking: bool) -> str:
    if blocking:
        waiter: str = session.link.waiter
        return waiter
    return "-" if session.waiting else ""


def _check_unblocked(core: Core[Any], since: int) -> None:
    if core.unblocked != since:
        raise OperationUnblocked(core.name)


def _raise_absent(core: Core[Any], waited: bool) -> None:
    raise QueueDoesNotExistError(
        core.name, "it was deleted while this operation waited" if waited else ""
    )


def _expired(until: float | None) -> bool:
    return until is not None and until <= time.monotonic()
