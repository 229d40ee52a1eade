"""A client that knows `protocol.md` and the scripts, and nothing else of the library.

It takes the names and the order of all keys from the document. It does what chapter 9 says a client
does: make a reply queue, sign and put tasks, store a function, read answers and notices, cancel,
and have a running task ended.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import re
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis

from pressure.scripts import SCRIPTS
from tests.faults import executing as do
from tests.support.fixtures import keys_left
from tests.support.processes import Child
from tests.support.waiting import eventually

DOCUMENT = (Path(__file__).resolve().parents[2] / "protocol.md").read_text("utf-8")
KEY = "a key that both sides have"
WAIT = 30.0
OK, EMPTY = 0, -4
RESULT, ERROR, UNREADABLE, ENDED, STARTED = 0, 1, 2, 5, 16


def suffixes() -> dict[str, str]:
    table = DOCUMENT.split("| key | suffix | type | meaning |\n", 1)[1].split("\n\n", 1)[0]
    rows = [[cell.strip(" `") for cell in row.split("|")] for row in table.splitlines()[1:]]
    return {row[1]: row[2].split("`")[0] for row in rows}


SUFFIXES = suffixes()


def key_names(operation: str) -> list[str]:
    section = DOCUMENT.split(f"\n### {operation}\n", 1)[1]
    line = re.search(r"^KEYS (.*)$", section, re.MULTILINE)
    assert line is not None
    if "every fixed key" in line[1]:
        return [name for name in SUFFIXES if name != "taken"]
    return re.sub(r"\(.*?\)(\.\.\.)?", "", line[1]).split()


class Envelope(NamedTuple):
    message_id: bytes
    client_id: bytes
    deliveries: int
    body: bytes


class ForeignQueue:
    """A queue as the document describes it. `name` is without prefix and braces."""

    def __init__(
        self, server: redis.Redis, tag: str, name: str, direction: str, generation: str
    ) -> None:
        self.server = server
        self.base = f"__pressure__:{{{tag}}}{name[len(tag) :]}".encode()
        self.name, self.direction, self.generation = name, direction, generation
        self.number = 0
        self.producer, self.consumer = os.urandom(16), os.urandom(16)

    def key(self, name: str) -> bytes:
        own = self.consumer if name == "taken" else b""
        return self.base + SUFFIXES[name].encode() + own

    def call(self, operation: str, *args: Any, extra: tuple[bytes, ...] = ()) -> Any:
        keys = [self.key(name) for name in key_names(operation)] + list(extra)
        return self.server.eval(SCRIPTS[operation].text, len(keys), *keys, *args)

    def pack(self, message_id: bytes, client_id: bytes, cap: int, body: bytes) -> bytes:
        head = struct.pack(">BBH", 0x10, 0x01, cap)
        secret = KEY.encode()
        key_id = hashlib.blake2b(secret, digest_size=4, person=b"pressure key id").digest()
        mac = self.mac(head + message_id + client_id + body)
        return head + bytes(10) + message_id + client_id + key_id + mac + body

    def mac(self, signed: bytes) -> bytes:
        context = b""
        for part in (self.name.encode(), self.generation.encode(), self.direction.encode()):
            context += struct.pack(">I", len(part)) + part
        derived = hashlib.blake2b(
            context, key=KEY.encode(), digest_size=32, person=b"pressure derived"
        )
        return hashlib.blake2b(signed, key=derived.digest(), digest_size=16).digest()

    def open(self, item: bytes) -> Envelope:
        assert item[0] >> 4 == 1 and item[1] == 0x01
        assert item[50:66] == self.mac(item[:4] + item[14:46] + item[66:])
        (deliveries,) = struct.unpack_from(">H", item, 4)
        return Envelope(item[14:30], item[30:46], deliveries, item[66:])

    def put(self, *items: bytes) -> None:
        self.number += 1
        reply = self.call(
            "put", self.generation, self.producer, self.number, "a:1:2", "", "", 0, -1, -1, *items
        )
        assert reply[:2] == [OK, len(items)]


class Answer(NamedTuple):
    task: bytes
    kind: int
    worker: str
    payload: bytes


class ForeignClient:
    def __init__(self, server: redis.Redis, queue: str) -> None:
        self.id = os.urandom(16)
        digits = self.id.hex()
        self.tasks = ForeignQueue(server, queue, queue, "task", "")
        self.replies = ForeignQueue(server, queue, f"{queue}:reply:{digits}", "result", digits)
        self.kept = ForeignQueue(server, queue, self.replies.name, "stored", digits)
        fixed = len(SUFFIXES) - 1
        assert self.replies.call("create", 0, digits, fixed, 60_000) == [OK]
        reply = self.tasks.call("create", 10_000, os.urandom(16).hex(), fixed, 0)
        assert reply[0] in (OK, -7)
        self.tasks.generation = self.tasks.call("describe", "0" * 32)[2].decode()
        self.known = ""
        self.acks: list[bytes] = []

    def submit(
        self,
        function: bytes,
        args: tuple[Any, ...],
        *,
        flags: int = 0,
        limits: bytes = b"",
        cap: int = 3,
    ) -> bytes:
        task = os.urandom(16)
        body = struct.pack(">BH", flags, len(function)) + limits + function
        body += pickle.dumps((args, {}), 5)
        self.tasks.put(self.tasks.pack(task, self.id, cap, body))
        return task

    def store(self, payload: bytes) -> bytes:
        digest = hashlib.blake2b(payload, digest_size=16).digest()
        self.replies.server.hset(
            self.replies.key("store"),
            digest,
            self.kept.pack(digest, self.id, 0, payload),
        )
        self.replies.server.pexpire(self.replies.key("store"), 60_000)
        return digest

    def answer(self) -> Answer:
        """The next answer or notice, which acknowledges the one before."""
        deadline = time.monotonic() + WAIT
        while time.monotonic() < deadline:
            count = len(self.acks)
            reply = self.replies.call(
                *("exchange", self.id.hex(), self.replies.consumer, "a:1:2", 15_000, self.known),
                *(1, 60_000, "", 0, count, bytes(2 * count), *self.acks, *[b""] * count),
            )
            self.known, self.acks = "1", []
            if reply[0] == OK:
                return self._read(reply[2])
            assert reply[0] == EMPTY
            time.sleep(0.005)
        raise TimeoutError

    def outcome(self) -> Answer:
        """The next answer that is no notice: a task that takes some time, as any does on a busy
        machine, may be announced before."""
        while (answer := self.answer()).kind == STARTED:
            pass
        return answer

    def _read(self, item: bytes) -> Answer:
        envelope = self.replies.open(item)
        self.acks = [envelope.message_id]
        body = envelope.body
        kind, _, started, _, length = struct.unpack_from(">BHddB", body)
        assert abs(started - time.time()) < WAIT or kind not in (RESULT, STARTED)
        return Answer(
            envelope.message_id, kind, body[20 : 20 + length].decode(), body[20 + length :]
        )

    def cancel(self, task: bytes) -> bool:
        self.tasks.number += 1
        reply = self.tasks.call("withdraw", self.tasks.producer, self.tasks.number, "", task)
        return bool(reply == [OK, b"1"])

    def end(self, task: bytes, supervisor: bytes, grace: float) -> None:
        name = f"{self.tasks.name}:reply:{supervisor.hex()}"
        orders = ForeignQueue(self.tasks.server, self.tasks.name, name, "result", supervisor.hex())
        body = struct.pack(">16sd", self.id, grace)
        orders.put(orders.pack(task, os.urandom(16), 0, body))

    def close(self) -> None:
        for operation, *args in (
            ("leave", self.replies.consumer, self.replies.producer, 0, "", ""),
            ("delete", self.id.hex(), ""),
            ("purge",),
        ):
            assert self.replies.call(operation, *args)[0] == OK


@pytest.fixture
def foreign(
    client: redis.Redis, url: str, queue_name: str, spawn_child: Callable[..., Child]
) -> Iterator[ForeignClient]:
    spawn_child(do.serve, url, queue_name, 1, 15.0, KEY).wait_for("serving")
    made = ForeignClient(client, queue_name)
    yield made
    made.close()
    left = keys_left(client, made.id.hex())
    assert not left, left


def swallow() -> None:
    """A task that doesn't end when it is told to."""
    until = time.monotonic() + WAIT
    while time.monotonic() < until:
        with contextlib.suppress(TimeoutError):
            time.sleep(WAIT)


def by_name(function: Any) -> bytes:
    return pickle.dumps(function, 5)


def test_tasks_and_answers(foreign: ForeignClient) -> None:
    first = foreign.submit(by_name(pow), (2, 10))
    answer = foreign.outcome()
    assert (answer.task, answer.kind) == (first, RESULT)
    assert pickle.loads(answer.payload) == 1024
    host, _, pid = answer.worker.rpartition(":")
    assert host and int(pid) > 0

    wrong = foreign.submit(by_name(divmod), (1, 0))
    answer = foreign.outcome()
    assert (answer.task, answer.kind) == (wrong, ERROR)
    text, pickled = pickle.loads(answer.payload)
    assert "ZeroDivisionError" in text
    assert isinstance(pickle.loads(pickled), ZeroDivisionError)


def test_a_stored_function(foreign: ForeignClient) -> None:
    digest = foreign.store(by_name(pow))
    foreign.submit(digest, (3, 3), flags=0x01)
    assert pickle.loads(foreign.outcome().payload) == 27
    foreign.submit(b"0" * 16, (3, 3), flags=0x01)
    answer = foreign.outcome()
    assert answer.kind == UNREADABLE
    assert b"gone from the server" in answer.payload


def test_an_unsigned_task_is_refused(foreign: ForeignClient) -> None:
    task = os.urandom(16)
    item = foreign.tasks.pack(task, foreign.id, 3, b"\0\0\1f")
    foreign.tasks.put(item[:50] + bytes(16) + item[66:])
    answer = foreign.outcome()
    assert (answer.task, answer.kind) == (task, UNREADABLE)
    letter: Any = foreign.tasks.server.lindex(foreign.tasks.key("dead_letters"), 0)
    (length,) = struct.unpack_from(">I", letter, 8)
    assert b'"reason": "signature"' in letter[12 : 12 + length]
    assert letter[12 + length + 14 :][:16] == task


def test_a_task_is_cancelled_or_ended(foreign: ForeignClient) -> None:
    running = foreign.submit(by_name(time.sleep), (WAIT,))
    notice = foreign.answer()
    assert (notice.task, notice.kind, len(notice.payload)) == (running, STARTED, 16)
    queued = foreign.submit(by_name(pow), (2, 2))
    assert foreign.cancel(queued)
    assert not foreign.cancel(running)

    foreign.end(running, notice.payload, 5.0)
    answer = foreign.answer()
    assert (answer.task, answer.kind) == (running, ERROR)
    assert "TaskTerminatedError" in pickle.loads(answer.payload)[0]
    # The worker is free again, and what was cancelled is never heard of.
    last = foreign.submit(by_name(pow), (2, 3))
    assert foreign.answer().task == last


def test_limits_end_with_the_process(foreign: ForeignClient) -> None:
    limits = struct.pack(">dd", 0.1, 0.1)
    task = foreign.submit(by_name(swallow), (), flags=0x02, limits=limits)
    kinds: list[int] = []
    while not kinds or kinds[-1] >= STARTED:
        answer = foreign.answer()
        assert answer.task == task
        kinds.append(answer.kind)
    assert kinds[-1] == ENDED
    assert b'"why": "timeout"' in answer.payload


def test_tasks_of_the_dead_are_dropped(
    foreign: ForeignClient, client: redis.Redis, tmp_path: Path
) -> None:
    other = ForeignClient(client, foreign.tasks.name)
    gate = tmp_path / "gate"
    foreign.submit(by_name(do.hold), (str(gate), "first"))
    assert foreign.answer().kind == STARTED
    other.submit(by_name(time.sleep), (2 * WAIT,))
    other.close()
    last = foreign.submit(by_name(pow), (2, 3))
    gate.touch()
    assert foreign.answer().kind == RESULT
    assert foreign.outcome().task == last
    assert eventually(lambda: not client.exists(foreign.tasks.base))
