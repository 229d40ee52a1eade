"""How many items to move at a time: few while somebody waits for each, many in a hot loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

__all__ = ["Pace"]

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
        batch: list[bytes] = []
        size, most, started = 0, 1, time.monotonic()
        iterator = iter(iterable)
        while True:
            try:
                body = serialize(next(iterator))
            except StopIteration:
                if batch:
                    yield batch, None
                return
            except Exception as exc:
                yield batch, exc
                return
            batch.append(body)
            size += len(body)
            late = time.monotonic() - started > QUICK
            if len(batch) >= most or size >= BATCH_BYTES or late:
                yield batch, None
                most = 1 if late else min(most * 2, BATCH_ITEMS)
                batch, size, started = [], 0, time.monotonic()
