"""What there is to see of a queue."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from pressure.arguments import usable_bound
from pressure.core import Core
from pressure.envelope import Envelope

__all__ = ["QueueStats", "parse_stats"]


@dataclass(frozen=True, slots=True)
class QueueStats:
    """A queue at one instant.

    Attributes:
        bound: the most items it may hold; 0: no limit.
        length: items in it, including `fetched_ahead`, which consumers hold and may give back.
        consumers: how many consumers live, as far as their leases tell.
        oldest_put_at: when the oldest item was put, in seconds since the epoch by the server's
            clock; None if there is none, or for raw items.
        last_producer, last_consumer: the clients that used these roles last.
        paused_at: since when nothing is handed out (`PressureQueue.pause`), by the server's clock;
            None: it is not paused.
        orphans: results that came after their client had gone (executor queues).
    """

    bound: int
    length: int
    closed: bool
    produced_messages: int
    produced_bytes: int
    consumed_messages: int
    consumed_bytes: int
    fetched_ahead: int
    consumers: int
    dead_letters: int
    last_producer: str
    last_consumer: str
    orphans: int
    oldest_put_at: float | None
    paused_at: float | None


def parse_stats(core: Core[Any], reply: Any) -> QueueStats:
    """Make sense of the reply of `stats`. Raises `PressureError` if the bound is no number."""
    oldest: float | None = None
    header = reply[14]
    if not core.raw and header:
        with contextlib.suppress(ValueError):
            oldest = Envelope.parse(header).put_ms / 1000
    ahead = reply[8]
    return QueueStats(
        bound=usable_bound(reply[1], core.protocol.keys.bound),
        length=reply[2] + ahead,
        closed=bool(reply[3]),
        produced_messages=reply[4],
        produced_bytes=reply[5],
        consumed_messages=reply[6],
        consumed_bytes=reply[7],
        fetched_ahead=ahead,
        consumers=reply[9],
        dead_letters=reply[10],
        last_producer=reply[11].decode(errors="replace"),
        last_consumer=reply[12].decode(errors="replace"),
        orphans=reply[13],
        oldest_put_at=oldest,
        paused_at=reply[15] / 1000 if reply[15] else None,
    )
