"""The user of `docs/acl.md` can do all that is needed, and has no permission that is not."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

import pressure.aio
import pressure.multiprocessing as mp
from pressure import PressureQueue, QueueClosedError, RedisExecutor, ServerRefusedError
from pressure.scripts import SCRIPTS
from tests.aio.running import run
from tests.faults import executing as do
from tests.support import acl
from tests.support.processes import Child
from tests.support.servers import ServerProcess
from tests.support.waiting import eventually

WAIT = 30.0
PACKAGE = Path(__file__).resolve().parents[2] / "pressure"


@pytest.fixture
def minimal(make_server: Callable[..., ServerProcess]) -> Iterator[ServerProcess]:
    server = make_server(minimal=True)
    yield server
    with server.client() as client:
        refused: Any = client.execute_command("ACL", "LOG")
        assert not refused, refused


def use(server: ServerProcess, spawn_child: Callable[..., Child]) -> None:
    """A little of everything."""
    url = server.url
    with PressureQueue[Any]("q", url=url) as q:
        q.create(100)
        q.put_many(range(50))
        q.put(b"x" * 200_000)
        assert list(q.get_many(10)) == list(range(10))
        with q.lease() as item:
            assert item == 10
        assert q.peek() == 11
        assert q.stats().consumers >= 1
        q.maxsize = 200
        q.delete()
    spawn_child(do.serve, url, "tasks", 1, 15.0, "key").wait_for("serving")
    with RedisExecutor(url=url, queue="tasks", key="key") as executor:
        assert list(executor.map(do.square, range(20))) == [n * n for n in range(20)]
        with executor.share(7) as shared:
            assert executor.submit(do.square, shared).result(WAIT) == 49
    queue: Any = mp.Queue(url=url)
    queue.put("shared")
    assert queue.get(timeout=WAIT) == "shared"
    queue.close()
    queue.join_thread()
    queue.delete()

    async def main() -> None:
        async with pressure.aio.PressureQueue[Any]("a", url=url) as q:
            await q.create()
            await q.put(1)
            assert await q.get() == 1
            with pytest.raises(pressure.QueueEmptyError):
                await q.get(timeout=0.05)
            await q.delete()
            await asyncio.sleep(0)

    run(main())


def test_it_is_enough(minimal: ServerProcess, spawn_child: Callable[..., Child]) -> None:
    use(minimal, spawn_child)


def test_there_is_no_more_than_is_needed() -> None:
    source = "\n".join(path.read_text("utf-8") for path in PACKAGE.rglob("*.py"))
    sent = {word.lower() for word in re.findall(r"b?\"([A-Z]+)\"", source)}
    for script in SCRIPTS.values():
        sent |= {word.lower() for word in re.findall(r"\bcall\('([A-Z]+)'", script.text)}
    handshake = {"auth", "hello", "select"}
    permitted = {command.split("|")[0] for command in acl.commands()}
    assert permitted - sent - handshake == set()


def test_other_keys_and_commands_are_out_of_reach(
    make_server: Callable[..., ServerProcess],
) -> None:
    server = make_server(minimal=True)
    with redis.Redis.from_url(server.url) as user:
        for command in (
            ("GET", "another"),
            ("KEYS", "*"),
            ("FLUSHALL",),
            ("CONFIG", "GET", "*"),
            ("CLIENT", "LIST"),
            ("ACL", "LIST"),
            ("EVAL", "return redis.call('GET', KEYS[1])", 1, "another"),
            ("EVAL", "return redis.call('FLUSHALL')", 0),
        ):
            with pytest.raises(redis.ResponseError, match=r"NOPERM|permission|ACL|can't"):
                user.execute_command(*command)
    with (
        PressureQueue[Any]("q", url=server.url, prefix="forbidden") as q,
        pytest.raises(ServerRefusedError, match="refused"),
    ):
        q.create()


# Without what may be left out


@pytest.fixture
def poor(make_server: Callable[..., ServerProcess]) -> ServerProcess:
    server = make_server(minimal=True)
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", acl.USER, "-info", "-client|unblock", "-select")
    return server


def test_what_may_be_left_out(poor: ServerProcess, spawn_child: Callable[..., Child]) -> None:
    use(poor, spawn_child)


def test_those_who_wait_hear_of_the_end_all_the_same(poor: ServerProcess) -> None:
    with PressureQueue[Any]("q", url=poor.url) as q, PressureQueue[Any]("q", url=poor.url) as other:
        q.create()
        outcome: list[object] = []

        def take() -> None:
            try:
                outcome.append(other.get())
            except QueueClosedError as exc:
                outcome.append(exc)

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        with poor.client() as client:
            waiters = q._core.protocol.keys.waiters
            assert eventually(lambda: bool(client.hlen(waiters)), WAIT)
        q.close()
        thread.join(WAIT)
        assert isinstance(outcome[0], QueueClosedError)
        q.delete()
