"""Consumers that are killed, frozen or cut off without a word: what they held comes back."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest
import redis

import pressure
from tests.faults import executing, mortal
from tests.faults.conftest import MakeTraffic
from tests.faults.kit.network import BlackHole
from tests.faults.kit.processes import MachineFrozen, WorkerKilled
from tests.support.account import Account
from tests.support.processes import Child
from tests.support.proxy import FaultyProxy
from tests.support.waiting import eventually

Spawn = Callable[..., Child]
WAIT = 20.0
COUNT = 60

CONSUMERS = {"queue": mortal.queue, "asyncio": mortal.asynchronous, "shim": mortal.shim}


@pytest.fixture
def q(url: str, queue_name: str) -> pressure.PressureQueue[int]:
    """A queue with items. The shim's named queues are the same."""
    made: pressure.PressureQueue[int] = pressure.PressureQueue(
        queue_name, url=url, settings=mortal.SETTINGS
    )
    made.create()
    return made


class Reader:
    """Writes down what a child says that it got."""

    def __init__(self, child: Child, books: Account) -> None:
        self._child = child
        self._books = books
        self.seen = 0

    def read(self) -> None:
        for _ in range(self._child.count("got") - self.seen):
            self._books.delivered(self._child.wait_for("got"))
            self.seen += 1


def put_all(q: pressure.PressureQueue[int], books: Account) -> None:
    for number in range(COUNT):
        books.sent(number)
    q.put_many(range(COUNT))
    for number in range(COUNT):
        books.acknowledged(number)


@pytest.mark.parametrize("interface", CONSUMERS)
def test_a_killed_consumer(
    interface: str,
    q: pressure.PressureQueue[int],
    url: str,
    account: Account,
    spawn_child: Spawn,
) -> None:
    put_all(q, account)
    child = spawn_child(CONSUMERS[interface], url, q.name, kill_at=["holding#20"])
    assert child.wait() == -signal.SIGKILL
    # By then all is heard that it has said before.
    child.wait_for("at:holding#20")
    Reader(child, account).read()
    for number in range(COUNT):
        # Of what it got, only the last is certainly not acknowledged.
        account.touched(number)
    while account.missing():
        account.delivered(q.get(timeout=WAIT))
    assert account.check(at_least=COUNT).duplicates <= 20
    q.delete()


@pytest.mark.parametrize("interface", CONSUMERS)
def test_a_frozen_consumer(
    interface: str,
    q: pressure.PressureQueue[int],
    url: str,
    account: Account,
    spawn_child: Spawn,
) -> None:
    """It stands still for longer than its lease, and goes on: what it held is another's."""
    put_all(q, account)
    child = spawn_child(CONSUMERS[interface], url, q.name, stop_at=["holding#20"])
    child.wait_for("at:holding#20")
    child.wait_stopped()
    reader = Reader(child, account)
    reader.read()
    for number in range(reader.seen):
        # Of what a shim got in the last moment before, nothing was acknowledged yet.
        account.touched(number)
    while account.missing():
        account.delivered(q.get(timeout=WAIT))
    child.cont()
    # It goes on.
    for number in range(COUNT, COUNT + 5):
        account.sent(number)
        q.put(number)
        account.acknowledged(number)

    def all_read() -> bool:
        reader.read()
        return not account.missing()

    assert eventually(all_read, WAIT)
    account.check(at_least=COUNT)
    q.delete()


@pytest.mark.parametrize("interface", CONSUMERS)
def test_a_half_open_consumer_that_is_dead(
    interface: str,
    q: pressure.PressureQueue[int],
    proxy: FaultyProxy,
    client: redis.Redis,
    spawn_child: Spawn,
) -> None:
    """The server does not hear that a blocked consumer has died, and gives it an item."""
    child = spawn_child(CONSUMERS[interface], proxy.url, q.name)
    child.wait_for("ready")
    waiters = f"__pressure__:{q.name}:waiters"
    assert eventually(lambda: client.hlen(waiters) > 0, WAIT)
    BlackHole(proxy).strike()
    child.kill()
    q.put(1)
    assert q.get(timeout=WAIT) == 1
    q.delete()


def test_workers_are_killed_in_mid_traffic(
    url: str, queue_name: str, account: Account, spawn_child: Spawn, make_traffic: MakeTraffic
) -> None:
    child = spawn_child(executing.serve, url, queue_name, 2, 15.0)
    child.wait_for("serving")
    killed = WorkerKilled(child)
    with make_traffic("tasks", url, queue_name) as traffic:
        for _ in range(3):
            traffic.flows()
            killed.strike()
        traffic.flows(40)
        _touch_all(account)
        traffic.finish()
    assert len(killed.victims) == 3


def test_a_machine_is_frozen_in_mid_traffic(
    url: str, queue_name: str, account: Account, spawn_child: Spawn, make_traffic: MakeTraffic
) -> None:
    """For longer than its lease; its late outcomes are dropped."""
    children = [spawn_child(executing.serve, url, queue_name, 1, mortal.LEASE) for _ in range(2)]
    for child in children:
        child.wait_for("serving")
    with make_traffic("tasks", url, queue_name) as traffic:
        traffic.flows()
        with MachineFrozen(children[0]):
            time.sleep(1.5 * mortal.LEASE)
            traffic.flows()
        traffic.flows()
        _touch_all(account)
        traffic.finish()


def _touch_all(books: Account) -> None:
    """Any task may have been begun twice; each future still has one outcome, the right one."""
    for number in range(books.count("sent") + 1000):
        books.touched(number)
