"""Neither worker nor client unpickles what the other side has not signed for it."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

import pressure.multiprocessing as mp
from pressure import PressureQueue, RedisExecutor, Settings
from pressure.address import Address
from pressure.channel.replies import Opaque
from pressure.executor import ResultPayloadError, TaskPayloadError
from pressure.executor.records import Kind, pack_answer, pack_task
from pressure.executor.supervision.supervisor import Plan, Supervisor
from pressure.keys import Keys
from tests.faults import executing as do
from tests.security.canary import KEY, OTHER_KEY, Cage, Forgery, Target, forgeries
from tests.support.processes import Child, report
from tests.support.waiting import eventually

WAIT = 30.0
SETTINGS = Settings(max_item_bytes=1024 * 1024)
PREFIX = "__pressure__"


@pytest.fixture
def cage(tmp_path: Path) -> Iterator[Cage]:
    cage = Cage(tmp_path / "cage")
    yield cage
    assert not cage.escaped()


@pytest.fixture
def daemon(spawn_child: Callable[..., Child], url: str, queue_name: str) -> Callable[[], None]:
    def start() -> None:
        spawn_child(do.serve, url, queue_name, 1, 15.0, KEY).wait_for("serving")

    return start


@pytest.fixture
def ex(url: str, queue_name: str) -> Iterator[RedisExecutor]:
    executor = RedisExecutor(url=url, queue=queue_name, key=KEY, settings=SETTINGS)
    yield executor
    executor.shutdown(wait=False, cancel_futures=True)
    executor._engine.wait(5.0)


class Site:
    """Where an executor's tasks, answers and stored things are."""

    def __init__(self, client: redis.Redis, executor: RedisExecutor, queue: str) -> None:
        self.client = client
        self.reply = executor._engine.dispatcher._reply
        self.name = queue
        self.keys = Keys(PREFIX, queue, hash_tag=queue)
        self.reply_keys = Keys(PREFIX, self.reply.name, hash_tag=queue)

    def generation(self) -> bytes:
        found = self.client.get(self.keys.generation)
        assert isinstance(found, bytes)
        return found

    @property
    def tasks(self) -> Target:
        return Target(self.keys, self.name, self.generation(), "task")

    @property
    def answers(self) -> Target:
        return self._beside("result")

    @property
    def stored(self) -> Target:
        return self._beside("stored")

    def _beside(self, direction: str) -> Target:
        return Target(
            self.reply_keys, self.reply.name, self.reply.client_id.hex().encode(), direction
        )

    def queued(self) -> int:
        return int(self.client.llen(self.keys.base))

    def digests(self) -> set[bytes]:
        return set(self.client.hkeys(self.reply_keys.store))  # type: ignore[arg-type]

    def stores_more_than(self, count: int) -> bool:
        return len(self.digests()) > count

    def letters(self) -> list[bytes]:
        return self.client.lrange(self.keys.dead_letters, 0, -1)  # type: ignore[return-value]


@pytest.fixture
def site(client: redis.Redis, ex: RedisExecutor, queue_name: str) -> Site:
    ex._engine.start()
    return Site(client, ex, queue_name)


def submit_unserved(ex: RedisExecutor, site: Site, count: int) -> list[Future[Any]]:
    """Tasks that lie in the queue, since nobody serves it."""
    before = site.queued()
    futures: list[Future[Any]] = [ex.submit(do.square, n) for n in range(count)]
    assert eventually(lambda: site.queued() == before + count, WAIT)
    return futures


def a_task(cage: Cage) -> bytes:
    record = pack_task(cage.canary(), cage.canary(), stored=False)
    assert isinstance(record, bytes)
    return record


def an_answer(cage: Cage, kind: Kind) -> bytes:
    payload = cage.canary()
    if kind == Kind.ERROR:
        payload = pickle.dumps(("text", payload), 5)
    record = pack_answer(kind, payload, worker=b"host:1", deliveries=0, started=0.0, finished=0.0)
    assert isinstance(record, bytes)
    return record


# Tasks


def test_forged_tasks(
    ex: RedisExecutor, site: Site, cage: Cage, daemon: Callable[[], None]
) -> None:
    forged = list(forgeries(site.tasks, site.client, a_task(cage)))
    site.client.lpush(site.keys.base, *(forgery.item for forgery in forged))
    daemon()
    assert ex.submit(do.square, 7).result(WAIT) == 49
    assert eventually(lambda: len(site.letters()) == len(forged), WAIT)
    with PressureQueue[Any](
        site.name, client=site.client, key=KEY, settings=Settings(hash_tag=site.name)
    ) as q:
        letters = list(q.dead_letters)
    assert sorted(letter.payload for letter in letters) == sorted(one.item for one in forged)
    assert {letter.reason for letter in letters} == {"signature", "unreadable"}
    assert all(letter.error for letter in letters)


def test_tasks_that_were_altered_in_the_queue(
    ex: RedisExecutor, site: Site, cage: Cage, daemon: Callable[[], None]
) -> None:
    """Their futures hear of it: the ids are read, though not believed."""
    count = len(list(forgeries(site.tasks, site.client, a_task(cage))))
    futures = submit_unserved(ex, site, count)
    told: list[tuple[Forgery, Future[Any]]] = []
    for at, future in enumerate(futures):
        true = site.client.lindex(site.keys.base, -1 - at)
        assert isinstance(true, bytes)
        tasks = site.tasks._replace(client_id=site.reply.client_id)
        forgery = list(forgeries(tasks, site.client, a_task(cage), true[14:30]))[at]
        # Where they aren't there, the task is as good as removed.
        if len(forgery.item) >= 66 and forgery.item[14:46] == true[14:46]:
            site.client.lset(site.keys.base, -1 - at, forgery.item)  # type: ignore[arg-type]
            told.append((forgery, future))
    daemon()
    assert len(told) > count * 3 / 4
    for forgery, future in told:
        assert isinstance(future.exception(WAIT), TaskPayloadError), forgery.what
    assert ex.submit(do.square, 7).result(WAIT) == 49


def test_an_item_of_a_plain_queue_of_the_same_name(
    ex: RedisExecutor, site: Site, cage: Cage, daemon: Callable[[], None]
) -> None:
    """Whose bytes a stranger may choose; and who can write to the server chooses generations."""
    plain = Keys(PREFIX, site.name)
    settings = Settings(max_deliveries=3)
    with PressureQueue[bytes](
        site.name, client=site.client, key=KEY, codec=Opaque(), settings=settings
    ) as q:
        q.create()
        site.client.set(plain.generation, site.generation())
        q._core.client_id = site.reply.client_id
        q.put(a_task(cage))
        item = site.client.lindex(plain.base, 0)
        assert isinstance(item, bytes)
        site.client.lpush(site.keys.base, item)
        daemon()
        assert ex.submit(do.square, 7).result(WAIT) == 49
        q.delete()
    (letter,) = site.letters()
    assert letter.endswith(item)


# Answers


@pytest.mark.parametrize("kind", [Kind.RESULT, Kind.ERROR])
def test_forged_answers(ex: RedisExecutor, site: Site, cage: Cage, kind: Kind) -> None:
    body = an_answer(cage, kind)
    count = len(list(forgeries(site.answers, site.client, body)))
    futures = submit_unserved(ex, site, count)
    refused = 0
    for at, future in enumerate(futures):
        id = future.task_id  # type: ignore[attr-defined]
        forgery = list(forgeries(site.answers, site.client, body, bytes.fromhex(id)))[at]
        site.client.lpush(site.reply_keys.base, forgery.item)
        if forgery.item[14:30].hex() == id:
            with pytest.raises(ResultPayloadError):
                future.result(WAIT)
            refused += 1
        else:
            assert eventually(lambda: not site.client.llen(site.reply_keys.base), WAIT)
            assert not future.done()
    assert refused > count * 3 / 4


def test_a_replayed_answer(
    ex: RedisExecutor, site: Site, cage: Cage, daemon: Callable[[], None]
) -> None:
    """A true answer that comes once more: nobody waits for it, and nobody reads it."""
    daemon()
    future = ex.submit(do.square, 7)
    assert future.result(WAIT) == 49
    true = site.answers.codec().pack(bytes.fromhex(future.task_id), an_answer(cage, Kind.RESULT))
    for _ in range(3):
        site.client.lpush(site.reply_keys.base, true)
    assert ex.submit(do.square, 8).result(WAIT) == 64
    assert eventually(lambda: not site.client.llen(site.reply_keys.base), WAIT)
    assert future.result() == 49


def test_an_answer_to_another_client(
    ex: RedisExecutor, site: Site, cage: Cage, url: str, queue_name: str
) -> None:
    (future,) = submit_unserved(ex, site, 1)
    id = bytes.fromhex(future.task_id)  # type: ignore[attr-defined]
    with RedisExecutor(url=url, queue=queue_name, key=KEY) as other:
        other._engine.start()
        theirs = Site(site.client, other, queue_name).answers
        item = theirs.codec().pack(id, an_answer(cage, Kind.RESULT))
        site.client.lpush(site.reply_keys.base, item)
        with pytest.raises(ResultPayloadError, match="signature"):
            future.result(WAIT)


# What lies beside the reply queue


def a_large_function(number: int) -> Callable[[], int]:
    ballast = os.urandom(2000)
    return lambda: number + len(ballast) - 2000


@pytest.mark.parametrize("what", ["function", "shared"])
def test_what_is_stored(
    ex: RedisExecutor, site: Site, cage: Cage, daemon: Callable[[], None], what: str
) -> None:
    body = cage.canary()
    count = len(list(forgeries(site.stored, site.client, body, bytes(16))))
    futures: list[Future[Any]] = []
    digests: list[bytes] = []
    kept: list[Any] = []
    for number in range(count + 1):
        known = site.digests()
        if what == "shared":
            kept.append(ex.share(number))
            futures.append(ex.submit(do.square, kept[-1]))
        else:
            futures.append(ex.submit(a_large_function(number)))
        assert eventually(partial(site.stores_more_than, number), WAIT)
        (digest,) = site.digests() - known
        digests.append(digest)
    assert eventually(lambda: site.queued() == count + 1, WAIT)
    for at, digest in enumerate(digests[:-1]):
        forgery = list(forgeries(site.stored, site.client, body, digest))[at]
        site.client.hset(site.reply_keys.store, digest, forgery.item)
    # One that was signed, but under another name.
    stray = site.stored.codec().pack(bytes(16), body)
    site.client.hset(site.reply_keys.store, digests[0], stray)
    daemon()
    for future in futures[:-1]:
        with pytest.raises(TaskPayloadError):
            future.result(WAIT)
    assert futures[-1].result(WAIT) == (count**2 if what == "shared" else count)
    assert len(site.letters()) == count
    # What came back from the server is not believed when it is removed, either.
    for shared in kept:
        shared.release()


# Orders


def test_forged_orders(
    ex: RedisExecutor, site: Site, tmp_path: Path, daemon: Callable[[], None]
) -> None:
    daemon()
    gate = str(tmp_path / "gate")
    future = ex.submit(do.hold, gate, "it")
    pattern = f"{PREFIX}:{{{site.name}}}:reply:*:bound"
    own = site.reply_keys.bound

    def supervisors() -> list[bytes]:
        return [key for key in site.client.scan_iter(pattern, count=1000) if key != own]

    assert eventually(lambda: future.running() and bool(supervisors()), WAIT)
    (key,) = supervisors()
    digits = key.decode().split(":")[-2]
    name = f"{site.name}:reply:{digits}"
    orders = Target(Keys(PREFIX, name, hash_tag=site.name), name, digits.encode(), "result")
    body = struct.pack(">16sd", site.reply.client_id, 0.0)
    id = bytes.fromhex(future.task_id)
    for forgery in forgeries(orders, site.client, body, id):
        site.client.lpush(orders.keys.base, forgery.item)
    assert eventually(lambda: not site.client.llen(orders.keys.base), WAIT)
    Path(gate).touch()
    assert future.result(WAIT).startswith("it ")


# Pools


def test_a_pool(
    url: str, queue_name: str, client: redis.Redis, cage: Cage, daemon: Callable[[], None]
) -> None:
    with mp.Pool(1, url=url, queue=queue_name, key=KEY) as pool:
        site = Site(client, pool._staff.executor, queue_name)
        outstanding = pool.apply_async(do.square, (2,))
        assert eventually(lambda: site.queued() == 1, WAIT)
        (id,) = pool._staff.executor._engine.dispatcher.ledger.tasks
        forged = site.answers.codec(key=OTHER_KEY).pack(id, an_answer(cage, Kind.RESULT))
        client.lpush(site.reply_keys.base, forged)
        with pytest.raises(ResultPayloadError):
            outstanding.get(WAIT)
        tasks = [one.item for one in forgeries(site.tasks, client, a_task(cage))]
        client.lpush(site.keys.base, *tasks)
        daemon()
        assert pool.map(do.square, range(5)) == [0, 1, 4, 9, 16]
        assert len(site.letters()) == len(tasks)


# Keys that are being changed


PHASES = [["old"], ["old", "new"], ["new", "old"], ["new"]]
"""First all learn the new key, then all sign with it, then all forget the old one."""


def serve_with(url: str, queue: str, keys: list[str]) -> None:
    settings = Settings(signing_keys=tuple(key.encode() for key in keys))
    plan = Plan(Address.of(url), (queue,), PREFIX, 1, settings, grace=5.0)
    report("serving")
    Supervisor(plan).run()


@pytest.mark.parametrize("phase", range(len(PHASES)))
def test_keys_are_rotated(
    url: str, queue_name: str, spawn_child: Callable[..., Child], phase: int
) -> None:
    """Workers of one phase work for clients of the same, the last and the next one."""
    spawn_child(serve_with, url, queue_name, PHASES[phase]).wait_for("serving")
    for other, keys in enumerate(PHASES):
        with RedisExecutor(url=url, queue=queue_name, key=keys) as executor:
            executor.share("something that is stored beside the queue").release()
            future = executor.submit(do.square, 7)
            if abs(other - phase) <= 1:
                assert future.result(WAIT) == 49
            else:
                error = future.exception(WAIT)
                assert isinstance(error, TaskPayloadError | ResultPayloadError)
                assert "key" in str(error)
