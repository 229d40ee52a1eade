"""What a supervisor settles at the server for a worker process that can't: it is dead, or stuck."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from pressure import flows
from pressure.channel.channel import Channel
from pressure.channel.replies import reply_core, reply_name
from pressure.content import Content
from pressure.core import Core
from pressure.errors import QueueDoesNotExistError
from pressure.protocol import Command, Outcome, Status
from pressure.requests import Flow
from pressure.retry import Disconnected

__all__ = ["conclude", "give_back", "remove_replies"]

PATIENCE = 5.0


def conclude(
    channel: Channel, consumer: bytes, client_id: bytes, id: bytes, body: bytes | Content
) -> bool:
    """Record the outcome of an item that the dead consumer holds, and acknowledge it.

    Returns False, and does nothing, if it holds it no more: it had an outcome before it died, or
    its lease was lost. `body` is small.
    """
    reply = reply_core(channel.core, client_id)
    codec = reply.codec
    assert codec is not None
    outcome = Outcome(id, reply.protocol.keys, codec.pack(id, bytes(body), max_deliveries=0))
    flow = _conclude(channel.core, consumer, outcome)
    return channel.handle.call(flow, time.monotonic() + PATIENCE)


def _conclude(core: Core[Any], consumer: bytes, outcome: Outcome) -> Flow[bool]:
    try:
        # This handle may know an earlier queue of the name. Told of another than the worker's, the
        # server would put back what is to be finished.
        yield from flows.describe(core)
    except QueueDoesNotExistError:
        return False
    again = False
    while True:
        try:
            reply = yield core.protocol.exchange(
                core.generation,
                consumer,
                core.client,
                [outcome],
                lease_ms=core.lease_ms,
                known=True,
                count=0,
            )
        except Disconnected:
            # Whether the first try arrived doesn't matter: the item is there for one of them only.
            again = True
            continue
        # While its lease holds, only an outcome can have removed the item: if not the first try's,
        # then one that was there before.
        return reply[0] in (Status.EMPTY, Status.CLOSED) and (again or not reply[1])


def give_back(channel: Channel, consumer: bytes, ids: Sequence[bytes]) -> None:
    """Return to the head of the queue what a consumer holds; what it holds no more stays as it is.
    The worker is alive, but can't do this itself."""
    command = channel.core.protocol.give_back(consumer, ids, charge=False)
    channel.handle.call(_one(command), time.monotonic() + PATIENCE)


def _one(command: Command) -> Flow[object]:
    reply: object = yield command
    return reply


def remove_replies(channel: Channel, client_id: bytes) -> None:
    """Remove the reply queue of a client that is dead, and what it kept beside that."""
    replies = Channel(
        reply_name(channel.name, client_id),
        channel.handle.address,
        tag=channel.tag,
        prefix=channel.prefix,
        settings=channel.core.settings,
        client_id=client_id,
        reply=True,
    )
    try:
        replies.delete()
    except QueueDoesNotExistError:
        pass
    finally:
        replies.disconnect()
