"""Puts that wait until replicas have them, as a flow: what `min_replicas` asks for.

A primary answers before its replicas have heard, so a put that it accepted is lost if it dies at
once and a replica takes over. `WAIT` says how many replicas have all that its own connection has
written. If that connection is lost in between, the put is sent again under its number, which makes
no second copy.
"""

from __future__ import annotations

import time
from typing import Any

from pressure.commands import Command, Status
from pressure.core import Core
from pressure.errors import NotReplicatedError
from pressure.requests import Block, Flow
from pressure.session import Session

__all__ = ["put_replicated"]

SLICE = 2.0
"""The longest block at the server (seconds)."""


def put_replicated(core: Core[Any], session: Session[Any], put: Command) -> Flow[Any]:
    """Put, and wait for replicas; returns the reply to the put.

    Raises `NotReplicatedError`, whose `accepted` says how many values are in the queue.
    """
    settings = core.settings
    while True:
        before = session.link.waiter
        reply = yield put
        if reply[0] != Status.OK or not reply[1]:
            return reply
        here = session.link.waiter
        if here != before:
            # If it had been carried out already, then this connection has written nothing, and
            # would wait for nothing.
            yield core.protocol.note_producer(core.client)
        replicas = 0
        until = time.monotonic() + settings.replica_timeout
        while replicas < settings.min_replicas and session.link.waiter == here:
            left = until - time.monotonic()
            if left <= 0:
                error = NotReplicatedError(core.name, replicas, settings.min_replicas)
                error.accepted = reply[1]
                raise error
            seconds = min(SLICE, left)
            wait = Command(("WAIT", settings.min_replicas, max(1, int(seconds * 1000))))
            replicas = (yield Block(wait, seconds, None)) or 0
        if session.link.waiter == here:
            return reply
