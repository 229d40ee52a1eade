"""Keeps a daemon's entries in the registry: what each of its worker processes is doing."""

from __future__ import annotations

import logging
import os
import platform
import secrets
import socket
import time
from collections.abc import Callable, Collection, Sequence

from pressure._version import __version__
from pressure.channel import Channel
from pressure.channel.registry import Registry, RunningTask, WorkerRecord
from pressure.errors import PressureError
from pressure.executor.notes import Snapshot
from pressure.executor.supervision.memory import rss
from pressure.retry import is_about_one_queue

__all__ = ["Registrar"]

log = logging.getLogger("pressure.worker")

LONGEST_INTERVAL = 5.0
SHORTEST_LIFE = 3.0
SOON = 0.5
"""After this time (seconds) a worker is looked at again that was not ready."""
SLACK = 1.0
"""How much later than its time (seconds) a second beat may come."""
EARLY = 0.95
"""How soon (seconds) after a beat a change is told. A little less than the supervisor's step, so
that each step can tell one."""


class Registrar:
    """Belongs to a supervisor, and writes to the registries of all its queues.

    That the server is away is no error: the records vanish, and come back with it.
    """

    def __init__(self, channels: Sequence[Channel], *, daemon: bytes, name: str = "") -> None:
        self._registries = [Registry(channel.handle) for channel in channels]
        self._queues = tuple(channel.name for channel in channels)
        self._daemon = daemon.hex()
        self._host = socket.gethostname()
        self._name = name or f"{self._host}:{os.getpid()}"
        self._interval = min(channels[0].core.settings.lease / 3, LONGEST_INTERVAL)
        self._ttl = max(2 * self._interval + SLACK, SHORTEST_LIFE)
        self._ids: dict[int, str] = {}
        self._due = self._early = 0.0
        self._seen: list[tuple[object, ...]] = []
        self._stopping = False

    def look(self, workers: Collection[tuple[int, float, Snapshot]], *, stopping: bool) -> float:
        """Say what these are doing (pid, when the process started, notes), if it is time to, if one
        of them is new, or if one does something else than before. Returns for how long that may
        wait then (seconds)."""
        now = time.monotonic()
        seen: list[tuple[object, ...]] = [
            (pid, one.ready, one.task, one.done, one.failed) for pid, _, one in workers
        ]
        changed = seen != self._seen and now >= self._early
        new = stopping > self._stopping or len(workers) > len(self._ids)
        if now >= self._due or changed or new:
            self._due, self._stopping = now + self._interval, stopping
            self._early, self._seen = now + EARLY, seen
            records = [
                self._record(pid, now - started, snapshot, now)
                for pid, started, snapshot in workers
            ]
            if any(record.state == "starting" for record in records):
                self._due = now + min(SOON, self._interval)
            self._tell(lambda registry: registry.beat(records, self._ttl))
        return max(0.0, min(self._due - now, SOON))

    def gone(self, pid: int) -> None:
        """A worker has ended."""
        id = self._ids.pop(pid, None)
        if id is not None:
            self._tell(lambda registry: registry.retire([id]))

    def close(self) -> None:
        """The daemon ends."""
        ids = list(self._ids.values())
        self._ids.clear()
        self._tell(lambda registry: registry.retire(ids))

    def _tell(self, what: Callable[[Registry], None]) -> None:
        for registry in self._registries:
            try:
                what(registry)
            except PressureError as exc:
                log.debug("the registry could not be told: %s", exc)
                if not is_about_one_queue(exc):
                    # The others would fare no better, and they all have a limited time.
                    return

    def _record(self, pid: int, age: float, snapshot: Snapshot, now: float) -> WorkerRecord:
        task = None
        if snapshot.task is not None and snapshot.queue < len(self._queues):
            task = RunningTask(
                snapshot.task.hex(), self._queues[snapshot.queue], max(0.0, now - snapshot.started)
            )
        if self._stopping:
            state = "stopping"
        elif not snapshot.ready:
            state = "starting"
        else:
            state = "idle" if task is None else "busy"
        if pid not in self._ids:
            self._ids[pid] = secrets.token_hex(16)
        return WorkerRecord(
            id=self._ids[pid],
            daemon=self._daemon,
            name=self._name,
            host=self._host,
            pid=pid,
            supervisor_pid=os.getpid(),
            version=__version__,
            python=platform.python_version(),
            queues=self._queues,
            age=age,
            state=state,
            task=task,
            done=snapshot.done,
            failed=snapshot.failed,
            memory=rss(pid),
            ttl=self._ttl,
        )
