"""The rules of putting and of waiting, stated once; those of taking are in `taking`.

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
from typing import Any

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
from pressure.replication import put_replicated
from pressure.requests import Block, Flow, Sleep
from pressure.session import ID_BYTES, Session

__all__ = [
    "RECHECK",
    "RECHECK_LIMIT",
    "SLICE",
    "TINY",
    "OtherGeneration",
    "TailLost",
    "await_role",
    "check_unblocked",
    "describe",
    "expired",
    "put",
    "role_waiter",
    "wait_at_most",
]

SLICE = 2.0
"""The longest block at the server (seconds). A blocked caller costs two commands a slice."""
TINY = 0.005
"""Time-outs below this (seconds) do not block at the server, whose timer is coarser."""
RECHECK = 0.02
"""How often to look again at items that another consumer has fetched ahead and may give back."""
RECHECK_LIMIT = 0.5
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


def check_unblocked(core: Core[Any], since: int) -> None:
    if core.unblocked != since:
        raise OperationUnblocked(core.name)


def expired(until: float | None) -> bool:
    return until is not None and until <= time.monotonic()
