"""The registry: who works on a queue, and that nobody stands there who doesn't."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from pressure import __version__
from pressure.address import Address
from pressure.channel import Channel
from pressure.channel.registry import Registry, RunningTask, WorkerRecord
from pressure.executor import RedisExecutor
from pressure.keys import Keys
from pressure.protocol import PROTOCOL_VERSION, Status
from pressure.settings import Settings
from tests.contract import executing as do
from tests.executor.programs import Program, program
from tests.redis.scripting import Scripts
from tests.support.waiting import eventually

WAIT = 30.0
PREFIX = "__pressure__"


def record(id: str, **more: object) -> WorkerRecord:
    said: dict[str, object] = {
        "daemon": "d" * 32,
        "name": "name",
        "host": "host",
        "pid": 1,
        "supervisor_pid": 2,
        "version": "1",
        "python": "3",
        "queues": ("a", "b"),
        "age": 1.0,
        "state": "idle",
        "task": None,
        "done": 0,
        "failed": 0,
        "memory": None,
        "ttl": 5.0,
    }
    return WorkerRecord(id=id, **(said | more))  # type: ignore[arg-type]


@pytest.fixture
def s(client: redis.Redis, queue_name: str) -> Scripts:
    return Scripts(client, queue_name)


@pytest.fixture
def channel(url: str, queue_name: str) -> Iterator[Channel]:
    channel = Channel(
        queue_name, Address.of(url), tag=queue_name, prefix=PREFIX, settings=Settings()
    )
    yield channel
    channel.disconnect()


# The scripts


def test_what_is_not_said_again_counts_no_more(s: Scripts) -> None:
    assert s.run(s.protocol.register(60_000, [(b"1", b"one")])) == [Status.ABSENT]
    assert s.run(s.protocol.roll()) == [Status.OK]
    s.create()
    assert s.run(s.protocol.register(60_000, [(b"1", b"one"), (b"2", b"two")])) == [Status.OK]
    assert s.run(s.protocol.register(30_000, [(b"3", b"three")])) == [Status.OK]
    status, *said = s.run(s.protocol.roll())
    assert status == Status.OK
    assert said[1::2] == [b"three", b"one", b"two"]
    assert 0 < said[0] <= 30_000 < said[2] <= 60_000
    # Its time is over, as if nobody had said it again.
    s.client.zadd(s.keys.beats, {b"1": 1})
    assert s.run(s.protocol.roll())[2::2] == [b"three", b"two"]
    assert s.client.hlen(s.keys.workers) == 3
    assert s.run(s.protocol.register(30_000, [(b"3", b"3")])) == [Status.OK]
    assert s.client.hkeys(s.keys.workers) == [b"2", b"3"]
    assert s.client.zrange(s.keys.beats, 0, -1) == [b"3", b"2"]


def test_the_keys_live_as_long_as_the_last_record(s: Scripts) -> None:
    s.create()
    s.run(s.protocol.register(60_000, [(b"1", b"one")]))
    s.run(s.protocol.register(5_000, [(b"2", b"two")]))
    for key in (s.keys.workers, s.keys.beats):
        assert 5_000 < s.client.pttl(key) <= 60_000


def test_who_has_ended_is_dropped_at_once(s: Scripts) -> None:
    s.create()
    s.run(s.protocol.register(60_000, [(b"1", b"one"), (b"2", b"two")]))
    assert s.run(s.protocol.unregister([b"1", b"3"])) == [Status.OK, 1]
    assert s.run(s.protocol.unregister([b"1", b"3"])) == [Status.OK, 0]
    assert s.run(s.protocol.roll())[2::2] == [b"two"]
    s.run(s.protocol.unregister([b"2"]))
    assert not s.client.exists(s.keys.workers, s.keys.beats)


# Records


def test_a_record_comes_back_as_it_was_written(channel: Channel) -> None:
    channel.ensure()
    registry = Registry(channel.handle)
    idle = record("1" * 32, age=9.0)
    busy = record("2" * 32, state="busy", task=RunningTask("f" * 32, "a", 2.0), memory=7, done=3)
    registry.beat([idle, busy], 5.0)
    first, second = registry.roll()
    assert (first.id, second.id) == (idle.id, busy.id)
    assert 0 <= second.seen < 5
    assert second.task is not None
    # Ages are of now.
    assert second.task.age == pytest.approx(2.0 + second.seen)
    assert second.age == pytest.approx(1.0 + second.seen)
    assert second.queues == ("a", "b")
    assert second.protocol == PROTOCOL_VERSION
    registry.retire([idle.id])
    assert [one.id for one in registry.roll()] == [busy.id]


def test_what_is_no_record_is_left_out(channel: Channel, client: redis.Redis) -> None:
    channel.ensure()
    registry = Registry(channel.handle)
    registry.beat([record("1" * 32)], 5.0)
    protocol = channel.core.protocol
    for number, text in enumerate(
        (b"{", b"[]", b"null", b'{"id": 1}', record("x").pack().replace(b'"pid":1', b'"pid":"1"'))
    ):
        channel.handle.ask(protocol.register(5000, [(b"%d" % number, text)]))
    newer = record("2" * 32).pack()[:-1] + b',"more":1}'
    channel.handle.ask(protocol.register(5000, [(b"n", newer)]))
    assert sorted(one.id[0] for one in registry.roll()) == ["1", "2"]


# Daemons


def roll(channel: Channel) -> list[WorkerRecord]:
    return Registry(channel.handle).roll()


def started(channel: Channel, count: int) -> bool:
    """Whether so many workers are ready."""
    return eventually(
        lambda: sum(one.state in ("idle", "busy") for one in roll(channel)) == count, WAIT
    )


@pytest.fixture
def daemon(url: str, queue_name: str) -> Iterator[Program]:
    with program(url, "--queue", queue_name, "--processes", "2", "--lease", "0.6") as started:
        yield started


def test_each_worker_says_what_it_does(
    daemon: Program, channel: Channel, url: str, queue_name: str, tmp_path: Path
) -> None:
    assert started(channel, 2)
    for one in roll(channel):
        assert one.pid in daemon.children()
        assert one.supervisor_pid == daemon.process.pid
        assert one.host == socket.gethostname()
        assert one.version == __version__
        assert one.queues == (queue_name,)
        assert one.state == "idle"
        assert one.memory is not None and one.memory > 1_000_000
        assert one.name
    with RedisExecutor(url=url, queue=queue_name) as executor:
        assert [executor.submit(do.square, x).result(WAIT) for x in (2, 3)] == [4, 9]
        with pytest.raises(ZeroDivisionError):
            executor.submit(do.fail, ZeroDivisionError).result(WAIT)
        assert eventually(lambda: sum(one.done for one in roll(channel)) == 3, WAIT)
        assert sum(one.failed for one in roll(channel)) == 1
        future = executor.submit(do.hold, str(tmp_path), "runs")
        assert eventually((tmp_path / "runs").exists, WAIT)
        assert eventually(lambda: any(one.state == "busy" for one in roll(channel)), WAIT)
        (busy,) = (one for one in roll(channel) if one.task is not None)
        assert busy.task is not None
        assert busy.task.queue == queue_name
        assert bytes.fromhex(busy.task.id) == future._task_id
        before = busy.task.age
        assert eventually(
            lambda: any(one.task is not None and one.task.age > before for one in roll(channel)),
            WAIT,
        )
        (tmp_path / "go").touch()
        assert future.result(WAIT) == "runs"
        assert eventually(lambda: all(one.task is None for one in roll(channel)), WAIT)


def test_a_worker_that_dies_makes_way_for_another(daemon: Program, channel: Channel) -> None:
    assert started(channel, 2)
    before = {one.id for one in roll(channel)}
    os.kill(daemon.children()[0], signal.SIGKILL)
    assert eventually(lambda: len({one.id for one in roll(channel)} - before) == 1, WAIT)
    assert started(channel, 2)


def test_nobody_stands_there_after_a_clean_end(daemon: Program, channel: Channel) -> None:
    assert started(channel, 2)
    daemon.process.terminate()
    assert daemon.wait() == 0
    assert roll(channel) == []


def test_who_vanishes_is_forgotten_soon(
    daemon: Program, channel: Channel, client: redis.Redis, queue_name: str
) -> None:
    assert started(channel, 2)
    for pid in [daemon.process.pid, *daemon.children()]:
        os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    assert eventually(lambda: not roll(channel), WAIT)
    assert time.monotonic() - began < 20
    # Nobody has to look for that: the keys themselves are gone.
    keys = Keys(PREFIX, queue_name, hash_tag=queue_name)
    assert eventually(lambda: not client.exists(keys.workers, keys.beats), WAIT)


def test_a_daemon_comes_back_with_its_queue(daemon: Program, channel: Channel) -> None:
    """The queue is deleted, and with it all that is said of it; then it is made anew."""
    assert started(channel, 2)
    channel.ensure()
    channel.delete()
    assert eventually(lambda: len(roll(channel)) == 2, WAIT)
