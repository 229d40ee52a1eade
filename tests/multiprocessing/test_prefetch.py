"""A consumer in a hot loop asks for the next items while it works: none is lost, or kept."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

import pressure
import pressure.multiprocessing as mp
from pressure.errors import QueueDoesNotExistError
from tests.support.fixtures import keys_left
from tests.support.proxy import FaultyProxy

PATIENCE = 20.0
MANY = 600


@pytest.fixture
def filled(url: str) -> Iterator[Any]:
    """A queue with the numbers below `MANY`."""
    made: Any = mp.Queue(url=url)
    for number in range(MANY):
        made.put(number)
    made._producer.settle()
    yield made
    made.close()
    made.join_thread()
    with contextlib.suppress(QueueDoesNotExistError):
        made.delete()


def eventually(condition: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, "it did not come about in time"
        time.sleep(0.005)


def get_until_asked(made: Any) -> list[int]:
    """Get items in a hot loop until more are asked for."""
    got = []
    while not made._remote.handle.prefetch.under_way:
        got.append(made.get(timeout=PATIENCE))
        assert len(got) < MANY, "nothing was asked for"
    return got


def get_until_asking(made: Any) -> list[int]:
    """Get items in a hot loop until the next get asks for more."""
    remote = made._remote
    got = []
    while len(remote.core.buffer) > remote.handle.prefetch.at:
        got.append(made.get(timeout=PATIENCE))
        assert len(got) < MANY, "nothing is asked for"
    return got


def test_all_come_once_and_in_order(filled: Any) -> None:
    got = get_until_asked(filled)
    got += [filled.get(timeout=PATIENCE) for _ in range(MANY - len(got))]
    assert got == list(range(MANY))
    assert filled.empty()


def test_threads_share_what_was_asked_for(filled: Any) -> None:
    got: list[int] = []

    def consume() -> None:
        for _ in range(MANY // 4):
            got.append(filled.get(timeout=PATIENCE))

    threads = [threading.Thread(target=consume, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(got) == list(range(MANY))


def test_what_was_asked_for_and_not_used_goes_back(filled: Any, client: redis.Redis) -> None:
    got = get_until_asked(filled)
    queue: Any = pressure.PressureQueue(
        filled.name, client=client, prefix=filled._remote.where.prefix, codec="raw"
    )
    until = time.monotonic() + PATIENCE
    ahead = filled._remote.core.protocol.keys.prefetched
    while filled._remote.core.buffer or filled._remote.handle.prefetch.under_way:
        assert time.monotonic() < until, "it was kept"
        time.sleep(0.005)
    while int(client.hget(ahead, "*") or 0):
        assert time.monotonic() < until, "it did not go back"
        time.sleep(0.005)
    assert queue.qsize() == MANY - len(got)
    assert [filled.get(timeout=PATIENCE) for _ in range(MANY - len(got))] == list(
        range(len(got), MANY)
    )


def test_the_size_is_exact_while_more_is_asked_for(filled: Any) -> None:
    got = get_until_asked(filled)
    assert filled.qsize() == MANY - len(got)


def test_what_is_not_in_a_row_is_acknowledged_one_by_one(filled: Any, client: redis.Redis) -> None:
    remote = filled._remote
    got = get_until_asked(filled)
    remote.handle.prefetch.finish()
    # One that this process doesn't know of, between those that are handed out and the others.
    (session,) = [one for one in remote.core.sessions if one.known]
    taken = remote.core.protocol.keys.taken(session.consumer)
    codec = remote.core.codec
    other = codec.pack_plain(b"i" * 16, remote.core.serialize("other"))
    client.linsert(taken, "BEFORE", client.lindex(taken, -2), other)  # type: ignore[arg-type]
    got += get_until_asked(filled)
    remote.handle.prefetch.finish()
    got += [filled.get(timeout=PATIENCE) for _ in range(MANY - len(got))]
    assert got == list(range(MANY))
    eventually(lambda: client.lrange(taken, 0, -1) == [other])
    client.delete(taken)


def test_a_lost_reply_loses_nothing(url: str) -> None:
    with FaultyProxy(url) as proxy:
        made: Any = mp.Queue(url=proxy.url)
        for number in range(MANY):
            made.put(number)
        made._producer.settle()
        got = get_until_asking(made)
        fault = proxy.drop_next_reply()
        got += [made.get(timeout=PATIENCE) for _ in range(MANY - len(got))]
        assert fault.struck
        assert got == list(range(MANY))
        assert made.empty()
        made.delete()
        made.close()


def test_a_deleted_queue_is_noticed(filled: Any) -> None:
    get_until_asked(filled)
    filled.delete()
    with pytest.raises(QueueDoesNotExistError):
        filled.get(timeout=PATIENCE)


def consume_some(made: Any) -> None:
    get_until_asked(made)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_that_ends_leaves_nothing_behind(
    method: str, url: str, client: redis.Redis
) -> None:
    context = mp.get_context(method)
    made: Any = mp.Queue(url=url)
    for number in range(MANY):
        made.put(number)
    made._producer.settle()
    process = context.Process(target=consume_some, args=(made,))
    process.start()
    process.join(PATIENCE)
    assert process.exitcode == 0
    rest: list[int] = []
    while len(rest) < MANY and not made.empty():
        rest.append(made.get(timeout=PATIENCE))
    assert rest == list(range(rest[0], MANY))
    made.delete()
    made.close()
    assert not keys_left(client, made.name)
