"""What a worker process notes for its supervisor, in memory that outlives it.

A small shared file holds a fixed record per worker: the consumer ids whose leases it holds, and the
task it is running. When the worker dies, the supervisor knows from it which task to blame. Some of
the record goes the other way: who the supervisor is, and which task it wants to end.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
from dataclasses import dataclass
from multiprocessing.connection import Connection

from pressure.executor.measures import MEASURES_BYTES, Measures

__all__ = ["MOST_CLAIMED", "MOST_QUEUES", "Notes", "Snapshot"]

MOST_CLAIMED = 128
MOST_QUEUES = 64
"""So many queues one worker can serve."""

_ID_BYTES = 16
_IDLE = b"\0" * _ID_BYTES
_RECORD = struct.Struct("=BBBQd16s16sdQd16s16s16s")
"""Ready, retired, queue, failed, looped, and what `_RUNNING` and the offsets below name."""
_READY_AT, _RETIRED_AT, _QUEUE_AT, _FAILED_AT, _LOOPED_AT = 0, 1, 2, 3, 11
_COUNT = struct.Struct("=Q")
_TIME = struct.Struct("=d")
_RUNNING_AT = _LOOPED_AT + _TIME.size
"""Offset of what changes with each task: task, client, start time, count, when to kill it. Written
in this order: who reads half of it finds no task, or no time to kill it."""
_RUNNING = struct.Struct("=16s16sdQd")
_KILL_AT_AT = _RUNNING_AT + _RUNNING.size - _TIME.size
_ORDERED_AT = _RUNNING_AT + _RUNNING.size
_SUPERVISOR_AT = _ORDERED_AT + _ID_BYTES
_ANNOUNCED_AT = _SUPERVISOR_AT + _ID_BYTES
_RECALLED_AT = _RECORD.size
_ASKED_AT = _RECALLED_AT + 1
_CLAIMED_AT = _ASKED_AT + 1
_COUNT_BYTES = 2
_CONSUMERS_AT = _CLAIMED_AT + _COUNT_BYTES + MOST_CLAIMED * _ID_BYTES
_NESTED_AT = _CONSUMERS_AT + MOST_QUEUES * _ID_BYTES
_MEASURES_AT = _NESTED_AT + MOST_QUEUES * _ID_BYTES
_TROUBLES_AT = _MEASURES_AT + MEASURES_BYTES
_TROUBLE_BYTES = 256
_SIZE = _TROUBLES_AT + MOST_QUEUES * _TROUBLE_BYTES


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A worker's notes. `task` is None between tasks; `started` and `kill_at` (0: never) are
    monotonic times, as is `looped`: when it last looked for tasks. `queue` is the number of the
    queue that the last task came from.

    `consumers` has a consumer id for each queue, up to the last one of which it has one; `nested`
    the client that the worker's tasks of that queue submit as. Either is None where there is none.
    `done` and `failed` count tasks. A worker that is `retired` has ended since nothing was left to
    do."""

    ready: bool
    retired: bool
    queue: int
    failed: int
    looped: float
    task: bytes | None
    client: bytes
    started: float
    done: int
    kill_at: float
    consumers: tuple[bytes | None, ...]
    nested: tuple[bytes | None, ...]

    @property
    def consumer(self) -> bytes:
        """The consumer id at the queue that the last task came from."""
        consumer = self.consumers[self.queue] if self.queue < len(self.consumers) else None
        return consumer or _IDLE


class Notes:
    """The record of one worker: the worker writes it, the supervisor reads it."""

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, _SIZE)
        self._failed = 0
        self.measures = Measures(self._map, _MEASURES_AT)

    @classmethod
    def create(cls) -> tuple[Connection, Notes]:
        """A new record in a file without a name, so that nothing stays if all are killed; returns
        the file, too, in a form in which it can be given to a process in whichever way that is
        started."""
        with tempfile.TemporaryFile(buffering=0) as file:
            file.write(b"\0" * _SIZE)
            return Connection(os.dup(file.fileno())), cls(file.fileno())

    def consumer(self, consumer: bytes, queue: int = 0, *, ready: bool = True) -> None:
        """Note under which consumer id this worker claims from a queue, or, if it is not `ready`,
        is about to register."""
        at = _CONSUMERS_AT + queue * _ID_BYTES
        self._map[at : at + _ID_BYTES] = consumer
        if ready:
            self._map[_READY_AT] = 1

    def serving(self, queue: int) -> None:
        """Note which queue the next tasks come from. Only between tasks."""
        self._map[_QUEUE_AT] = queue

    def running(self, task: bytes, client: bytes, started: float, done: int) -> None:
        _RUNNING.pack_into(self._map, _RUNNING_AT, task, client, started, done, 0.0)

    def kill_at(self, time: float) -> None:
        """The process has to be killed if the running task isn't done by then (monotonic)."""
        _TIME.pack_into(self._map, _KILL_AT_AT, time)

    def idle(self, done: int) -> None:
        _RUNNING.pack_into(self._map, _RUNNING_AT, _IDLE, _IDLE, 0.0, done, 0.0)

    def failed(self) -> None:
        """Count a task whose outcome is an error."""
        self._failed += 1
        _COUNT.pack_into(self._map, _FAILED_AT, self._failed)

    def looped(self, time: float) -> None:
        """Note when this worker last looked for tasks (monotonic)."""
        _TIME.pack_into(self._map, _LOOPED_AT, time)

    def retired(self) -> None:
        """Note that this worker ends since nothing is left to do: it needs no successor."""
        self._map[_RETIRED_AT] = 1

    def claimed(self, tasks: list[bytes]) -> None:
        """Note what was claimed at once, `MOST_CLAIMED` at most; none of it is recalled yet."""
        # More would be written over what comes behind.
        tasks = tasks[:MOST_CLAIMED]
        self._map[_RECALLED_AT] = 0
        ids = len(tasks).to_bytes(_COUNT_BYTES, "big") + b"".join(tasks)
        self._map[_CLAIMED_AT : _CLAIMED_AT + len(ids)] = ids

    def behind(self, task: bytes) -> list[bytes]:
        """The claimed tasks that come after this one, of the same queue."""
        start = _CLAIMED_AT + _COUNT_BYTES
        count = int.from_bytes(self._map[_CLAIMED_AT:start], "big")
        tasks = self._ids(start, count)
        return tasks[tasks.index(task) + 1 :] if task in tasks else []

    def _ids(self, start: int, count: int) -> list[bytes]:
        ids = self._map[start : start + count * _ID_BYTES]
        return [ids[at : at + _ID_BYTES] for at in range(0, len(ids), _ID_BYTES)]

    @property
    def announced(self) -> bytes:
        """The task whose client was told last that it runs, by the worker or the supervisor."""
        return self._map[_ANNOUNCED_AT:_RECALLED_AT]

    @announced.setter
    def announced(self, task: bytes) -> None:
        self._map[_ANNOUNCED_AT:_RECALLED_AT] = task

    @property
    def recalled(self) -> bool:
        """Set by the supervisor: what is claimed and not begun is not to be begun any more. The
        worker notes what it begins before it looks at this; the supervisor sets this before it
        looks at what was begun. So at least one of them sees the other's."""
        return self._map[_RECALLED_AT] == 1

    @recalled.setter
    def recalled(self, recalled: bool) -> None:
        self._map[_RECALLED_AT] = recalled

    @property
    def asked(self) -> bool:
        """Set by the supervisor: this worker is to stop. A task may have kept it from hearing the
        signal that says so."""
        return self._map[_ASKED_AT] == 1

    @asked.setter
    def asked(self, asked: bool) -> None:
        self._map[_ASKED_AT] = asked

    def nested(self, client: bytes, queue: int = 0) -> None:
        """Note under which client id this worker's tasks of a queue submit."""
        at = _NESTED_AT + queue * _ID_BYTES
        self._map[at : at + _ID_BYTES] = client

    def trouble(self, text: str, queue: int = 0) -> None:
        """Note why a queue can't be served; an empty text: it can."""
        at = _TROUBLES_AT + queue * _TROUBLE_BYTES
        said = text.encode(errors="replace")[:_TROUBLE_BYTES]
        self._map[at : at + _TROUBLE_BYTES] = said.ljust(_TROUBLE_BYTES, b"\0")

    def read_trouble(self, queue: int) -> str:
        """Why the worker can't serve a queue; empty: it can."""
        at = _TROUBLES_AT + queue * _TROUBLE_BYTES
        said = self._map[at : at + _TROUBLE_BYTES].rstrip(b"\0")
        return said.decode(errors="ignore")

    def order(self, task: bytes) -> None:
        """By the supervisor: this task is to end."""
        self._map[_ORDERED_AT:_SUPERVISOR_AT] = task

    def ordered(self) -> bytes:
        """The last task that was to end."""
        return self._map[_ORDERED_AT:_SUPERVISOR_AT]

    @property
    def supervisor(self) -> bytes:
        """The id under which the supervisor listens for orders."""
        return self._map[_SUPERVISOR_AT:_ANNOUNCED_AT]

    @supervisor.setter
    def supervisor(self, id: bytes) -> None:
        self._map[_SUPERVISOR_AT:_ANNOUNCED_AT] = id

    def read(self) -> Snapshot:
        ready, retired, queue, failed, looped, task, client, started, done, kill_at, *_ = (
            _RECORD.unpack_from(self._map)
        )
        return Snapshot(
            bool(ready),
            bool(retired),
            queue,
            failed,
            looped,
            None if task == _IDLE else task,
            client,
            started,
            done,
            kill_at,
            self._known(_CONSUMERS_AT),
            self._known(_NESTED_AT),
        )

    def _known(self, start: int) -> tuple[bytes | None, ...]:
        """The ids of a table, up to the last one that is there."""
        table = self._map[start : start + MOST_QUEUES * _ID_BYTES].rstrip(b"\0")
        count = -(-len(table) // _ID_BYTES)
        return tuple(None if id == _IDLE else id for id in self._ids(start, count))

    def close(self) -> None:
        self._map.close()
