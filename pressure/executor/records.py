"""The records that travel: tasks one way, answers and notices the other. Bytes only, no pickling.

`protocol.md` ("Executor") has the same layouts.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

__all__ = ["Answer", "Kind", "Task", "pack_answer", "pack_task", "unpack_answer", "unpack_task"]

STORED = 0x01
"""Flag of a task: the function lies beside the client's reply queue; its digest travels."""

_TASK = struct.Struct(">BH")
_ANSWER = struct.Struct(">BHddB")


class Kind(IntEnum):
    """What an answer says. From `STARTED` on it is a notice, and the future stays pending."""

    RESULT = 0
    ERROR = 1
    UNREADABLE = 2
    BROKEN = 3
    LOST = 4
    STARTED = 16
    DEATH = 17


class Task(NamedTuple):
    flags: int
    function: bytes
    arguments: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """`started` and `finished` are seconds since the epoch by the worker's clock."""

    kind: int
    deliveries: int
    started: float
    finished: float
    worker: str
    payload: bytes

    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.payload))


def pack_task(function: bytes, arguments: bytes, *, stored: bool) -> bytes:
    return _TASK.pack(STORED if stored else 0, len(function)) + function + arguments


def unpack_task(body: bytes) -> Task:
    """Raises `ValueError` if the body is no task."""
    try:
        flags, length = _TASK.unpack_from(body)
    except struct.error as exc:
        raise ValueError("it is no task record") from exc
    start = _TASK.size
    return Task(flags, body[start : start + length], body[start + length :])


def pack_answer(
    kind: Kind, payload: bytes, *, worker: bytes, deliveries: int, started: float, finished: float
) -> bytes:
    return _ANSWER.pack(kind, deliveries, started, finished, len(worker)) + worker + payload


def unpack_answer(body: bytes) -> Answer:
    """Raises `ValueError` if the body is no answer."""
    try:
        kind, deliveries, started, finished, length = _ANSWER.unpack_from(body)
    except struct.error as exc:
        raise ValueError("it is no answer record") from exc
    start = _ANSWER.size
    worker = body[start : start + length].decode(errors="replace")
    return Answer(kind, deliveries, started, finished, worker, body[start + length :])
