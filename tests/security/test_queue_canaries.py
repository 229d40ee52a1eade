"""Nobody who takes from a queue unpickles what was not signed for it, and nothing of it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

import pressure
import pressure.aio
import pressure.multiprocessing as mp
from pressure import PressureQueue, Settings
from pressure.multiprocessing.remote import Remote
from tests.aio.running import run
from tests.security.canary import KEY, Cage, Forgery, Target, forgeries
from tests.support.waiting import eventually

Queue = PressureQueue[Any]
WAIT = 30.0
GOOD = ("good", None)
SETTINGS = Settings(max_item_bytes=1024 * 1024)


@pytest.fixture
def cage(tmp_path: Path) -> Iterator[Cage]:
    cage = Cage(tmp_path / "cage")
    yield cage
    assert not cage.escaped()


@pytest.fixture
def q(url: str, queue_name: str) -> Iterator[Queue]:
    with Queue(queue_name, url=url, key=KEY, settings=SETTINGS) as q:
        q.create()
        yield q


def target(q: Queue) -> Target:
    core = q._core
    return Target(core.protocol.keys, core.name, core.generation, "item")


def plant(q: Queue, client: redis.Redis, cage: Cage) -> list[Forgery]:
    """Put forgeries into the queue, and behind them a good item."""
    planted = list(forgeries(target(q), client, cage.canary()))
    client.lpush(target(q).keys.base, *(forgery.item for forgery in planted))
    q.put(GOOD)
    return planted


def buried_more_than(q: Queue, count: int) -> bool:
    return len(q.dead_letters) > count


def all_buried(q: Queue, planted: list[Forgery]) -> None:
    letters = list(q.dead_letters)
    buried = sorted(letter.payload for letter in letters)
    assert buried == sorted(forgery.item for forgery in planted)
    assert {letter.reason for letter in letters} == {"signature", "unreadable"}
    assert all(letter.error for letter in letters)


def test_canaries_fire(tmp_path: Path) -> None:
    """Guards the other tests: they would all pass with a canary that is dead."""
    for at in (None, -2):
        cage = Cage(tmp_path / f"cage {at}")
        body = bytearray(cage.canary())
        if at is not None:
            body[at] ^= 1
        with contextlib.suppress(pickle.UnpicklingError):
            pickle.loads(body)
        assert len(cage.escaped()) == 1


# How a handle takes: each returns one item, or raises.


def by_get(q: Queue) -> Any:
    return q.get(timeout=WAIT)


def by_get_nowait(q: Queue) -> Any:
    return q.get_nowait()


def by_get_many(q: Queue) -> Any:
    return q.get_many(7, timeout=WAIT)[0]


def by_iteration(q: Queue) -> Any:
    return next(iter(q))


def by_lease(q: Queue) -> Any:
    with q.lease(timeout=WAIT) as item:
        return item


TAKERS = [by_get, by_get_nowait, by_get_many, by_iteration, by_lease]


def persistently(take: Callable[[], Any]) -> tuple[Any, int]:
    """What is taken in the end, and how many refusals came before."""
    refusals = 0
    while True:
        try:
            return take(), refusals
        except pressure.PayloadError as exc:
            refusals += 1
            assert exc.detail
            assert refusals < 1000


@pytest.mark.parametrize("take", TAKERS)
def test_takers(q: Queue, client: redis.Redis, cage: Cage, take: Callable[[Queue], Any]) -> None:
    planted = plant(q, client, cage)
    taken, refusals = persistently(lambda: take(q))
    assert taken == GOOD
    assert refusals <= len(planted)
    all_buried(q, planted)


@pytest.mark.parametrize("take", [by_get, by_lease, by_iteration])
def test_takers_that_wait(
    q: Queue, client: redis.Redis, cage: Cage, take: Callable[[Queue], Any]
) -> None:
    taken: list[Any] = []
    thread = threading.Thread(
        target=lambda: taken.append(persistently(lambda: take(q))), daemon=True
    )
    thread.start()
    planted = list(forgeries(target(q), client, cage.canary()))
    waiters = q._core.protocol.keys.waiters
    for count, forgery in enumerate(planted):
        assert eventually(lambda: bool(client.hlen(waiters)), WAIT)
        client.lpush(target(q).keys.base, forgery.item)
        assert eventually(partial(buried_more_than, q, count), WAIT), forgery.what
    q.put(GOOD)
    thread.join(WAIT)
    assert taken[0][0] == GOOD
    all_buried(q, planted)


def test_looking(q: Queue, client: redis.Redis, cage: Cage) -> None:
    for look, push in ((q.peek, client.rpush), (q.peek_reverse, client.lpush)):
        for forgery in forgeries(target(q), client, cage.canary()):
            push(target(q).keys.base, forgery.item)
            with pytest.raises(pressure.PayloadError):
                look()
            assert q.stats().length == 1
            client.delete(target(q).keys.base)


def test_an_asyncio_handle(
    url: str, queue_name: str, q: Queue, client: redis.Redis, cage: Cage
) -> None:
    async def main() -> None:
        async with pressure.aio.PressureQueue[Any](
            queue_name, url=url, key=KEY, settings=SETTINGS
        ) as aq:

            async def lease() -> Any:
                async with aq.lease(timeout=WAIT) as item:
                    return item

            async def iterate() -> Any:
                async for item in aq:
                    return item

            async def many() -> Any:
                return (await aq.get_many(7, timeout=WAIT))[0]

            takers: list[Callable[[], Any]] = [
                lambda: aq.get(timeout=WAIT),
                aq.get_nowait,
                many,
                iterate,
                lease,
            ]
            for take in takers:
                planted = plant(q, client, cage)
                while True:
                    try:
                        taken = await take()
                        break
                    except pressure.PayloadError:
                        pass
                assert taken == GOOD, take
                await aq.disconnect()
                all_buried(q, planted)
                q.dead_letters.purge()
            for forgery in forgeries(target(q), client, cage.canary()):
                client.lpush(target(q).keys.base, forgery.item)
                for look in (aq.peek, aq.peek_reverse):
                    with pytest.raises(pressure.PayloadError):
                        await look()
                client.delete(target(q).keys.base)
            await asyncio.sleep(0)

    run(main())


def test_the_dead_letter_tools(q: Queue, client: redis.Redis, cage: Cage) -> None:
    planted = plant(q, client, cage)
    persistently(lambda: by_get_many(q))
    for letter in q.dead_letters:
        assert repr(letter) and letter.size == len(letter.payload)
        assert q.dead_letters[letter.id].id == letter.id
    # Back they go, and come again.
    assert q.dead_letters.replay() == len(planted)
    assert len(q.dead_letters) == 0
    q.put(GOOD)
    assert persistently(lambda: by_get_many(q))[0] == GOOD
    assert sorted(letter.size for letter in q.dead_letters) == sorted(
        len(forgery.item) for forgery in planted
    )
    assert q.dead_letters.purge() == len(planted)


@pytest.mark.parametrize(
    "letter",
    [
        b"",
        b"short",
        bytes(12),
        b"\xff" * 40,
        bytes(8) + b"\0\0\0\2{}",
        bytes(8) + b"\0\0\0\4null" + b"item",
        bytes(8) + b"\0\0\0\x14" + b'{"deliveries": [[]]}',
        bytes(8) + b"\0\0\x40\0" + b"[" * 16384,
    ],
)
def test_a_dead_letter_that_is_none(q: Queue, client: redis.Redis, letter: bytes) -> None:
    client.lpush(q._core.protocol.keys.dead_letters, letter)
    (read,) = q.dead_letters
    assert repr(read)
    assert q.dead_letters.replay([read.id]) == 1
    with pytest.raises(pressure.PayloadError):
        q.get_nowait()
    (again,) = q.dead_letters
    assert q.dead_letters.purge([again.id]) == 1


@pytest.fixture
def keyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRESSURE_KEY", KEY)


def good_item(aim: Target) -> bytes:
    return aim.codec().pack(os.urandom(16), pickle.dumps(GOOD, 5))


def as_long_as(client: redis.Redis, key: bytes, length: int) -> bool:
    return bool(client.llen(key) == length)


@pytest.mark.parametrize("kind", [mp.Queue, mp.JoinableQueue, mp.SimpleQueue])
def test_multiprocessing_queues(
    url: str, client: redis.Redis, cage: Cage, keyed: None, kind: Any
) -> None:
    queue = kind(url=url)
    remote: Remote = queue._remote
    core = remote.core
    aim = Target(core.protocol.keys, core.name, core.generation, "item")
    planted = list(forgeries(aim, client, cage.canary()))
    # Among good ones, for which a fast consumer fetches ahead.
    items = [good_item(aim) for _ in range(200)]
    for forgery in planted:
        items += [forgery.item, good_item(aim)]
    client.lpush(aim.keys.base, *items)
    for _ in range(200 + len(planted)):
        assert persistently(queue.get)[0] == GOOD
    assert client.llen(aim.keys.dead_letters) == len(planted)
    # And while it waits.
    taken: list[Any] = []
    thread = threading.Thread(target=lambda: taken.append(persistently(queue.get)), daemon=True)
    thread.start()
    buried = len(planted)
    for forgery in planted:
        client.lpush(aim.keys.base, forgery.item)
        buried += 1
        assert eventually(partial(as_long_as, client, aim.keys.dead_letters, buried), WAIT)
    queue.put(GOOD)
    thread.join(WAIT)
    assert taken[0][0] == GOOD
    if kind is not mp.SimpleQueue:
        queue.close()
        queue.join_thread()
    queue.delete()
