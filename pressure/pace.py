"""How many items to move at a time: few while somebody waits for each, many in a hot loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

__all__ = ["QUICK", "Batch", "Pace"]

MOST = 256
QUICK = 0.01
"""A batch that was used up within this time (seconds) may be followed by one twice as large."""
BATCH_ITEMS = 1000
BATCH_BYTES = 256 * 1024


class Pace:
    """The batch sizes of one handle."""

    def __init__(self) -> None:
        self._count = 1
        self._last = 0.0

    def next_count(self) -> int:
        """How many items to fetch now, if any must be fetched."""
        now = time.monotonic()
        if now - self._last > QUICK:
            self._count = 1
        self._last = now
        return self._count

    def fetched(self) -> None:
        """A batch is used up, and another was fetched."""
        self._count = min(self._count * 2, MOST)

    def batches(
        self, iterable: Iterable[Any], serialize: Callable[[Any], bytes]
    ) -> Iterator[tuple[list[bytes], Exception | None]]:
        """Serialized batches of an iterable, growing while it is quick, and the error (if any) that
        ended it."""
        batch = Batch()
        iterator = iter(iterable)
        while True:
            try:
                body = serialize(next(iterator))
            except StopIteration:
                if batch.bodies:
                    yield batch.bodies, None
                return
            except Exception as exc:
                yield batch.bodies, exc
                return
            if batch.add(body):
                yield batch.take(), None


class Batch:
    """Bodies that are put at a time, growing in number while they come quickly."""

    def __init__(self) -> None:
        self._most = 1
        self._begin()

    def _begin(self) -> None:
        self.bodies: list[bytes] = []
        self._size = 0
        self._started = time.monotonic()

    def add(self, body: bytes) -> bool:
        """Whether it should be put now."""
        self.bodies.append(body)
        self._size += len(body)
        if time.monotonic() - self._started > QUICK:
            self._most = 1
            return True
        if len(self.bodies) >= self._most or self._size >= BATCH_BYTES:
            self._most = min(self._most * 2, BATCH_ITEMS)
            return True
        return False

    def take(self) -> list[bytes]:
        """The bodies so far; another batch begins."""
        bodies = self.bodies
        self._begin()
        return bodies
