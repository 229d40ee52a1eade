"""The records that travel: tasks one way, answers and notices the other. Bytes only, no pickling.

`protocol.md` ("Executor") has the same layouts.
"""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import partial
from typing import Any, NamedTuple

from pressure.content import Buffer, Content
from pressure.executor.payloads import Packed, joined

__all__ = [
    "SHORT",
    "Answer",
    "Kind",
    "Run",
    "Task",
    "join_answers",
    "pack_answer",
    "pack_task",
    "read_head",
    "split_answers",
    "task_head",
    "unpack_answer",
    "unpack_task",
]

SHORT = 4096
"""Of arguments up to this size a task is made by `task_head`."""

STORED = 0x01
"""Flag of a task: the function lies beside the client's reply queue; its digest travels."""
CAPTURE = 0x04
"""Flag of a task: what it prints is to come with the answer."""
OUTPUT = 0x80
"""Is added to the kind of an answer: before the payload there is what the task printed (UTF-8),
and its length as `u32` before that."""
LIMITED = 0x02
"""Flag of a task: after the header come its timeout and its grace (seconds, as doubles)."""

NO_ARGUMENTS = pickle.dumps(((), {}), 5)
"""The arguments of many tasks: they need neither be pickled each time nor unpickled."""

_TASK = struct.Struct(">BH")
_LIMITS = struct.Struct(">dd")
_ANSWER = struct.Struct(">BHddB")
_ANSWER_BYTES = _ANSWER.size
_SEVERAL = struct.Struct(">BH")
_ONE = struct.Struct(">16sI")
_TASK_BYTES = _TASK.size
_LENGTH = struct.Struct(">I")


class Kind(IntEnum):
    """What an answer says. From `STARTED` on it is a notice, and the future stays pending."""

    RESULT = 0
    ERROR = 1
    UNREADABLE = 2
    BROKEN = 3
    LOST = 4
    ENDED = 5
    SEVERAL = 6
    DOUBTFUL = 7
    STARTED = 16
    DEATH = 17


_SEVERAL_KIND = bytes([Kind.SEVERAL])


class Task(NamedTuple):
    """`limits`: how long it may run, and how long it may take to end then (seconds)."""

    flags: int
    function: bytes
    arguments: Buffer
    limits: tuple[float, float] | None = None


class Run(NamedTuple):
    """`started` and `finished` are seconds since the epoch by the worker's clock."""

    deliveries: int
    started: float
    finished: float
    worker: bytes


class Answer(NamedTuple):
    """`head` says how the task ran; see `read_head`."""

    kind: int
    head: bytes
    payload: Buffer
    output: bytes = b""

    @property
    def worker(self) -> bytes:
        return self.head[_ANSWER_BYTES:]

    def json(self) -> dict[str, Any]:
        return dict(json.loads(bytes(self.payload)))


# Quicker than the class itself, for what is made for each task.
_task: Callable[[tuple[Any, ...]], Task] = partial(tuple.__new__, Task)
_answer: Callable[[tuple[Any, ...]], Answer] = partial(tuple.__new__, Answer)


def pack_task(
    function: bytes,
    arguments: bytes | Packed,
    *,
    stored: bool,
    limits: tuple[float, float] | None = None,
    capture: bool = False,
) -> bytes | Content:
    flags = (STORED if stored else 0) | (CAPTURE if capture else 0)
    if limits is None:
        return joined(_TASK.pack(flags, len(function)) + function, arguments)
    header = _TASK.pack(flags | LIMITED, len(function)) + _LIMITS.pack(*limits)
    return joined(header + function, arguments)


def task_head(function: bytes, *, stored: bool) -> bytes:
    """How a task without options begins, whose arguments are short: these follow."""
    return _TASK.pack(STORED if stored else 0, len(function)) + function


def unpack_task(body: Buffer) -> Task:
    """Raises `ValueError` if the body is no task."""
    try:
        flags, length = _TASK.unpack_from(body)
        start, limits = _TASK_BYTES, None
        if flags & LIMITED:
            limits = _LIMITS.unpack_from(body, start)
            start += _LIMITS.size
    except struct.error as exc:
        raise ValueError("it is no task record") from exc
    end = start + length
    function = body[start:end]
    if type(function) is not bytes:
        function = bytes(function)
    return _task((flags, function, body[end:], limits))


def pack_answer(
    kind: Kind,
    payload: bytes | Packed,
    *,
    worker: bytes,
    deliveries: int,
    started: float,
    finished: float,
    output: bytes = b"",
) -> bytes | Content:
    if output:
        start = _ANSWER.pack(kind | OUTPUT, deliveries, started, finished, len(worker))
        return joined(start + worker + _LENGTH.pack(len(output)) + output, payload)
    head = _ANSWER.pack(kind, deliveries, started, finished, len(worker)) + worker
    return joined(head, payload)


def unpack_answer(body: Buffer) -> Answer:
    """Raises `ValueError` if the body is no answer."""
    try:
        kind = body[0]
        # The length of the worker's name comes last before it.
        start = _ANSWER_BYTES + body[_ANSWER_BYTES - 1]
    except IndexError as exc:
        raise ValueError("it is no answer record") from exc
    head = body[:start]
    if type(head) is not bytes:
        head = bytes(head)
    if kind < OUTPUT:
        return _answer((kind, head, body[start:], b""))
    try:
        (size,) = _LENGTH.unpack_from(body, start)
    except struct.error as exc:
        raise ValueError("it is no answer record") from exc
    start += _LENGTH.size
    output, payload = bytes(body[start : start + size]), body[start + size :]
    return Answer(kind - OUTPUT, head, payload, output)


def read_head(head: bytes) -> Run:
    """How the task of an answer ran. Futures keep the head as it is: of a million of them few are
    ever asked."""
    _, deliveries, started, finished, _ = _ANSWER.unpack_from(head)
    return Run(deliveries, started, finished, head[_ANSWER_BYTES:])


def join_answers(answers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The body of one item that carries several answers, each with the id of its task."""
    pack = _ONE.pack
    parts = [_SEVERAL.pack(Kind.SEVERAL, len(answers))]
    parts += [pack(id, len(record)) for id, record in answers]
    parts += [record for _, record in answers]
    return b"".join(parts)


def split_answers(body: Buffer) -> list[tuple[bytes, Buffer]] | None:
    """What `join_answers` joined; None if the body is a single answer. Raises `ValueError` if it is
    neither."""
    if body[:1] != _SEVERAL_KIND:
        return None
    try:
        _, count = _SEVERAL.unpack_from(body)
        end = _SEVERAL.size + count * _ONE.size
        answers = []
        for id, length in _ONE.iter_unpack(body[_SEVERAL.size : end]):
            start, end = end, end + length
            answers.append((id, body[start:end]))
    except struct.error as exc:
        raise ValueError("it is no record of answers") from exc
    if end != len(body) or len(answers) != count:
        raise ValueError("it is no record of answers")
    return answers
