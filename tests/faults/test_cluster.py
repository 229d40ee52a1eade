"""Slots of a Cluster move, and its primaries die, and everybody goes on where the slot is then."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis.asyncio

import pressure
import pressure.aio
import pressure.multiprocessing as mp
from tests.faults import executing as do
from tests.faults.load import Load
from tests.support.account import Account
from tests.support.cluster import ClusterNodes, slot_of
from tests.support.processes import Child
from tests.support.servers import Kind
from tests.support.waiting import eventually

WAIT = 30.0
LARGE = os.urandom(2_000_000)


@pytest.fixture(scope="module")
def cluster(redis_server_kind: Kind) -> Iterator[ClusterNodes]:
    """For all tests here, in this order: the last one kills some of it."""
    with ClusterNodes(redis_server_kind, replicas=True) as cluster:
        yield cluster


def test_a_user_s_own_clients_are_taken_over(cluster: ClusterNodes) -> None:
    port = cluster.nodes[0].port
    client = redis.RedisCluster(host="127.0.0.1", port=port)
    with pressure.PressureQueue[int]("own", client=client) as q:
        q.create()
        q.put(1)
    client.close()

    async def get() -> int:
        client = redis.asyncio.RedisCluster(host="127.0.0.1", port=port)
        async with pressure.aio.PressureQueue[int]("own", client=client) as q:
            got = await q.get(timeout=WAIT)
            await q.delete()
        await client.aclose()
        return got

    assert asyncio.run(get()) == 1


def test_all_keys_of_a_queue_lie_in_its_slot(cluster: ClusterNodes) -> None:
    names = ["one", "two", "three"]
    for name in names:
        with pressure.PressureQueue[bytes](name, url=cluster.url) as q:
            q.create(10)
            q.put_many([b"small", LARGE, LARGE])
            assert q.get() == b"small"
            with q.lease(timeout=WAIT) as item:
                assert item == LARGE
            found = [key for key in cluster.all_keys() if b"{%b}" % name.encode() in key]
            assert found
            assert {slot_of(key) for key in found} == {slot_of(name)}
            q.delete()
    assert not [key for key in cluster.all_keys() if b"{one}" in key]


def test_a_plain_url_of_a_node_gets_a_hint(cluster: ClusterNodes) -> None:
    node = cluster.others(cluster.owner("{plain}"))[0]
    for settings in (pressure.Settings(), pressure.Settings(hash_tag="plain")):
        q = pressure.PressureQueue[int]("plain", url=node.url, settings=settings)
        with pytest.raises(pressure.ServerRefusedError, match=r"redis\+cluster://"):
            q.create()


def test_while_a_slot_is_on_its_way(cluster: ClusterNodes) -> None:
    """Of the commands that ask for one key, the answer is found where that is; the others wait."""
    with (
        pressure.PressureQueue[bytes]("moving", url=cluster.url) as q,
        pressure.PressureQueue[bytes]("moving", url=cluster.url) as other,
        ThreadPoolExecutor(4) as pool,
    ):
        q.create(3)
        q.put_many([b"first", LARGE])
        with cluster.migrating("{moving}") as move:
            move(q._core.protocol.keys.bound)
            assert q.exists
            assert asyncio.run(exists(cluster.url))
            putting = pool.submit(q.put, b"last", timeout=WAIT)
            getting = pool.submit(other.get, timeout=WAIT)
            sizing = pool.submit(other.qsize)
            assert not any(one.done() for one in (putting, getting, sizing))
        putting.result(WAIT)
        assert getting.result(WAIT) == b"first"
        assert 1 <= sizing.result(WAIT) <= 3
        assert q.get_many(10, timeout=WAIT) == [LARGE, b"last"]
        q.delete()


async def exists(url: str) -> bool:
    async with pressure.aio.PressureQueue[bytes]("moving", url=url) as q:
        return await q.exists()


def test_who_is_blocked_goes_with_the_slot(cluster: ClusterNodes) -> None:
    with (
        pressure.PressureQueue[int]("blocked", url=cluster.url) as q,
        pressure.PressureQueue[int]("blocked", url=cluster.url) as other,
        ThreadPoolExecutor(4) as pool,
    ):
        q.create()
        blocked = cluster.owner("{blocked}").client()
        got = [pool.submit(other.get, timeout=WAIT) for _ in range(2)]
        assert eventually(lambda: blocked.info("clients")["blocked_clients"] == 2, WAIT)
        cluster.migrate("{blocked}")
        q.put(1)
        assert eventually(lambda: any(one.done() for one in got), WAIT)
        # Whoever deletes it wakes those who wait there now.
        q.delete()
        errors = [one.exception(WAIT) for one in got]
        assert sorted(map(type, errors), key=str) == sorted(
            [type(None), pressure.QueueDoesNotExistError], key=str
        )


def test_the_shim_and_the_program(cluster: ClusterNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRESSURE_KEY", "of both")
    queue: mp.Queue[int] = mp.Queue(url=cluster.url)
    queue.put(1)
    assert queue.get(timeout=WAIT) == 1
    queue.close()
    queue.join_thread()
    program = [sys.executable, "-c", "from pressure.executor.cli import main; main()"]
    worker = subprocess.Popen([*program, cluster.url, "--queue", "program", "--processes", "1"])
    try:
        with pressure.RedisExecutor(url=cluster.url, queue="program") as executor:
            assert list(executor.map(do.square, range(20), timeout=WAIT)) == [
                x * x for x in range(20)
            ]
    finally:
        worker.terminate()
        worker.wait(WAIT)


def tagged(name: str) -> str:
    return "{" + name + "}"


@pytest.mark.slow
def test_everybody_goes_on_where_the_slots_are(
    cluster: ClusterNodes,
    account: Account,
    spawn_child: Callable[..., Child],
    redis_server_kind: Kind,
) -> None:
    """Under load, all slots move, and then a primary dies."""
    with Load(cluster.url, "load", account, min_replicas=1, replica_timeout=0.2) as load:
        daemon = spawn_child(do.serve, cluster.url, load.executor_queue, 2, 15.0)
        daemon.wait_for("serving")
        load.progress()
        for name in ("load", load.executor_queue, "load-aio"):
            cluster.migrate(tagged(name))
        load.progress()
        if redis_server_kind == "valkey":
            for name in ("load", load.executor_queue, "load-aio"):
                cluster.migrate_at_once(tagged(name))
            load.progress()
        cluster.owner("{load}").kill()
        load.progress()
        cluster.owner(tagged(load.executor_queue)).kill()
        load.progress()
        load.finish()
