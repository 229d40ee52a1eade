"""Who works on a queue, for people and their tools: what daemons say of their worker processes.

A daemon writes a record per process now and then (`Registry.beat`), each of which counts for a
limited time. Nothing else depends on them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from pressure.handle import Handle
from pressure.protocol import PROTOCOL_VERSION, Command, Status
from pressure.requests import Flow

__all__ = ["Registry", "RunningTask", "WorkerRecord", "read_roll"]

PATIENCE = 1.0


@dataclass(frozen=True, slots=True)
class RunningTask:
    """A task that a worker runs: `id` in hexadecimal digits, `age` in seconds since it began."""

    id: str
    queue: str
    age: float


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """What a daemon says of one of its worker processes.

    Attributes:
        id: the worker's, in hexadecimal digits; another one for each process.
        daemon: the daemon's, which is also the one under which that receives orders.
        name: what its operators call the daemon.
        host: the machine.
        pid: the worker process.
        supervisor_pid: the daemon's process.
        version: of this library there.
        python: the version of the interpreter.
        queues: those that it serves.
        age: seconds since the process started.
        state: `starting`, `idle`, `busy`, or `stopping`.
        task: the running task.
        done: how many tasks it has run.
        failed: how many of them had an error for an outcome.
        memory: bytes that the process occupies; None where that is unknown.
        ttl: seconds for which the record counts once it was written.
        protocol: the version of the protocol that it speaks.
        seen: seconds since it was written. (Ages are of now.)
    """

    id: str
    daemon: str
    name: str
    host: str
    pid: int
    supervisor_pid: int
    version: str
    python: str
    queues: tuple[str, ...]
    age: float
    state: str
    task: RunningTask | None
    done: int
    failed: int
    memory: int | None
    ttl: float
    protocol: str = PROTOCOL_VERSION
    seen: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """What `json.dumps` takes."""
        return asdict(self)

    def pack(self) -> bytes:
        """The record as it is kept at the server."""
        said = asdict(self)
        del said["seen"]
        return json.dumps(said, separators=(",", ":")).encode()

    @classmethod
    def unpack(cls, data: bytes, left: float) -> WorkerRecord:
        """A record of which `left` seconds are left. Fields that are not known are left out.
        Raises `ValueError` if it is none."""
        try:
            said = json.loads(data)
            known = {name: said[name] for name in (one.name for one in _WRITTEN)}
            seen = max(0.0, float(known["ttl"]) - left)
            known["queues"] = tuple(str(queue) for queue in known["queues"])
            known["age"] = float(known["age"]) + seen
            if known["task"] is not None:
                task = RunningTask(**{one.name: known["task"][one.name] for one in _TASK})
                known["task"] = replace(task, age=float(task.age) + seen)
            record = cls(**known, seen=seen)
        except (KeyError, TypeError, ValueError) as exc:
            raise ValueError(f"no record of a worker: {exc}") from exc
        for name, kinds in _KINDS.items():
            if not isinstance(getattr(record, name), kinds):
                raise ValueError(f"no record of a worker: {name} is {getattr(record, name)!r}")
        return record


_WRITTEN = [one for one in fields(WorkerRecord) if one.name != "seen"]
_TASK = fields(RunningTask)
_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(
        ("id", "daemon", "name", "host", "version", "python", "protocol", "state"), str
    ),
    **dict.fromkeys(("pid", "supervisor_pid", "done", "failed"), int),
    "memory": (int, type(None)),
}


class Registry:
    """The records of one queue, reached by any handle to it.

    `beat` and `retire` give up after a second or two if the server is away, and raise
    `ServerUnavailableError`; `roll` looks for it as long as the handle's settings say.
    """

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._protocol = handle.core.protocol

    def beat(self, records: Sequence[WorkerRecord], ttl: float) -> None:
        """Write records, which count for `ttl` seconds. Does nothing if there is no such queue."""
        packed = [(record.id.encode(), record.pack()) for record in records]
        if packed:
            self._send(self._protocol.register(int(ttl * 1000), packed))

    def retire(self, ids: Sequence[str]) -> None:
        """Remove the records of workers that have ended."""
        if ids:
            self._send(self._protocol.unregister([id.encode() for id in ids]))

    def roll(self) -> list[WorkerRecord]:
        """All records that count, oldest workers first. What can't be read is left out."""
        return read_roll(self._handle.call(_one(self._protocol.roll())))

    def _send(self, command: Command) -> None:
        self._handle.call(_one(command), time.monotonic() + PATIENCE)


def read_roll(reply: Any) -> list[WorkerRecord]:
    """The records in the reply of `roll`, as `Registry.roll` returns them."""
    status, *said = reply
    assert status == Status.OK
    records = []
    for left_ms, data in zip(said[::2], said[1::2], strict=True):
        try:
            records.append(WorkerRecord.unpack(data, left_ms / 1000))
        except ValueError:
            continue
    return sorted(records, key=lambda record: (-record.age, record.id))


def _one(command: Command) -> Flow[Any]:
    reply: Any = yield command
    return reply
