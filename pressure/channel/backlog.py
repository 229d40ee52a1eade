"""What waits in the queue of a channel, as far as it can be seen from outside."""

from __future__ import annotations

from typing import NamedTuple

from pressure.channel.channel import Channel
from pressure.envelope import SIGNED, Envelope
from pressure.protocol import Command
from pressure.requests import Flow

__all__ = ["Waiting", "newest_waiting"]


class Waiting(NamedTuple):
    """A record that nobody has taken. `client_id` is empty if it can't be read, `key_id` (which
    key has signed it) if it isn't signed."""

    id: bytes
    client_id: bytes
    key_id: bytes


def newest_waiting(channel: Channel, count: int, skip: int = 0) -> list[Waiting]:
    """Up to `count` of the newest records, after the `skip` newest. Their signatures are not looked
    at."""
    return [_waiting(item) for item in channel.handle.call(_newest(channel, count, skip))]


def _newest(channel: Channel, count: int, skip: int) -> Flow[list[bytes]]:
    base = channel.core.protocol.keys.base
    reply = yield Command(("LRANGE", base, skip, skip + count - 1))
    return list(reply)


def _waiting(item: bytes) -> Waiting:
    try:
        envelope = Envelope.parse(item)
    except ValueError:
        # As the scripts call it, whatever it is.
        return Waiting(item[14:30], b"", b"")
    key_id = envelope.key_id if envelope.flags & SIGNED else b""
    return Waiting(envelope.message_id, envelope.client_id, key_id)
