"""Reply queues: each belongs to a client, and lies in the slot of the queue that it sends to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pressure.core import Core
from pressure.keys import Keys

__all__ = ["REPLY_TTL", "Opaque", "kept_core", "reply_core", "reply_keys", "reply_name"]

REPLY_TTL = 60.0
"""How long (seconds) a reply queue outlives its client."""


class Opaque:
    """The serializer of a channel: bodies are bytes already."""

    def dumps(self, obj: Any, /) -> bytes:
        return bytes(obj)

    def loads(self, data: bytes, /) -> Any:
        return data


def reply_name(queue: str, client_id: bytes) -> str:
    return f"{queue}:reply:{client_id.hex()}"


def reply_core(core: Core[Any], client_id: bytes) -> Core[Any]:
    """What must be known of a client's reply queue to write to it."""
    settings = replace(core.settings, direction="result", ttl=REPLY_TTL, max_deliveries=0)
    prefix = core.protocol.keys.prefix
    reply: Core[Any] = Core(reply_name(core.name, client_id), prefix, Opaque(), settings)
    reply.learn(client_id.hex().encode(), 0)
    return reply


def kept_core(reply: Core[Any]) -> Core[Any]:
    """For what is kept beside a reply queue: that goes the other way than the answers, and so is
    signed in a direction of its own."""
    settings = replace(reply.settings, direction="stored")
    kept: Core[Any] = Core(reply.name, reply.protocol.keys.prefix, Opaque(), settings)
    kept.client_id = reply.client_id
    kept.learn(reply.generation, 0)
    return kept


def reply_keys(core: Core[Any], client_id: bytes) -> Keys:
    return Keys(
        core.protocol.keys.prefix, reply_name(core.name, client_id), hash_tag=core.settings.hash_tag
    )
