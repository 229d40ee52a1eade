"""What a worker process notes for its supervisor, in memory that outlives it.

A small shared file holds a fixed record per worker: the consumer id whose leases it holds, and the
task it is running. When the worker dies, the supervisor knows from it which task to blame. Some of
the record goes the other way: who the supervisor is, and which task it wants to end.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
from dataclasses import dataclass

__all__ = ["MOST_CLAIMED", "Notes", "Snapshot"]

_ID_BYTES = 16
_RECORD = struct.Struct("=B16s16s16sdQd16s16s16s")
_RUNNING_AT = 17
"""Offset of what changes with each task: task, client, start time, count, when to kill it. Written
in this order: who reads half of it finds no task, or no time to kill it."""
_RUNNING = struct.Struct("=16s16sdQd")
_KILL_AT = struct.Struct("=d")
_KILL_AT_AT = _RUNNING_AT + _RUNNING.size - _KILL_AT.size
_ORDERED_AT = _RUNNING_AT + _RUNNING.size
_SUPERVISOR_AT = _ORDERED_AT + _ID_BYTES
_NESTED_AT = _SUPERVISOR_AT + _ID_BYTES
_RECALLED_AT = _RECORD.size
_CLAIMED_AT = _RECALLED_AT + 1
_COUNT_BYTES = 2
MOST_CLAIMED = 128
_ANNOUNCED_AT = _CLAIMED_AT + _COUNT_BYTES + MOST_CLAIMED * _ID_BYTES
_SIZE = _ANNOUNCED_AT + _ID_BYTES
_IDLE = b"\0" * _ID_BYTES


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A worker's notes. `task` is None between tasks; `started` and `kill_at` (0: never) are
    monotonic times. `nested` is the client that the worker's tasks submit as, if they did."""

    ready: bool
    consumer: bytes
    task: bytes | None
    client: bytes
    started: float
    done: int
    kill_at: float
    nested: bytes | None


class Notes:
    """The record of one worker: the worker writes it, the supervisor reads it."""

    def __init__(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDWR)
        try:
            self._map = mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)

    @classmethod
    def create(cls) -> tuple[str, Notes]:
        """A new record in a private file; returns its path, too. The worker removes the file when
        it has opened it, so that nothing stays if all are killed."""
        descriptor, path = tempfile.mkstemp(prefix="pressure-")
        try:
            os.write(descriptor, b"\0" * _SIZE)
        finally:
            os.close(descriptor)
        return path, cls(path)

    def consumer(self, consumer: bytes) -> None:
        """Note under which consumer id this worker claims."""
        self._map[1:_RUNNING_AT] = consumer
        self._map[0:1] = b"\1"

    def running(self, task: bytes, client: bytes, started: float, done: int) -> None:
        _RUNNING.pack_into(self._map, _RUNNING_AT, task, client, started, done, 0.0)

    def kill_at(self, time: float) -> None:
        """The process has to be killed if the running task isn't done by then (monotonic)."""
        _KILL_AT.pack_into(self._map, _KILL_AT_AT, time)

    def idle(self, done: int) -> None:
        _RUNNING.pack_into(self._map, _RUNNING_AT, _IDLE, _IDLE, 0.0, done, 0.0)

    def claimed(self, tasks: list[bytes]) -> None:
        """Note what was claimed at once, `MOST_CLAIMED` at most; none of it is recalled yet."""
        self._map[_RECALLED_AT] = 0
        ids = len(tasks).to_bytes(_COUNT_BYTES, "big") + b"".join(tasks)
        self._map[_CLAIMED_AT : _CLAIMED_AT + len(ids)] = ids

    def behind(self, task: bytes) -> list[bytes]:
        """The claimed tasks that come after this one."""
        start = _CLAIMED_AT + _COUNT_BYTES
        count = int.from_bytes(self._map[_CLAIMED_AT:start], "big")
        tasks = [
            self._map[at : at + _ID_BYTES]
            for at in range(start, start + count * _ID_BYTES, _ID_BYTES)
        ]
        return tasks[tasks.index(task) + 1 :] if task in tasks else []

    @property
    def announced(self) -> bytes:
        """The task whose client was told last that it runs, by the worker or the supervisor."""
        return self._map[_ANNOUNCED_AT:_SIZE]

    @announced.setter
    def announced(self, task: bytes) -> None:
        self._map[_ANNOUNCED_AT:_SIZE] = task

    @property
    def recalled(self) -> bool:
        """Set by the supervisor: what is claimed and not begun is not to be begun any more. The
        worker notes what it begins before it looks at this; the supervisor sets this before it
        looks at what was begun. So at least one of them sees the other's."""
        return self._map[_RECALLED_AT] == 1

    @recalled.setter
    def recalled(self, recalled: bool) -> None:
        self._map[_RECALLED_AT] = recalled

    def nested(self, client: bytes) -> None:
        """Note under which client id this worker's tasks submit."""
        self._map[_NESTED_AT : _NESTED_AT + _ID_BYTES] = client

    def order(self, task: bytes) -> None:
        """By the supervisor: this task is to end."""
        self._map[_ORDERED_AT:_SUPERVISOR_AT] = task

    def ordered(self) -> bytes:
        """The last task that was to end."""
        return self._map[_ORDERED_AT:_SUPERVISOR_AT]

    @property
    def supervisor(self) -> bytes:
        """The id under which the supervisor listens for orders."""
        return self._map[_SUPERVISOR_AT:_NESTED_AT]

    @supervisor.setter
    def supervisor(self, id: bytes) -> None:
        self._map[_SUPERVISOR_AT:_NESTED_AT] = id

    def read(self) -> Snapshot:
        ready, consumer, task, client, started, done, kill_at, _, _, nested = _RECORD.unpack_from(
            self._map
        )
        return Snapshot(
            bool(ready),
            consumer,
            None if task == _IDLE else task,
            client,
            started,
            done,
            kill_at,
            None if nested == _IDLE else nested,
        )

    def close(self) -> None:
        self._map.close()
