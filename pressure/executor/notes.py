"""What a worker process notes for its supervisor, in memory that outlives it.

A small shared file holds a fixed record per worker: the consumer id whose leases it holds, and the
task it is running. When the worker dies, the supervisor knows from it which task to blame.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
from dataclasses import dataclass

__all__ = ["Notes", "Snapshot"]

_ID_BYTES = 16
_RECORD = struct.Struct("=B16s16s16sdQ")
_RUNNING_AT = 17
"""Offset of what changes with each task: task, client, start time, count."""
_RUNNING = struct.Struct("=16s16sdQ")
_IDLE = b"\0" * _ID_BYTES


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A worker's notes. `task` is None between tasks; `started` is a monotonic time."""

    ready: bool
    consumer: bytes
    task: bytes | None
    client: bytes
    started: float
    done: int


class Notes:
    """The record of one worker: the worker writes it, the supervisor reads it."""

    def __init__(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDWR)
        try:
            self._map = mmap.mmap(descriptor, _RECORD.size)
        finally:
            os.close(descriptor)

    @classmethod
    def create(cls, directory: str) -> tuple[str, Notes]:
        """A new record in a private directory; returns its path, too."""
        descriptor, path = tempfile.mkstemp(dir=directory)
        try:
            os.write(descriptor, b"\0" * _RECORD.size)
        finally:
            os.close(descriptor)
        return path, cls(path)

    def consumer(self, consumer: bytes) -> None:
        """Note under which consumer id this worker claims."""
        self._map[1:_RUNNING_AT] = consumer
        self._map[0:1] = b"\1"

    def running(self, task: bytes, client: bytes, started: float, done: int) -> None:
        _RUNNING.pack_into(self._map, _RUNNING_AT, task, client, started, done)

    def idle(self, done: int) -> None:
        _RUNNING.pack_into(self._map, _RUNNING_AT, _IDLE, _IDLE, 0.0, done)

    def read(self) -> Snapshot:
        ready, consumer, task, client, started, done = _RECORD.unpack_from(self._map)
        return Snapshot(
            bool(ready), consumer, None if task == _IDLE else task, client, started, done
        )

    def close(self) -> None:
        self._map.close()
