"""What waits in the queue of a channel, as far as it can be seen from outside."""

from __future__ import annotations

from typing import NamedTuple

from pressure.channel import Channel
from pressure.envelope import SIGNED, Envelope
from pressure.protocol import Command
from pressure.requests import Flow

__all__ = ["Waiting", "newest_waiting"]


class Waiting(NamedTuple):
    """A record that nobody has taken. `client_id` is empty if it can't be read."""

    id: bytes
    client_id: bytes
    signed: bool


def newest_waiting(channel: Channel, count: int) -> list[Waiting]:
    """Up to `count` of the newest records. Their signatures are not looked at."""
    return [_waiting(item) for item in channel.handle.call(_newest(channel, count))]


def _newest(channel: Channel, count: int) -> Flow[list[bytes]]:
    reply = yield Command(("LRANGE", channel.core.protocol.keys.base, 0, count - 1))
    return list(reply)


def _waiting(item: bytes) -> Waiting:
    try:
        envelope = Envelope.parse(item)
    except ValueError:
        # As the scripts call it, whatever it is.
        return Waiting(item[14:30], b"", False)
    return Waiting(envelope.message_id, envelope.client_id, bool(envelope.flags & SIGNED))
