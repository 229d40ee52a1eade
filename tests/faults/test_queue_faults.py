"""The queue under faults: lost replies, dead consumers, dead servers."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import redis

import pressure
from pressure import PressureQueue, Settings
from pressure.protocol import Command
from pressure.scripts import SCRIPTS
from tests.faults import doomed
from tests.support.account import Account
from tests.support.acl import as_admin
from tests.support.processes import Child
from tests.support.proxy import FaultyProxy
from tests.support.servers import ServerProcess
from tests.support.waiting import eventually

Queue = PressureQueue[Any]
MakeServer = Callable[..., ServerProcess]
Spawn = Callable[..., Child]
WAIT = 20.0
SHORT_LEASE = 1.0


def script(name: str) -> Callable[[tuple[bytes, ...]], bool]:
    """Matches the calls of one script, by its digest or its text."""
    wanted = SCRIPTS[name]

    def matches(words: tuple[bytes, ...]) -> bool:
        return words[:2] == (b"EVALSHA", wanted.sha.encode()) or words[:2] == (
            b"EVAL",
            wanted.text.encode(),
        )

    return matches


@pytest.fixture
def direct(url: str, queue_name: str) -> Any:
    """A handle whose network is sound, to a queue that exists."""
    q = Queue(queue_name, url=url)
    q.create()
    yield q
    with contextlib.suppress(pressure.QueueDoesNotExistError):
        q.delete()
    q.disconnect()


@pytest.fixture
def shaky(direct: Queue, proxy: FaultyProxy) -> Any:
    """Another handle to it, through the proxy."""
    q = Queue(direct.name, url=proxy.url)
    assert q.qsize() == 0
    yield q
    with contextlib.suppress(pressure.PressureError):
        q.disconnect()


def drained(q: Queue, timeout: float = 0.3) -> list[Any]:
    """What is in the queue, and what comes back to it within the time-out.

    Nothing must be held by anybody then: what a living consumer holds unknowingly is lost.
    """
    got = []

    def settled() -> bool:
        with contextlib.suppress(pressure.QueueEmptyError):
            while True:
                got.append(q.get(timeout=timeout))
        assert q.qsize() == 0
        return not client.keys(f"*{q.name}:taken:*")

    with redis.Redis.from_url(as_admin(q._handle.address.url)) as client:
        assert eventually(settled), "a consumer still holds something"
    return got


# Lost messages


@pytest.mark.parametrize(("lost", "cut"), [("reply", True), ("request", True), ("reply", False)])
def test_a_put_whose_message_is_lost_makes_one_copy(
    direct: Queue, shaky: Queue, proxy: FaultyProxy, lost: str, cut: bool
) -> None:
    shaky.put("warm")
    drop = proxy.drop_next_reply if lost == "reply" else proxy.drop_next_request
    fault = drop(script("put"), cut=cut)
    shaky.put("once")
    fault.wait()
    shaky.put("after")
    assert [direct.get_nowait() for _ in range(3)] == ["warm", "once", "after"]
    assert direct.empty()


def test_a_put_many_whose_reply_is_lost(direct: Queue, shaky: Queue, proxy: FaultyProxy) -> None:
    fault = proxy.drop_next_reply(script("put"))
    assert shaky.put_many(range(500)) == 500
    assert fault.struck
    assert direct.get_many(1000, timeout=WAIT) == list(range(500))


@pytest.mark.parametrize("lost", ["reply", "request"])
@pytest.mark.parametrize("codec", ["pickle", "raw"])
def test_a_take_whose_message_is_lost(
    url: str, queue_name: str, proxy: FaultyProxy, lost: str, codec: str
) -> None:
    """Nothing is lost or comes twice, even when all items look alike."""
    q = Queue(queue_name, url=proxy.url, codec=codec)
    q.create()
    for _ in range(20):
        q.put(b"same")
    got = [q.get() for _ in range(3)]
    drop = proxy.drop_next_reply if lost == "reply" else proxy.drop_next_request
    for _ in range(4):
        fault = drop(script("take"))
        got.append(q.get(timeout=WAIT))
        assert fault.struck
        got.append(q.get(timeout=WAIT))
    got += drained(q)
    assert got == [b"same"] * 20
    for _ in range(20):
        q.task_done()
    q.join(timeout=WAIT)
    q.disconnect()


@pytest.mark.parametrize("lost", ["reply", "request"])
def test_a_lost_batch_is_found(direct: Queue, shaky: Queue, proxy: FaultyProxy, lost: str) -> None:
    direct.put_many(range(300))
    drop = proxy.drop_next_reply if lost == "reply" else proxy.drop_next_request
    got = []
    fault = drop(script("take"))
    for item in shaky:
        got.append(item)
        if len(got) in (10, 60, 150):
            fault = drop(script("take"))
        if len(got) == 300:
            break
    assert got == list(range(300))
    assert eventually(lambda: direct.stats().fetched_ahead == 0)
    assert fault.struck


def test_a_blocked_get_whose_reply_is_lost(direct: Queue, shaky: Queue, proxy: FaultyProxy) -> None:
    fault = proxy.drop_next_reply("BLMOVE")
    getter = _Caller(lambda: shaky.get(timeout=WAIT))
    _blocked(direct, 1)
    direct.put("found again")
    assert getter.result() == "found again"
    assert fault.struck
    assert direct.empty()


@pytest.mark.parametrize("name", ["settle", "adopt", "ack", "give_back", "renew"])
def test_other_replies_may_be_lost(
    direct: Queue, shaky: Queue, proxy: FaultyProxy, name: str
) -> None:
    fault = proxy.drop_next_reply(script(name))
    if name == "adopt":
        proxy.drop_next_reply(script("take"))
    got = []
    getter = _Caller(lambda: got.append(shaky.get(timeout=WAIT)))
    _blocked(direct, 1) if name != "adopt" else None
    direct.put_many(range(20))
    getter.result()
    for item in shaky:
        got.append(item)
        if len(got) == 10:
            break
    with pytest.raises(KeyError), shaky.lease(timeout=WAIT):
        raise KeyError
    got.append(shaky.get(timeout=WAIT))
    got += drained(direct)
    assert sorted(got) == list(range(20))
    assert fault.struck


def test_close_and_delete_whose_replies_are_lost(
    url: str, queue_name: str, proxy: FaultyProxy, client: redis.Redis
) -> None:
    q = Queue(queue_name, url=proxy.url)
    fault = proxy.drop_next_reply(script("create"))
    q.create()
    assert fault.struck
    getter = _Caller(Queue(queue_name, url=url).get)
    _blocked(q, 1)
    fault = proxy.drop_next_reply(script("close"))
    q.close()
    assert fault.struck
    assert isinstance(getter.result(), pressure.QueueClosedError)
    fault = proxy.drop_next_reply(script("delete"))
    q.delete()
    assert fault.struck
    assert eventually(lambda: not client.keys(f"*{queue_name}*")), client.keys(f"*{queue_name}*")


def test_a_lost_reply_to_a_lease_is_no_lost_lease(
    direct: Queue, shaky: Queue, proxy: FaultyProxy
) -> None:
    direct.put("a")
    lease = shaky.lease(timeout=WAIT)
    fault = proxy.drop_next_reply(script("ack"))
    lease.ack()
    assert fault.struck
    direct.put("b")
    lease = shaky.lease(timeout=WAIT)
    fault = proxy.drop_next_reply(script("give_back"))
    lease.give_back()
    assert fault.struck
    assert drained(direct) == ["b"]


def test_whether_a_lease_was_lost_before_is_not_guessed(
    direct: Queue, shaky: Queue, proxy: FaultyProxy, client: redis.Redis
) -> None:
    def lost() -> pressure.Lease[Any]:
        """A lease that is over, and the reply that would say so is lost, too."""
        lease = shaky.lease(timeout=WAIT)
        client.delete(direct._handle.core.protocol.keys.leases)
        return lease

    for item in "abc":
        direct.put(item)
    lease = lost()
    with pytest.raises(pressure.LeaseLostError):
        lease.ack()
    lease = lost()
    fault = proxy.drop_next_reply(script("ack"))
    with pytest.raises(pressure.OutcomeUnknownError, match="may be in the queue again"):
        lease.ack()
    assert fault.struck
    lease = lost()
    fault = proxy.drop_next_reply(script("give_back"))
    lease.give_back()
    assert fault.struck


def test_a_blocked_put_survives_a_cut(url: str, queue_name: str, proxy: FaultyProxy) -> None:
    direct, shaky = Queue(queue_name, url=url), Queue(queue_name, url=proxy.url)
    direct.create(1)
    direct.put(1)
    putter = _Caller(lambda: shaky.put(2))
    assert putter.waits
    proxy.cut()
    assert putter.waits
    assert direct.get() == 1
    assert putter.result() is None
    assert direct.get(timeout=WAIT) == 2
    shaky.put(3)
    joiner = _Caller(shaky.join)
    assert joiner.waits
    proxy.cut()
    assert direct.get() == 3
    for _ in range(3):
        direct.task_done()
    assert joiner.result() is None


def test_cuts_in_mid_everything(
    url: str, queue_name: str, proxy: FaultyProxy, account: Account
) -> None:
    settings = Settings()
    Queue(queue_name, url=url).create(20)
    connected = threading.Barrier(6)

    def connect() -> Queue:
        q = Queue(queue_name, url=proxy.url, settings=settings)
        q.qsize()
        connected.wait(WAIT)
        return q

    def produce(first: int) -> None:
        q = connect()
        for number in range(first, first + 400):
            account.sent(number)
            q.put(number)
            account.acknowledged(number)
        q.disconnect()

    def consume() -> None:
        q = connect()
        for number in q:
            account.delivered(number)
        q.disconnect()

    producers = [_Caller(partial(produce, first)) for first in (0, 1000)]
    consumers = [_Caller(consume) for _ in range(3)]
    connected.wait(WAIT)
    cuts = 0
    while any(producer.runs for producer in producers):
        proxy.cut()
        cuts += 1
        time.sleep(0.02)
    results = [producer.result() for producer in producers]
    q = Queue(queue_name, url=url)
    q.close()
    results += [consumer.result() for consumer in consumers]
    assert results == [None] * 5
    assert cuts > 3
    assert account.check(at_least=800).duplicates == 0
    assert q.stats().fetched_ahead == 0


# Consumers that die


def test_a_killed_holder_of_a_lease(direct: Queue, url: str, spawn_child: Spawn) -> None:
    direct.put("precious")
    child = spawn_child(doomed.hold_a_lease, url, direct.name, SHORT_LEASE, kill_at=["holding"])
    assert child.wait_for("took") == "precious"
    assert child.wait() == -signal.SIGKILL
    with direct.lease(timeout=WAIT) as item:
        assert item == "precious"
    direct.join(timeout=WAIT)


def test_a_holder_that_stands_still_beyond_its_lease(
    direct: Queue, url: str, spawn_child: Spawn
) -> None:
    direct.put("precious")
    child = spawn_child(doomed.hold_a_lease, url, direct.name, SHORT_LEASE, stop_at=["holding"])
    assert child.wait_for("took") == "precious"
    child.wait_stopped()
    lease = direct.lease(timeout=WAIT)
    assert (lease.item, lease.deliveries) == ("precious", 1)
    child.cont()
    child.wait_for("lost")
    lease.ack()
    direct.join(timeout=WAIT)


def test_join_does_not_wait_for_the_dead(
    direct: Queue, url: str, client: redis.Redis, spawn_child: Spawn
) -> None:
    direct.put(1)
    child = spawn_child(doomed.get_one, url, direct.name, SHORT_LEASE, hold_at=["got"])
    child.wait_for("got")
    # It has acknowledged that, or else it would come back.
    assert eventually(lambda: not client.keys(f"*{direct.name}:taken:*"), WAIT)
    assert direct.unfinished_tasks == 1
    child.kill()
    direct.join(timeout=WAIT)
    assert direct.empty()


def test_what_a_process_got_before_it_ended_stays_its_own(
    direct: Queue, url: str, spawn_child: Spawn
) -> None:
    direct.put(1)
    child = spawn_child(doomed.get_and_leave, url, direct.name)
    assert child.wait_for("got") == 1
    assert child.wait() == 0
    assert drained(direct) == []


def test_a_killed_consumer_that_had_fetched_ahead(
    direct: Queue, url: str, spawn_child: Spawn
) -> None:
    direct.put_many(range(100))
    child = spawn_child(doomed.fetch_ahead, url, direct.name, SHORT_LEASE, kill_at=["iterating#20"])
    for number in range(20):
        assert child.wait_for("got") == number
    assert child.wait() == -signal.SIGKILL
    got = drained(direct, 1.5)
    assert sorted(set(got) | set(range(20))) == list(range(100))
    assert len(got) <= 80 + 20
    assert direct.stats().fetched_ahead == 0
    assert direct.qsize() == 0


def test_a_half_open_consumer(direct: Queue, shaky: Queue, proxy: FaultyProxy) -> None:
    """The server gives an item to a connection whose other end is gone."""
    getter = _Caller(lambda: shaky.get(timeout=WAIT))
    _blocked(direct, 1)
    proxy.black_hole()
    direct.put("swallowed")
    assert getter.result() == "swallowed"
    assert direct.empty()


def test_workers_are_killed_again_and_again(
    url: str, queue_name: str, spawn_child: Spawn, account: Account
) -> None:
    q = Queue(queue_name, url=url, settings=Settings(lease=SHORT_LEASE))
    q.create(50)
    producer = spawn_child(doomed.produce, url, queue_name, account, 0, 200)
    doomed_workers = [
        spawn_child(doomed.consume, url, queue_name, account, SHORT_LEASE, kill_at=[f"working#{n}"])
        for n in (5, 11, 17)
    ]
    for worker in doomed_workers:
        assert worker.wait() == -signal.SIGKILL
    survivor = spawn_child(doomed.consume, url, queue_name, account, SHORT_LEASE)
    assert producer.wait() == 0
    assert eventually(lambda: account.count("delivered") == 200, WAIT)
    q.close()
    assert survivor.wait() == 0
    q.join(timeout=WAIT)
    account.check(at_least=200)


# Close, delete, and make anew


@pytest.mark.parametrize("how", ["close", "delete", "recreate"])
def test_fifty_waiters_wake(url: str, queue_name: str, client: redis.Redis, how: str) -> None:
    q = Queue(queue_name, url=url)
    q.create(1)
    full = Queue(f"{queue_name}-full", url=url)
    full.create(1)
    full.put(0)
    waiters = [_Caller(q.get) for _ in range(25)]
    waiters += [_Caller(lambda: full.put(1)) for _ in range(25)]
    _blocked(q, 25)

    def putters() -> int:
        return sum("b" in one["flags"] and one["cmd"] == "blpop" for one in client.client_list())

    # One that comes too late would find room in the queue that is made anew.
    assert eventually(lambda: putters() >= 25)
    started = time.monotonic()
    for each in (q, full):
        each.close() if how == "close" else each.delete()
        if how == "recreate":
            each.create(1)
    expected: type[Exception] = (
        pressure.QueueClosedError if how == "close" else pressure.QueueDoesNotExistError
    )
    outcomes = [waiter.result() for waiter in waiters]
    assert {type(outcome) for outcome in outcomes} == {expected}
    assert time.monotonic() - started < WAIT
    if how == "delete":
        assert not q.exists
    else:
        assert q.empty()
        q.delete()
        full.delete()


# Servers that misbehave


def test_scripts_are_flushed_in_a_loop(server: ServerProcess, direct: Queue) -> None:
    done = threading.Event()

    def flush() -> None:
        with server.client() as client:
            while not done.is_set():
                client.script_flush()

    flusher = _Caller(flush)
    try:
        for number in range(200):
            direct.put(number)
            assert direct.get(timeout=WAIT) == number
            direct.task_done()
        direct.put_many(range(100))
        assert direct.get_many(100, timeout=WAIT) == list(range(100))
    finally:
        done.set()
    flusher.result()


def test_clients_are_killed_in_a_loop(make_server: MakeServer, account: Account) -> None:
    server = make_server()
    settings = Settings(lease=SHORT_LEASE)
    q = Queue("q", url=server.url, settings=settings)
    q.create(10)
    mine = Queue("q", url=server.url, settings=settings)
    assert mine.empty(), "whoever has been connected rides out the loss of a connection"
    done = threading.Event()

    def kill() -> None:
        with server.client() as client:
            while not done.is_set():
                client.client_kill_filter(_type="normal", skipme=True)
                time.sleep(0.02)

    def produce() -> None:
        for number in range(100):
            account.sent(number)
            mine.put(number)
            account.acknowledged(number)

    killer, producer = _Caller(kill), _Caller(produce)
    try:
        for _ in range(100):
            account.delivered(q.get(timeout=WAIT))
    finally:
        done.set()
    killer.result()
    assert producer.result() is None
    assert account.check(at_least=100).duplicates == 0
    assert q.empty()


def test_a_server_that_is_killed_and_comes_back(fresh_server: ServerProcess) -> None:
    settings = Settings(lease=SHORT_LEASE)
    q = Queue("q", url=fresh_server.url, settings=settings)
    q.create(2)
    q.put(1)
    q.put(2)
    other = Queue("q", url=fresh_server.url, settings=settings)
    putter = _Caller(lambda: other.put(3))
    assert putter.waits
    fresh_server.kill()
    getter = _Caller(lambda: [q.get(timeout=WAIT) for _ in range(3)])
    assert getter.waits
    fresh_server.start()
    assert getter.result() == [1, 2, 3]
    assert putter.result() is None


def test_a_server_that_comes_back_empty(fresh_server: ServerProcess) -> None:
    q = Queue("q", url=fresh_server.url)
    q.create(1)
    q.put(1)
    getter = _Caller(Queue("other", url=fresh_server.url).get)
    assert isinstance(getter.result(), pressure.QueueDoesNotExistError)
    putter = _Caller(lambda: q.put(2))
    assert putter.waits
    fresh_server.restart(keep_data=False)
    assert isinstance(putter.result(), pressure.QueueDoesNotExistError)
    with pytest.raises(pressure.QueueDoesNotExistError):
        q.get(timeout=WAIT)
    q.create(1)
    q.put(3)
    assert q.get(timeout=WAIT) == 3


def test_a_frozen_server(make_server: MakeServer) -> None:
    server = make_server()
    q = Queue("q", url=server.url)
    q.create()
    getter = _Caller(lambda: q.get(timeout=WAIT))
    _blocked(q, 1)
    server.pause()
    time.sleep(0.3)
    server.resume()
    Queue("q", url=server.url).put(1)
    assert getter.result() == 1


def test_memory_runs_out(make_server: MakeServer) -> None:
    """Puts say so; whoever drains goes on, even those who come only now."""
    server = make_server(maxmemory="8mb")
    q = Queue("q", url=server.url)
    q.create()
    item, accepted = b"x" * 10_000, 0
    with pytest.raises(pressure.ServerOutOfMemoryError, match="maxmemory"):
        while accepted < 5_000:
            q.put(item)
            accepted += 1
    with pytest.raises(pressure.ServerOutOfMemoryError):
        q.put(b"y" * 3_000_000)
    late = Queue("q", url=server.url)
    waiter = Queue("q", url=server.url)
    drained_items = [late.get(timeout=WAIT) for _ in range(accepted)]
    assert drained_items == [item] * accepted
    assert late.empty()
    getter = _Caller(lambda: waiter.get(timeout=WAIT))
    late.put("room again")
    assert getter.result() == "room again"
    with server.client() as client:
        assert client.hlen("__pressure__:q:blobs") == 0


def test_memory_runs_out_in_the_middle_of_a_large_item(make_server: MakeServer) -> None:
    """What was stored of it goes, or it would keep the memory full."""
    server = make_server()
    q = Queue("q", url=server.url)
    q.create()
    with server.client() as client:
        memory: Any = client.info("memory")
        client.config_set("maxmemory", memory["used_memory"] + 1_500_000)
        with pytest.raises(pressure.ServerOutOfMemoryError):
            q.put(b"y" * 3_000_000)
        assert client.exists("__pressure__:q:uploads"), "it was begun"
        assert client.hlen("__pressure__:q:blobs") == 0


def test_a_blocked_get_while_memory_is_out(make_server: MakeServer) -> None:
    server = make_server(maxmemory="4mb")
    q = Queue("q", url=server.url)
    q.create()
    with server.client() as client:
        for size in (100_000, 1_000, 10):
            with contextlib.suppress(redis.ResponseError):
                for number in range(1000):
                    client.set(f"ballast:{size}:{number}", b"x" * size)
        with pytest.raises(pressure.ServerOutOfMemoryError):
            q.put(1)
        getter = _Caller(lambda: q.get(timeout=WAIT))
        assert getter.waits
        client.delete(*client.keys("ballast:*"))

    def put() -> bool:
        with contextlib.suppress(pressure.ServerOutOfMemoryError):
            q.put(1)
            return True
        return False

    assert eventually(put)
    assert getter.result() == 1


def test_reconnect_timeout(make_server: MakeServer) -> None:
    server = make_server(unix=False)
    q = Queue("q", url=server.url, settings=Settings(reconnect_timeout=0.5))
    q.create()
    server.kill()
    for operation in (q.get, q.qsize, lambda: q.get(timeout=0.2), q.get_nowait):
        started = time.monotonic()
        with pytest.raises(pressure.ServerUnavailableError, match=f"127.0.0.1:{server.port}"):
            operation()
        assert time.monotonic() - started < WAIT
    server.start()
    with pytest.raises(pressure.QueueDoesNotExistError):
        q.put(1)


@pytest.mark.parametrize("operation", ["task_done", "purge"])
def test_what_is_sent_beforehand_waits_for_the_server_too(
    direct: Queue, shaky: Queue, proxy: FaultyProxy, operation: str
) -> None:
    direct.put_many(range(50))
    items = iter(shaky)
    ahead = shaky._core.buffer
    got = [next(items)]
    while not ahead:
        got.append(next(items))
    proxy.refuse()
    proxy.cut()
    back = threading.Timer(1.5, proxy.accept)
    back.start()
    try:
        if operation == "purge":
            assert shaky.purge() == 50 - len(got)
        else:
            shaky.task_done()
    finally:
        back.join()


def test_the_outcome_of_a_put_is_unknown(direct: Queue, proxy: FaultyProxy) -> None:
    settings = Settings(reconnect_timeout=0.3)
    shaky = Queue(direct.name, url=proxy.url, settings=settings)
    shaky.put("a")
    fault = proxy.drop_next_reply(script("put"))
    putter = _Caller(lambda: shaky.put("b"))
    fault.wait()
    proxy.refuse()
    proxy.cut()
    outcome = putter.result()
    assert isinstance(outcome, pressure.OutcomeUnknownError | type(None))
    if outcome is None:
        pytest.skip("it reconnected before the network went away")
    with pytest.raises(pressure.ServerUnavailableError):
        shaky.put("c")
    proxy.accept()
    shaky.put("d")
    assert drained(direct) == ["a", "b", "d"]


def test_an_error_does_not_unsettle_what_was_got(direct: Queue, proxy: FaultyProxy) -> None:
    """What is acknowledged along with a get that fails is neither lost nor delivered again."""
    settings = Settings(lease=SHORT_LEASE, reconnect_timeout=0.2)
    shaky = Queue(direct.name, url=proxy.url, settings=settings)
    direct.put_many(range(6))
    got = [shaky.get()]
    proxy.refuse()
    proxy.cut()
    kept = []
    for _ in range(2):
        with pytest.raises(pressure.ServerUnavailableError) as caught:
            shaky.get(timeout=0.1)
        kept.append(caught.value)
    proxy.accept()
    got += [shaky.get(timeout=WAIT) for _ in range(3)]
    kept.clear()
    got += drained(shaky)
    assert sorted(got) == sorted({*got}), "something came twice"
    assert set(got) == set(range(6))


@pytest.mark.parametrize("raised", ["WRONGPASS", "NOPERM"])
def test_refusals_are_final(make_server: MakeServer, raised: str) -> None:
    server = make_server(unix=False)
    with server.client() as client:
        client.acl_setuser(
            "limited", enabled=True, passwords=["+secret"], keys=["*"], commands=["+ping"]
        )
    password = "wrong" if raised == "WRONGPASS" else "secret"
    q = Queue("q", url=f"redis://limited:{password}@127.0.0.1:{server.port}/0")
    started = time.monotonic()
    with pytest.raises(pressure.ServerRefusedError) as caught:
        q.get(timeout=WAIT)
    assert time.monotonic() - started < WAIT / 2
    assert f"127.0.0.1:{server.port}" in str(caught.value)
    assert password not in str(caught.value)


def test_without_permission_to_unblock(make_server: MakeServer) -> None:
    server = make_server(unix=False)
    with server.client() as client:
        client.acl_setuser(
            "limited",
            enabled=True,
            passwords=["+secret"],
            keys=["*"],
            commands=["+@all", "-client|unblock"],
        )
    q = Queue("q", url=f"redis://limited:secret@127.0.0.1:{server.port}/0")
    q.create()
    with pytest.raises(pressure.QueueEmptyError):
        q.get(timeout=0.3)
    q.put(1)
    assert q.get(timeout=WAIT) == 1


# Signals and forks


def test_ctrl_c_in_mid_get(direct: Queue, url: str, spawn_child: Spawn) -> None:
    child = spawn_child(doomed.interrupted_get, url, direct.name)
    child.wait_for("blocked")
    _blocked(direct, 1)
    child.interrupt()
    child.wait_for("interrupted")
    direct.put("right")
    assert child.wait_for("got") == "right"
    assert child.wait() == 0
    assert direct.empty()


def test_fork_in_mid_get(direct: Queue, url: str, spawn_child: Spawn) -> None:
    child = spawn_child(doomed.fork_in_mid_get, url, direct.name)
    assert child.wait_for("child") == "put"
    assert child.wait_for("parent") == ["from the child"]
    assert child.wait_for("parent") == ["again"]
    assert child.wait() == 0, child.output


def _blocked(q: Queue, count: int) -> None:
    """Return once so many consumers are blocked at the server."""
    key = q._core.protocol.keys.waiters

    def waiting() -> Any:
        return q._handle.ask(_command("HLEN", key))

    assert eventually(lambda: bool(waiting() >= count))


def _command(*words: bytes | str) -> Command:
    return Command(words)


class _Caller:
    """A thread that makes one call; its result or exception can be waited for."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._outcome: object = None
        self._thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self._thread.start()

    def _run(self, call: Callable[[], object]) -> None:
        try:
            self._outcome = call()
        except Exception as exc:
            self._outcome = exc

    @property
    def runs(self) -> bool:
        return self._thread.is_alive()

    @property
    def waits(self) -> bool:
        self._thread.join(0.2)
        return self._thread.is_alive()

    def result(self, timeout: float = 2 * WAIT) -> object:
        self._thread.join(timeout)
        assert not self._thread.is_alive(), "the caller still waits"
        return self._outcome
