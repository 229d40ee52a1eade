"""Queues that are closed or deleted, servers that forget or refuse, short time-outs of a socket:
what each interface says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

import pressure
import pressure.aio
import pressure.multiprocessing as mp
from pressure.executor import RedisExecutor
from tests.faults import executing
from tests.faults.conftest import MakeTraffic
from tests.faults.kit.traffic import TRAFFIC
from tests.support.processes import Child
from tests.support.servers import ServerProcess
from tests.support.waiting import eventually

MakeServer = Callable[..., ServerProcess]
WAIT = 30.0


class Waiters:
    """Calls that block, each in a thread of its own."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(20)
        self._futures: list[Any] = []

    def add(self, call: Callable[[], object], count: int = 1) -> None:
        self._futures += [self._pool.submit(call) for _ in range(count)]

    def errors(self) -> set[type[BaseException]]:
        """Whatever they raised, within bounded time."""
        found = {type(future.exception(WAIT)) for future in self._futures}
        self._pool.shutdown()
        return found


# Time-outs


@pytest.mark.parametrize("interface", TRAFFIC)
def test_a_socket_timeout_shorter_than_a_wait(
    interface: str, make_server: MakeServer, make_traffic: MakeTraffic
) -> None:
    server = make_server()
    with make_traffic(interface, f"{server.url}&socket_timeout=0.1") as traffic:
        traffic.flows()
        with server.client() as client:
            before: Any = client.info("stats")["total_connections_received"]
            traffic.pace = 0.5
            traffic.flows(3)
            after: Any = client.info("stats")["total_connections_received"]
        traffic.pace = 0.0
        # At most some that are made when they are first needed; else it were dozens.
        assert after - before < 6
    assert traffic.finish().duplicates == 0


# Roles of clients of protocol 0.15


def test_a_dead_holder_of_a_role(url: str, queue_name: str, client: redis.Redis) -> None:
    async def main() -> None:
        made: pressure.aio.PressureQueue[bytes] = pressure.aio.PressureQueue(
            queue_name, url=url, codec="raw"
        )
        async with made as q:
            await q.create(5)
            client.delete(f"__pressure__:{queue_name}:producer_free")
            client.set(f"__pressure__:{queue_name}:producer", "old:1:1")
            with pytest.raises(pressure.QueueInUseError, match="old:1:1"):
                await q.put(b"1", timeout=0.1)
            putting = asyncio.create_task(q.put(b"2"))
            assert await q.break_role("producer") == "old:1:1"
            await asyncio.wait_for(putting, WAIT)
            assert await q.get(timeout=WAIT) == b"2"
            await q.delete()

    asyncio.run(main())


# Close, delete, make anew


@pytest.mark.parametrize("how", ["close", "delete", "recreate"])
def test_waiters_at_a_shared_queue_wake(how: str, url: str, queue_name: str) -> None:
    full: Any = mp.Queue(1, name=f"{queue_name}-full", url=url)
    empty: Any = mp.Queue(name=queue_name, url=url)
    full.put(0)
    waiters = Waiters()
    waiters.add(lambda: full.put(1), 10)
    waiters.add(empty.get, 10)
    owners: list[pressure.PressureQueue[Any]] = [
        pressure.PressureQueue(made.name, url=url) for made in (full, empty)
    ]
    time.sleep(0.2)
    for q in owners:
        if how == "close":
            q.close()
        else:
            q.delete()
            if how == "recreate":
                q.create()
    expected: type[Exception] = (
        pressure.QueueClosedError if how == "close" else pressure.QueueDoesNotExistError
    )
    assert waiters.errors() == {expected}
    for q in owners:
        if how != "delete":
            q.delete()
        q.disconnect()


def test_waiters_on_a_loop_wake_when_a_queue_is_made_anew(url: str, queue_name: str) -> None:
    async def main() -> None:
        made: pressure.aio.PressureQueue[int] = pressure.aio.PressureQueue(queue_name, url=url)
        async with made as q:
            await q.create()
            getters = [asyncio.create_task(q.get()) for _ in range(50)]
            await asyncio.sleep(0.2)
            await q.delete()
            await q.create()
            found = await asyncio.wait_for(asyncio.gather(*getters, return_exceptions=True), WAIT)
            assert {type(error) for error in found} == {pressure.QueueDoesNotExistError}
            await q.delete()

    asyncio.run(main())


def test_a_task_queue_is_closed(
    url: str, queue_name: str, spawn_child: Callable[..., Child]
) -> None:
    """Nothing can be put any more: futures say so. What is queued is done."""
    with RedisExecutor(url=url, queue=queue_name) as executor:
        queued = executor.submit(abs, -1)
        assert eventually(lambda: bool(executor.stats().queued))
        tasks: pressure.PressureQueue[bytes] = pressure.PressureQueue(
            queue_name, url=url, settings=pressure.Settings(hash_tag=queue_name)
        )
        tasks.close()
        with pytest.raises(pressure.QueueClosedError):
            executor.submit(abs, -2).result(WAIT)
        child = spawn_child(executing.serve, url, queue_name, 1, 15.0)
        child.wait_for("serving")
        assert isinstance(queued.exception(WAIT), pressure.QueueClosedError | None)
    tasks.disconnect()


# Servers that come back empty


def test_a_shared_queue_is_gone_with_the_servers_data(make_server: MakeServer) -> None:
    server = make_server()
    bounded: Any = mp.Queue(5, url=server.url)
    unbounded: Any = mp.Queue(url=server.url)
    simple: Any = mp.SimpleQueue(url=server.url)
    for made in (bounded, unbounded, simple):
        made.put(1)
    waiters = Waiters()
    waiting: Any = mp.Queue(url=server.url)
    waiters.add(waiting.get, 3)
    time.sleep(0.2)
    server.restart(keep_data=False)
    for made in (bounded, unbounded, simple):
        with pytest.raises(pressure.QueueDoesNotExistError):
            made.get()
    for made in (bounded, simple):
        with pytest.raises(pressure.QueueDoesNotExistError):
            made.put(2)
    assert waiters.errors() == {pressure.QueueDoesNotExistError}
    for made in (bounded, unbounded, simple, waiting):
        made.close()


def test_an_asyncio_queue_is_gone_with_the_servers_data(make_server: MakeServer) -> None:
    server = make_server()

    async def main() -> None:
        made: pressure.aio.PressureQueue[int] = pressure.aio.PressureQueue("q", url=server.url)
        async with made as q:
            await q.create(1)
            await q.put(1)
            putter = asyncio.create_task(q.put(2))
            await asyncio.sleep(0.2)
            await asyncio.to_thread(server.restart, keep_data=False)
            with pytest.raises(pressure.QueueDoesNotExistError):
                await asyncio.wait_for(putter, WAIT)
            with pytest.raises(pressure.QueueDoesNotExistError):
                await q.get(timeout=WAIT)
            await q.create()
            await q.put(3)
            assert await q.get(timeout=WAIT) == 3

    asyncio.run(main())


# Final refusals


@pytest.mark.parametrize("refusal", ["WRONGPASS", "NOPERM"])
def test_refusals_are_final_for_all(make_server: MakeServer, refusal: str) -> None:
    server = make_server(unix=False)
    with server.client() as client:
        client.acl_setuser(
            "limited", enabled=True, passwords=["+secret"], keys=["*"], commands=["+ping"]
        )
    password = "wrong" if refusal == "WRONGPASS" else "secret"
    url = f"redis://limited:{password}@127.0.0.1:{server.port}/0"

    async def asynchronously() -> None:
        made: pressure.aio.PressureQueue[int] = pressure.aio.PressureQueue("q", url=url)
        async with made as q:
            await q.get()

    def submit() -> None:
        with RedisExecutor(url=url) as executor:
            executor.submit(abs, -1).result(WAIT)

    started = time.monotonic()
    uses: list[Callable[[], object]] = [
        lambda: asyncio.run(asynchronously()),
        lambda: mp.Queue(url=url),
        submit,
    ]
    for use in uses:
        with pytest.raises(pressure.ServerRefusedError) as raised:
            use()
        assert password not in str(raised.value)
    assert time.monotonic() - started < WAIT


# What nobody can read


GARBAGE = b"\x20" + bytes(80)
"""An envelope of protocol 2."""


def test_an_envelope_of_another_protocol(url: str, queue_name: str, client: redis.Redis) -> None:
    """Said readably, kept as a dead letter, and nothing else is lost."""
    made: Any = mp.Queue(name=queue_name, url=url)
    base = f"__pressure__:{queue_name}"
    client.lpush(base, GARBAGE)
    made.put("behind")
    with pytest.raises(pressure.PayloadError, match="version"):
        made.get(timeout=WAIT)
    assert made.get(timeout=WAIT) == "behind"
    client.lpush(base, GARBAGE)

    async def main() -> None:
        other: pressure.aio.PressureQueue[str] = pressure.aio.PressureQueue(queue_name, url=url)
        async with other as q:
            await q.put("behind that")
            with pytest.raises(pressure.PayloadError, match="version"):
                await q.get(timeout=WAIT)
            assert await q.get(timeout=WAIT) == "behind that"

    asyncio.run(main())
    assert client.llen(f"{base}:dead_letters") == 2
    made.delete()
    made.close()
