"""A primary dies or is demoted behind Sentinel, and everybody goes on with the one that follows."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis.asyncio.sentinel
import redis.sentinel

import pressure
import pressure.aio
import pressure.multiprocessing as mp
from pressure.address import Address
from pressure.multiprocessing import location
from tests.faults import executing as do
from tests.faults.load import Load
from tests.support.account import Account
from tests.support.processes import Child
from tests.support.sentinel import SERVICE, SentinelSetup
from tests.support.servers import Kind
from tests.support.waiting import eventually

WAIT = 30.0
# redis-py has no types for these.
Sentinel: Any = redis.sentinel.Sentinel
AsyncSentinel: Any = redis.asyncio.sentinel.Sentinel
PASSWORD = "correct-horse"


@pytest.fixture(scope="module")
def setup(redis_server_kind: Kind) -> Iterator[SentinelSetup]:
    """For all tests here, in this order: the last one leaves little of it."""
    with SentinelSetup(redis_server_kind, password=PASSWORD) as setup:
        yield setup


def test_a_user_s_own_clients_are_taken_over(setup: SentinelSetup) -> None:
    hosts = [("127.0.0.1", sentinel.port) for sentinel in setup.sentinels]
    client = Sentinel(hosts).master_for(SERVICE, password=PASSWORD)
    with pressure.PressureQueue[int]("own", client=client) as q:
        q.create()
        q.put(1)

    async def get() -> int:
        manager = AsyncSentinel(hosts)
        client = manager.master_for(SERVICE, password=PASSWORD)
        async with pressure.aio.PressureQueue[int]("own", client=client) as q:
            return await q.get(timeout=WAIT)

    assert asyncio.run(get()) == 1
    with pressure.PressureQueue[int]("own", url=setup.url) as q:
        q.delete()
    replica = Sentinel(hosts).slave_for(SERVICE, password=PASSWORD)
    with pytest.raises(ValueError, match="master_for"):
        pressure.PressureQueue("own", client=replica)


def test_no_secret_is_shown(setup: SentinelSetup) -> None:
    address = Address.of(setup.url)
    assert PASSWORD not in f"{address} {address!r}"
    queue: mp.SimpleQueue[int] = mp.SimpleQueue(url=setup.url)
    where = queue._remote.where
    assert PASSWORD not in str(where)
    # A process that was given the URL itself finds the password there.
    assert location.find(where.url).identity == address.identity
    queue.put(1)
    assert queue.get() == 1
    queue.close()


def test_an_unknown_service_is_an_error_at_once(setup: SentinelSetup) -> None:
    queue = pressure.PressureQueue[int]("q", url=setup.url.replace(f"/{SERVICE}/", "/nonsense/"))
    with pytest.raises(pressure.ServerRefusedError, match="no service 'nonsense'"):
        queue.create()


def test_a_put_waits_for_replicas(setup: SentinelSetup) -> None:
    settings = pressure.Settings(replica_timeout=0.2)
    with pressure.PressureQueue[int](
        "replicated", url=setup.url, min_replicas=2, settings=settings
    ) as q:
        q.create()
        q.put(1)
        assert q.put_many([2, 3]) == 2
        for server in setup.replicas():
            server.pause()
        try:
            with pytest.raises(pressure.NotReplicatedError, match="only 0 of 2") as raised:
                q.put(4)
            assert raised.value.accepted == 1
            with pytest.raises(pressure.NotReplicatedError) as raised:
                q.put_many([5, 6])
            accepted = raised.value.accepted
            assert accepted >= 1
        finally:
            for server in setup.servers:
                server.resume()
        assert pickle.loads(pickle.dumps(raised.value)).replicas == 0
        q.put(7)
        assert q.get_many(10) == [1, 2, 3, 4, *[5, 6][:accepted], 7]
        q.delete()


def test_a_blocked_get_survives_the_demotion_of_its_primary(setup: SentinelSetup) -> None:
    with pressure.PressureQueue[str]("blocked", url=setup.url) as q, ThreadPoolExecutor(1) as pool:
        q.create()
        got = pool.submit(q.get, timeout=WAIT)
        blocked = setup.primary().client()
        assert eventually(lambda: bool(blocked.info("clients")["blocked_clients"]), WAIT)
        setup.fail_over()
        q.put("there")
        assert got.result(WAIT) == "there"
        q.delete()


@pytest.mark.slow
def test_everybody_goes_on_with_the_next_primary(
    setup: SentinelSetup, account: Account, spawn_child: Callable[..., Child]
) -> None:
    """Under load, a sentinel dies, and then the primary."""
    with Load(setup.url, "load", account, min_replicas=1) as load:
        daemon = spawn_child(do.serve, setup.url, load.executor_queue, 2, 15.0)
        daemon.wait_for("serving")
        load.progress()
        setup.await_replicas()
        setup.sentinels[0].kill()
        old = setup.primary()
        old.kill()
        load.progress()
        assert setup.primary() is not old
        load.finish()
    assert load.unreplicated == 0
