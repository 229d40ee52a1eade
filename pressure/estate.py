"""What a supervisor settles at the server for a worker process that is dead."""

from __future__ import annotations

import time
from typing import Any

from pressure import flows
from pressure.channel import Channel, reply_core, reply_name
from pressure.content import Content
from pressure.core import Core
from pressure.errors import QueueDoesNotExistError
from pressure.protocol import Outcome, Status
from pressure.requests import Flow
from pressure.retry import Disconnected

__all__ = ["conclude", "remove_replies"]

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
    described = bool(core.generation)
    while True:
        if not core.generation:
            yield from flows.describe(core)
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
            continue
        if reply[0] == Status.AGAIN and described:
            # The queue is another than the one that this handle knew, or the worker's was.
            described, core.generation = False, b""
            continue
        return reply[0] in (Status.EMPTY, Status.CLOSED, Status.IN_USE) and not reply[1]


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
