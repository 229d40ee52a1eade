"""The rules of a queue's life, as flows: it is made, closed, deleted, and joined.

Deadlines are as in `pressure.flows`.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from typing import Any

from pressure.core import Core
from pressure.errors import (
    DELETED_MEANWHILE,
    QueueAlreadyExistsError,
    QueueClosedError,
    QueueDoesNotExistError,
    ServerRefusedError,
)
from pressure.flows import (
    RECHECK,
    RECHECK_LIMIT,
    SLICE,
    await_role,
    check_unblocked,
    describe,
    expired,
    role_waiter,
    wait_at_most,
)
from pressure.greeting import run_id
from pressure.protocol import Command, Status
from pressure.recovering import reap_due
from pressure.requests import Flow, Sleep
from pressure.retry import Disconnected
from pressure.session import ID_BYTES, Session

__all__ = [
    "break_role",
    "close",
    "create",
    "delete",
    "join",
    "pause",
    "resume",
    "task_done",
    "unfinished",
]

ACK_DELAY = 0.1
"""How late (seconds) the acknowledgement of what get() returned may be, with a margin, while no
request that carries it is under way."""
SETTLING, LOOK_AGAIN = 0.1, 0.0005
"""How long (seconds) a size waits for acknowledgements under way, and how often it looks."""
TOKEN_PATIENCE = 5.0
"""How long delete waits for 0.15 clients to return their roles."""


def create(core: Core[Any], bound: int, generation: bytes | None = None) -> Flow[None]:
    generation = generation or os.urandom(ID_BYTES).hex().encode()
    consumers: Sequence[bytes] = ()
    while True:
        reply = yield core.protocol.create(bound, generation, consumers, ttl_ms=core.ttl_ms)
        if reply[0] == Status.AGAIN:
            consumers = reply[1:]
        elif reply[0] == Status.EXISTS:
            # A repeat after a lost reply finds what the first try made.
            if (yield Command(("GET", core.protocol.keys.generation))) == generation:
                break
            raise QueueAlreadyExistsError(core.name)
        else:
            break
    core.learn(generation, bound)


def close(core: Core[Any]) -> Flow[None]:
    """Close the queue and wake everybody who is blocked on it."""
    until = time.monotonic() + TOKEN_PATIENCE
    again = waited = False
    # Another thread may learn of a successor, which is not to be closed in its place.
    generation = core.generation
    while True:
        try:
            reply = yield core.protocol.close(generation, core.client)
        except Disconnected:
            again = True
            continue
        if reply[0] == Status.IN_USE:
            waited = True
            yield from await_role(core, "producer", reply[1], until)
        elif reply[0] == Status.CLOSED:
            if not again:
                raise QueueClosedError(core.name, "it is closed already")
            reply = [Status.OK, *(yield Command(("HVALS", core.protocol.keys.waiters)))]
            break
        elif reply[0] == Status.OK:
            break
        elif reply[0] == Status.AGAIN and not waited:
            yield from describe(core)
            generation = core.generation
        else:
            raise QueueDoesNotExistError(core.name, DELETED_MEANWHILE if waited else "")
    yield from _wake(core, reply[1:])


def pause(core: Core[Any]) -> Flow[None]:
    """Have takers get nothing until `resume`, and wake those that are blocked, so that none of them
    is handed what comes next."""
    reply = yield core.protocol.pause()
    if reply[0] == Status.ABSENT:
        raise QueueDoesNotExistError(core.name)
    yield from _wake(core, reply[1:])


def resume(core: Core[Any]) -> Flow[None]:
    reply = yield core.protocol.resume()
    if reply[0] == Status.ABSENT:
        raise QueueDoesNotExistError(core.name)


def delete(core: Core[Any]) -> Flow[bool]:
    """Delete the queue. Returns False if a 0.15 client that held a role never returned it. The
    handle is to forget it then."""
    again = False
    yield from describe(core)
    # Another thread may learn of a successor, which is not to be deleted in its place.
    generation = core.generation
    while True:
        try:
            known = yield core.protocol.keep(0)
            reply = yield core.protocol.delete(generation, known[2:], again=again)
        except Disconnected:
            again = True
            continue
        if reply[0] == Status.ABSENT:
            raise QueueDoesNotExistError(core.name)
        if reply[0] == Status.OK or again:
            break
        yield from describe(core)
        generation = core.generation
    if core.generation == generation:
        core.generation = b""
    if reply[0] != Status.OK:
        # The first try deleted it, and somebody has made it anew.
        return True
    _, producer_free, consumer_free, blocked = reply[:4]
    waiters, consumers = reply[4 : 4 + blocked], reply[4 + blocked :]
    yield from _wake(core, waiters)
    until = time.monotonic() + TOKEN_PATIENCE
    returned = True
    for role, free in (("producer", producer_free), ("consumer", consumer_free)):
        while not free and returned:
            free = (yield wait_at_most(role_waiter(core, role), until)) is not None
            returned = free or not expired(until)
    yield core.protocol.purge(consumers)
    return returned


def join(core: Core[Any], until: float | None) -> Flow[bool]:
    """Wait until nothing is unfinished; returns False if that took longer than `until`."""
    unblocked = core.unblocked
    while True:
        last_try = expired(until)
        if not (yield from unfinished(core, wait_ms=0 if last_try else int(SLICE * 2000))):
            return True
        if last_try:
            return False
        check_unblocked(core, unblocked)
        if not (yield from reap_due(core)):
            yield wait_at_most(core.protocol.wait_for_joined, until)


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
    began = time.monotonic()
    while True:
        owing = core.owes()
        reply = yield core.protocol.task_done(
            session.producer, session.next_number(), core.consumers()
        )
        if reply[0] == Status.ABSENT:
            raise QueueDoesNotExistError(core.name)
        if reply[0] == Status.OK:
            return True
        waited = time.monotonic() - began
        if waited >= max(ACK_DELAY, core.settings.reconnect_timeout if owing else 0.0):
            return False
        # The acknowledgement may be under way, or another handle's may be riding on its next call.
        yield Sleep(ACK_DELAY if waited < ACK_DELAY else RECHECK)


def break_role(core: Core[Any], role: str) -> Flow[str]:
    reply = yield core.protocol.break_role(role)
    if reply[0] == Status.ABSENT:
        raise QueueDoesNotExistError(core.name)
    return reply[1].decode(errors="replace") if reply[0] == Status.OK else ""


def _wake(core: Core[Any], waiters: Sequence[bytes]) -> Flow[None]:
    """End the blocking commands of the clients that registered as `client id @ server run id`."""
    if not waiters:
        return
    # Where it is not permitted, they see it when their blocking commands end.
    with contextlib.suppress(ServerRefusedError):
        yield from _unblock(core, waiters)


def _unblock(core: Core[Any], waiters: Sequence[bytes]) -> Flow[None]:
    info = yield Command(("INFO", "server"))
    run = run_id(info).encode()
    pause = RECHECK / 4
    while pause < RECHECK_LIMIT:
        here = [client for client, _, server in map(_parts, waiters) if server == run]
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
