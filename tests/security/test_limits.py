"""What is too large, or has a strange name, or is far away, does no harm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner

import pressure
from pressure import PressureQueue, RedisExecutor, Settings
from pressure.address import Address
from pressure.executor import ResultPayloadError, TaskPayloadError
from pressure.executor.cli import main as worker_main
from pressure.executor.supervision.supervisor import Plan, Supervisor
from pressure.keys import validate_name
from tests.faults import executing as do
from tests.security.canary import KEY, Cage
from tests.support.fixtures import keys_left
from tests.support.processes import Child, report
from tests.support.waiting import eventually

Queue = PressureQueue[Any]
WAIT = 30.0
LIMIT = 1000


# Sizes


class Opaque:
    """A codec whose objects are pickles already."""

    def dumps(self, obj: Any, /) -> bytes:
        return bytes(obj)

    def loads(self, data: bytes, /) -> Any:
        raise AssertionError("it is not to be read here")


@pytest.mark.parametrize("padding", [LIMIT, 100_000], ids=["inline", "blob"])
def test_an_item_that_is_too_large_for_its_reader(
    url: str, queue_name: str, tmp_path: Path, padding: int
) -> None:
    """It is signed as it should be, and still not unpickled."""
    cage = Cage(tmp_path / "cage")
    careful = Settings(max_item_bytes=LIMIT)
    with (
        Queue(queue_name, url=url, key=KEY, codec=Opaque()) as writer,
        Queue(queue_name, url=url, key=KEY, settings=careful) as reader,
    ):
        writer.create()
        writer.put(cage.canary(padding=padding))
        for read in (reader.peek, reader.get_nowait):
            with pytest.raises(pressure.PayloadError, match="max_item_bytes is 1,000 here"):
                read()
        (letter,) = reader.dead_letters
        assert letter.reason == "unreadable"
        assert "max_item_bytes" in letter.error
        writer.put(b"\x80\x05N.")
        assert reader.get_nowait() is None
        assert not cage.escaped()


def serve_carefully(url: str, queue: str) -> None:
    settings = Settings(max_item_bytes=LIMIT)
    report("serving")
    Supervisor(Plan(Address.of(url), (queue,), "__pressure__", 1, settings, grace=5.0)).run()


@pytest.mark.parametrize("size", [2 * LIMIT, 100_000])
def test_a_task_that_is_too_large_for_its_worker(
    url: str, queue_name: str, spawn_child: Callable[..., Child], size: int
) -> None:
    spawn_child(serve_carefully, url, queue_name).wait_for("serving")
    with RedisExecutor(url=url, queue=queue_name) as executor:
        with pytest.raises(TaskPayloadError, match="max_item_bytes is 1,000 here"):
            executor.submit(len, bytes(size)).result(WAIT)
        assert executor.submit(do.square, 7).result(WAIT) == 49


@pytest.mark.parametrize("size", [2 * LIMIT, 100_000])
def test_a_result_that_is_too_large_for_its_client(
    url: str, queue_name: str, spawn_child: Callable[..., Child], size: int
) -> None:
    spawn_child(do.serve, url, queue_name, 1, 15.0).wait_for("serving")
    careful = Settings(max_item_bytes=LIMIT)
    with RedisExecutor(url=url, queue=queue_name, settings=careful) as executor:
        with pytest.raises(ResultPayloadError, match="max_item_bytes is 1,000 here"):
            executor.submit(bytes, size).result(WAIT)
        # Answers may come several in an item: each has its size.
        sizes = [size if number == 50 else 500 for number in range(100)]
        futures = [executor.submit(bytes, one) for one in sizes]
        with pytest.raises(ResultPayloadError, match="max_item_bytes is 1,000 here"):
            futures.pop(50).result(WAIT)
        assert [len(future.result(WAIT)) for future in futures] == [500] * 99
        assert executor.submit(do.square, 7).result(WAIT) == 49


# Names

STRANGE = [
    "line\nbreak\r\n$5\r\n",
    "\x1b[31mred\x1b[0m\x07",
    "*",
    "*?[^a-z]\\",
    "q:0",
    ":",
    "a:b:",
    " ",
    "..",
    "a/../b",
    "%s%n",
    "'; DROP TABLE --",
    "\u00fc\u0308\u202e\U0001f40d",
    "x" * 512,
    "\u00e9" * 256,
]


@pytest.fixture
def elsewhere(namespace: str, client: redis.Redis) -> Iterator[str]:
    """A prefix, under which nothing is left."""
    yield namespace
    assert not keys_left(client, namespace)


@pytest.mark.parametrize("name", STRANGE, ids=range(len(STRANGE)))
def test_strange_names(url: str, elsewhere: str, name: str) -> None:
    bystander = "bystander"
    with (
        Queue(name, url=url, prefix=elsewhere) as q,
        Queue(bystander, url=url, prefix=elsewhere) as other,
    ):
        other.create()
        other.put("mine")
        q.create(2)
        q.put(b"x" * 100_000)
        q.put("yours")
        with pytest.raises(pressure.QueueFullError) as caught:
            q.put_nowait("no")
        for text in (str(caught.value), repr(q)):
            assert text.isprintable()
        with q.lease() as item:
            assert len(item) == 100_000
        assert q.get() == "yours"
        q.delete()
        assert other.get() == "mine"
        other.delete()


REFUSED = ["", "\0", "a\0b", "{", "a}", "a:bound", "a:taken:b", "x" * 513, "\u00e9" * 257, "\ud800"]


@pytest.mark.parametrize("name", REFUSED, ids=range(len(REFUSED)))
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(ValueError) as caught:
        validate_name(name)
    assert str(caught.value).isprintable()
    with pytest.raises(ValueError):
        Queue(name)


def test_a_strange_name_for_tasks(
    url: str, client: redis.Redis, spawn_child: Callable[..., Child]
) -> None:
    name = "*[^t]\n\x1b[31m"
    child = spawn_child(do.serve, url, name, 1, 15.0)
    child.wait_for("serving")
    try:
        with RedisExecutor(url=url, queue=name) as executor:
            assert executor.submit(do.square, 7).result(WAIT) == 49
            with executor.share(b"x" * 100_000) as shared:
                assert executor.submit(len, shared).result(WAIT) == 100_000
        assert "\x1b" not in child.output
    finally:
        child.close()
        for key in keys_left(client, "*[^t]"):
            client.delete(key)


def test_a_strange_holder_of_a_role(url: str, queue_name: str, client: redis.Redis) -> None:
    """What others wrote is shown, and does nothing to a terminal."""
    with Queue(queue_name, url=url, codec="raw") as q:
        q.create()
        keys = q._core.protocol.keys
        client.delete(keys.producer_free)
        client.set(keys.producer, b"evil\x1b[2J\r\n\xff")
        with pytest.raises(pressure.QueueInUseError, match="evil") as caught:
            q.put_nowait(b"x")
        assert str(caught.value).isprintable()
        client.lpush(keys.producer_free, 1)
        assert eventually(lambda: q.qsize() == 0)
        q.delete()


# Where servers are

NEAR = [
    "redis://127.0.0.1:1/0",
    "redis://127.1.2.3:1",
    "redis://localhost:1",
    "redis://LOCALHOST",
    "redis://",
    "redis://[::1]:1/0",
    "unix:///tmp/socket",
]
FAR = [
    "redis://10.0.0.1:1/0",
    "redis://0.0.0.0:1/0",
    "redis://[::]:1/0",
    "redis://[2001:db8::1]:1/0",
    "redis://example.org:1/0",
    "rediss://example.org:1/0",
    # What only resolves to this machine might do otherwise tomorrow.
    "redis://127.0.0.1.example.org:1/0",
    "redis://localhost.example.org:1/0",
    "redis://127.1:1/0",
    "redis://2130706433:1/0",
    # These say where the server is, which may be anywhere.
    "redis+sentinel://127.0.0.1:1/service",
    "redis+cluster://127.0.0.1:1",
]


@pytest.mark.parametrize("url", NEAR)
def test_servers_that_only_this_machine_can_reach(url: str) -> None:
    assert Address.of(url).is_local


@pytest.mark.parametrize("url", FAR)
def test_a_worker_without_a_key_refuses_a_distant_server(url: str) -> None:
    assert not Address.of(url).is_local
    done = CliRunner().invoke(worker_main, [url], env={"PRESSURE_KEY": ""})
    assert done.exit_code == 2, done.output
    assert "--insecure" in done.output and "PRESSURE_KEY" in done.output
