"""A consumer in a hot loop asks for the next items while it works: none is lost, or kept."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

import pressure
import pressure.multiprocessing as mp
from pressure import recovering, upkeep
from pressure.driver import resumed
from pressure.errors import QueueDoesNotExistError
from tests.multiprocessing.consuming import got_by_threads
from tests.support.fixtures import keys_left
from tests.support.proxy import FaultyProxy

PATIENCE = 20.0
MANY = 600


@pytest.fixture
def filled(url: str) -> Iterator[Any]:
    """A queue with the numbers below `MANY`."""
    made: Any = mp.Queue(url=url)
    # Each item by itself. (Those of bundles: test_bundles.py)
    made._remote.core.bundles = False
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
    assert sorted(got_by_threads(filled, MANY)) == list(range(MANY))


def test_what_was_asked_for_and_not_used_goes_back(filled: Any, client: redis.Redis) -> None:
    got = get_until_asked(filled)
    other: Any = pressure.PressureQueue(
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
    assert other.qsize() == MANY - len(got)
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


def lose_lease(made: Any) -> None:
    """Have the consumer that asked for more be taken for dead. What it held is back then."""
    remote = made._remote
    consumer = remote.handle.prefetch._asked.session.consumer
    # The server carries out what was asked for before it answers this.
    assert remote.handle.ask(remote.core.protocol.reap(consumer, force=True))[1] > 0


def get_all_elsewhere(made: Any, client: redis.Redis) -> list[int]:
    core = made._remote.core
    other: Any = pressure.PressureQueue(
        made.name, client=client, prefix=made._remote.where.prefix, codec=core.serializer
    )
    got = []
    with contextlib.suppress(pressure.QueueEmptyError):
        while True:
            got += other.get_many(MANY, timeout=0.0)
    other.disconnect()
    return got


@pytest.mark.parametrize("known", [False, True])
def test_what_comes_after_the_lease_was_lost_is_not_handed_out(
    known: bool, filled: Any, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the process stood still; it hears of that only now, or has heard already."""
    remote = filled._remote
    prefetch = remote.handle.prefetch
    monkeypatch.setattr(prefetch, "finish_late", lambda now, patience: None)
    got = get_until_asked(filled)
    lose_lease(filled)
    if known:
        remote.call(recovering.reap_due(remote.core))
    else:
        long_ago = time.monotonic() - remote.core.settings.lease
        prefetch._asked = prefetch._asked._replace(at=long_ago)
        remote.core.buffer.clear()
    # The last one was not acknowledged before the lease was lost.
    assert get_all_elsewhere(filled, client) == list(range(got[-1], MANY))
    with pytest.raises(queue.Empty):
        filled.get(block=False)


def test_items_are_not_kept_longer_because_others_came(filled: Any) -> None:
    core = filled._remote.core
    get_until_asked(filled)
    oldest = core.buffer[0].at
    core.popped = oldest + 60.0
    assert filled._remote.handle.prefetch.finish()
    assert core.buffer[0].at == oldest
    assert core.buffer[-1].at > oldest
    assert core.kept_since() < oldest + 0.1


@pytest.mark.parametrize("asked", [False, True])
def test_what_is_being_given_back_comes_before_later_items(
    asked: bool, filled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The background thread thinks that the consumer is slow, and that is just going on."""
    monkeypatch.setattr("pressure.sessions.FAREWELL", PATIENCE)
    handle = filled._remote.handle
    got = get_until_asked(filled) if asked else get_until_asking(filled)
    # Only one of them may look after the handle, and only now.
    monkeypatch.setattr(handle, "maintain", lambda now: now + PATIENCE)
    give_back, begun, go_on = upkeep.give_back_ahead, threading.Event(), threading.Event()

    def slow(core: Any) -> Any:
        flow = give_back(core)
        request = next(flow)
        begun.set()
        assert go_on.wait(PATIENCE)
        return resumed(request, flow)

    monkeypatch.setattr(upkeep, "give_back_ahead", slow)
    giving = threading.Thread(target=handle.give_back_ahead, daemon=True)
    giving.start()
    assert begun.wait(PATIENCE)
    getting = threading.Thread(target=lambda: got.append(filled.get(timeout=PATIENCE)), daemon=True)
    getting.start()
    # It should wait; a moment is enough for it to do the wrong thing.
    getting.join(0.2)
    go_on.set()
    giving.join(PATIENCE)
    getting.join(PATIENCE)
    got += [filled.get(timeout=PATIENCE) for _ in range(MANY - len(got))]
    assert got == list(range(MANY))


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_get_that_is_cut_short_loses_no_item(
    when: str, filled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C comes as it hands out what was fetched ahead."""
    remote = filled._remote
    got = get_until_asked(filled)
    hand_out = remote._hand_out

    def cut_short(ahead: Any) -> None:
        if when == "after":
            hand_out(ahead)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(remote, "_hand_out", cut_short)
        with pytest.raises(KeyboardInterrupt):
            filled.get(timeout=PATIENCE)
    got += [filled.get(timeout=PATIENCE) for _ in range(MANY - len(got))]
    assert sorted(got) == list(range(MANY))
    assert filled.empty()


def test_after_a_lost_reply_items_are_done(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, and not when the keeper has found out what was acknowledged."""
    with FaultyProxy(url) as proxy:
        made: Any = mp.JoinableQueue(url=proxy.url)
        monkeypatch.setattr(made._remote.handle, "maintain", lambda now: now + PATIENCE)
        for number in range(MANY):
            made.put(number)
        got = get_until_asking(made)
        for _ in got:
            made.task_done()
        fault = proxy.drop_next_reply()
        while len(got) < MANY:
            got.append(made.get(timeout=PATIENCE))
            made.task_done()
        assert fault.struck
        assert got == list(range(MANY))
        with pytest.raises(ValueError):
            made.task_done()
        made.join()
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
