"""Uses a queue in all the ways that need a permission of their own."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable

from pressure.cli.connecting import Server
from pressure.errors import (
    PressureError,
    QueueDoesNotExistError,
    QueueEmptyError,
    ServerOutOfMemoryError,
)
from pressure.queue import PressureQueue

__all__ = ["tried"]

WAIT = 5.0
SHORT = 0.05
LATE = 1.5
"""A wait that takes so much longer (seconds) was not ended by its client."""
Queue = PressureQueue[bytes]


def tried(server: Server) -> str | None:
    """Make a queue with a random name, use it and delete it. Says what failed, if anything; raises
    `ServerOutOfMemoryError`, which is no question of permissions."""
    queue = server.queue_of_bytes(f"doctor-{os.urandom(8).hex()}")
    try:
        for doing, step in STEPS:
            try:
                step(queue)
            except ServerOutOfMemoryError:
                raise
            except PressureError as exc:
                return f"it is not possible to {doing} ({exc})"
        return None
    finally:
        with contextlib.suppress(QueueDoesNotExistError, PressureError):
            queue.delete()
        queue.disconnect()


def _take(queue: Queue) -> None:
    queue.get(timeout=WAIT)


def _wait(queue: Queue) -> None:
    began = time.monotonic()
    with contextlib.suppress(QueueEmptyError):
        queue.get(timeout=SHORT)
    if time.monotonic() - began > SHORT + LATE:
        raise PressureError("waits end late: CLIENT UNBLOCK is not permitted")


def _lease(queue: Queue) -> None:
    queue.put(b"well")
    with queue.lease(timeout=WAIT):
        pass


def _pause(queue: Queue) -> None:
    queue.pause()
    queue.resume()


STEPS: tuple[tuple[str, Callable[[Queue], None]], ...] = (
    ("make a queue", lambda queue: queue.create(1)),
    ("put an item", lambda queue: queue.put(b"well")),
    ("take an item", _take),
    ("wait for an item", _wait),
    ("lease an item", _lease),
    ("pause a queue", _pause),
    ("delete a queue", lambda queue: queue.delete()),
)
