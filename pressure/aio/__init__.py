"""`PressureQueue` for asyncio; see `pressure.aio.queue`."""

from __future__ import annotations

from pressure.aio.errors import QueueClosedError, QueueEmptyError, QueueFullError
from pressure.aio.lease import AsyncLease
from pressure.aio.letters import AsyncDeadLetters
from pressure.aio.queue import PressureQueue

__all__ = [
    "AsyncDeadLetters",
    "AsyncLease",
    "PressureQueue",
    "QueueClosedError",
    "QueueEmptyError",
    "QueueFullError",
]
