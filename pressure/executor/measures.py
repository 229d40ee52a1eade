"""What worker processes measure for their supervisor's metrics, in the memory of their notes.

A process counts without asking anybody: two numbers are written per task. When it has ended, what
it counted is kept in the supervisor's books, so that counters never fall.
"""

from __future__ import annotations

import mmap
import struct
from bisect import bisect_left
from dataclasses import dataclass, field, fields

__all__ = ["BOUNDS", "MEASURES_BYTES", "Books", "Measured", "Measures"]

BOUNDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0),
)
"""The upper bounds (seconds) of the buckets that run times are counted in; the last has none."""

_COUNT = struct.Struct("=Q")
_SUM = struct.Struct("=d")
_ALL = struct.Struct(f"=Bd{len(BOUNDS) + 1}QQQ")
_WANTED_AT, _SUM_AT = 0, 1
_BUCKETS_AT = _SUM_AT + _SUM.size
_REDELIVERED_AT = _BUCKETS_AT + (len(BOUNDS) + 1) * _COUNT.size
_LOST_AT = _REDELIVERED_AT + _COUNT.size
MEASURES_BYTES = _ALL.size


@dataclass(slots=True)
class Measured:
    """What was counted.

    Attributes:
        buckets: tasks by how long they ran, see `BOUNDS`.
        seconds: how long all of them ran together.
        redelivered: tasks that had been delivered in vain before.
        leases_lost: how often a worker found that its lease was over.
        done: tasks that were run.
        failed: those of them whose outcome was an error.
        deaths: worker processes that died unexpectedly.
    """

    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    seconds: float = 0.0
    redelivered: int = 0
    leases_lost: int = 0
    done: int = 0
    failed: int = 0
    deaths: int = 0

    def at_least(self, other: Measured) -> None:
        """Nothing is less than there: what is between a worker's notes and the books while it ends
        must not make a counter fall."""
        for each in fields(self):
            mine, least = getattr(self, each.name), getattr(other, each.name)
            if isinstance(mine, list):
                setattr(self, each.name, list(map(max, mine, least)))
            else:
                setattr(self, each.name, max(mine, least))

    def add(self, other: Measured) -> None:
        self.buckets = [mine + more for mine, more in zip(self.buckets, other.buckets, strict=True)]
        self.seconds += other.seconds
        self.redelivered += other.redelivered
        self.leases_lost += other.leases_lost
        self.done += other.done
        self.failed += other.failed
        self.deaths += other.deaths


class Measures:
    """The part of a worker's notes, from `at` on, that it counts in. The worker writes it; the
    supervisor reads it, and says beforehand whether it is `wanted`."""

    __slots__ = ("_at", "_buckets", "_lost", "_map", "_redelivered", "_seconds")

    def __init__(self, memory: mmap.mmap, at: int) -> None:
        self._map = memory
        self._at = at
        self._buckets = [0] * (len(BOUNDS) + 1)
        self._seconds = 0.0
        self._redelivered = self._lost = 0

    @property
    def wanted(self) -> bool:
        return self._map[self._at + _WANTED_AT] == 1

    @wanted.setter
    def wanted(self, wanted: bool) -> None:
        self._map[self._at + _WANTED_AT] = wanted

    def ran(self, seconds: float, deliveries: int) -> None:
        """Count a task that has run for so long, after so many failed deliveries."""
        bucket = bisect_left(BOUNDS, seconds)
        self._buckets[bucket] += 1
        self._seconds += seconds
        at = self._at
        _COUNT.pack_into(self._map, at + _BUCKETS_AT + 8 * bucket, self._buckets[bucket])
        _SUM.pack_into(self._map, at + _SUM_AT, self._seconds)
        if deliveries:
            self._redelivered += 1
            _COUNT.pack_into(self._map, at + _REDELIVERED_AT, self._redelivered)

    def leases_lost(self, count: int) -> None:
        """Say how often a lease was found to be lost so far."""
        if count != self._lost:
            self._lost = count
            _COUNT.pack_into(self._map, self._at + _LOST_AT, count)

    def read(self) -> Measured:
        _, seconds, *counts = _ALL.unpack_from(self._map, self._at)
        *buckets, redelivered, lost = counts
        return Measured(buckets, seconds, redelivered, lost)


@dataclass(slots=True)
class Books:
    """What the workers of a daemon measured that have ended."""

    past: Measured = field(default_factory=Measured)

    def close(self, measured: Measured, done: int, failed: int, *, died: bool) -> None:
        """A worker has ended."""
        measured.done, measured.failed, measured.deaths = done, failed, int(died)
        self.past.add(measured)
