"""Orders to a supervisor: end a task, stop, say that you are there.

A supervisor hears them at a reply queue of its own, beside each queue that it serves, whose id is
the id of the daemon. They are signed as everything else, so only who has the key can give them.
"""

from __future__ import annotations

import json
import math
import os
import struct
import time
from collections.abc import Iterable
from enum import IntEnum
from typing import Any, NamedTuple

from pressure.channel import Channel, Verdict
from pressure.content import Buffer

__all__ = ["Order", "OrderKind", "give_orders", "pack_answer_to_order", "pack_order", "read_order"]

_TASK = struct.Struct(">16sd")
_DAEMON = struct.Struct(">16sdB")


class OrderKind(IntEnum):
    """`TERMINATE` is about the task whose id the message has; the others are about the daemon, and
    are answered with what that says of itself."""

    TERMINATE = 0
    STOP = 1
    PING = 2


class Order(NamedTuple):
    """`grace` is in seconds; None: what the daemon was started with."""

    kind: OrderKind
    client: bytes
    grace: float | None = None


def pack_order(order: Order) -> bytes:
    grace = math.nan if order.grace is None else order.grace
    if order.kind == OrderKind.TERMINATE:
        return _TASK.pack(order.client, grace)
    return _DAEMON.pack(order.client, grace, order.kind)


def read_order(body: Buffer) -> Order:
    """Raises `ValueError` if it is none."""
    try:
        if len(body) == _TASK.size:
            client, grace = _TASK.unpack(body)
            kind = OrderKind.TERMINATE
        else:
            client, grace, number = _DAEMON.unpack(body)
            kind = OrderKind(number)
    except struct.error as exc:
        raise ValueError("it is no order") from exc
    return Order(kind, client, None if math.isnan(grace) else grace)


def pack_answer_to_order(said: dict[str, Any]) -> bytes:
    return json.dumps(said).encode()


def give_orders(
    channel: Channel,
    daemons: Iterable[bytes],
    kind: OrderKind,
    *,
    grace: float | None = None,
    timeout: float = 5.0,
) -> dict[bytes, dict[str, Any] | None]:
    """Tell daemons that serve the queue of `channel` to stop, or to say that they are there.

    Waits for their answers, for `timeout` seconds at most. Returns by daemon id what each said:
    `name`, `host`, `pid`, `processes` (how many it has), `seconds` (how long the answer took); None
    if it did not answer. Of a daemon whose answer is there, a `STOP` is certain to be obeyed.
    """
    answers: dict[bytes, dict[str, Any] | None] = dict.fromkeys(daemons)
    replies = channel.reply_channel()
    replies.ensure()
    try:
        consumer = replies.consumer()
        body = pack_order(Order(kind, channel.client_id, grace))
        asked = {os.urandom(16): daemon for daemon in answers}
        began = time.monotonic()
        for id, daemon in asked.items():
            channel.notify(daemon, id, body)
        acks: list[Verdict] = []
        until = time.monotonic() + timeout
        while None in answers.values() and time.monotonic() < until:
            deliveries = consumer.exchange(acks, len(asked), until)
            acks = [Verdict(delivery, None) for delivery in deliveries]
            for delivery in deliveries:
                known = asked.get(delivery.id)
                if known is not None and not delivery.error:
                    said = dict(json.loads(bytes(delivery.body)))
                    answers[known] = said | {"seconds": time.monotonic() - began}
        consumer.close()
    finally:
        replies.disconnect()
        replies.delete()
        replies.disconnect()
    return answers
