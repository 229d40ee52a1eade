"""Many items travel as bundles: none is lost, doubled, kept back, or out of order."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NoReturn

import pytest
import redis

import pressure
import pressure.multiprocessing as mp
from pressure import bundles, envelope, opened
from pressure.errors import QueueDoesNotExistError
from pressure.link import Link
from pressure.scripts import SCRIPTS
from tests.multiprocessing.consuming import got_by_threads
from tests.support.acl import as_admin
from tests.support.fixtures import keys_left
from tests.support.proxy import FaultyProxy

PATIENCE = 20.0
MANY = 300


@pytest.fixture
def shared(url: str) -> Iterator[Any]:
    made: Any = mp.Queue(url=url)
    yield made
    made.close()
    made.join_thread()
    with contextlib.suppress(QueueDoesNotExistError):
        made.delete()


def fill(made: Any, objects: Any = range(MANY), *, alone: bool = True) -> None:
    """Put these as a quick loop would, which this process may not get to be; as if there were one
    consumer, if that is `alone`."""
    producer = made._producer
    with producer._sending:
        if alone:
            producer._producer().alone_at = math.inf
        for obj in objects:
            producer._bodies.append(made._serialize(obj))
    made._producer.used = True
    producer.settle()


@pytest.fixture
def filled(shared: Any, client: redis.Redis) -> Any:
    """A queue with the numbers below `MANY`."""
    fill(shared)
    assert sum(bundled(shared, client)) > 5
    return shared


def bundled(made: Any, client: redis.Redis) -> list[bool]:
    """Which of the queue's elements are bundles."""
    items: Any = client.lrange(made._remote.core.protocol.keys.base, 0, -1)
    return [bundles.is_bundle(item) for item in items]


def eventually(condition: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, "it did not come about in time"
        time.sleep(0.005)


def stop_keeping(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made._remote.handle, "maintain", lambda now: now + PATIENCE)


def rest_of(made: Any, got: list[Any]) -> list[Any]:
    return got + [made.get(timeout=PATIENCE) for _ in range(MANY - len(got))]


def get_into_one(made: Any, got: list[Any]) -> None:
    """Get until a bundle is being handed out, of which the next item is not the last."""
    while not any(len(one.bodies) > 1 for one in made._remote.core.opened.bundles):
        got.append(made.get(timeout=PATIENCE))
        assert len(got) < MANY


def another(made: Any) -> Any:
    """A handle of what is another process as far as the server can see."""
    from pressure.multiprocessing.remote import Remote

    return Remote(made._remote.handle.address, made._remote.where)


# Which are


def test_all_come_once_and_in_order(filled: Any) -> None:
    assert rest_of(filled, []) == list(range(MANY))
    assert filled.empty()
    assert filled.qsize() == 0


def test_few_or_large_items_are_none(shared: Any, client: redis.Redis) -> None:
    fill(shared, range(bundles.LEAST - 1))
    assert not any(bundled(shared, client))
    fill(shared, [bytes(20_000) for _ in range(40)])
    assert not any(bundled(shared, client))


def test_they_are_for_one_consumer(shared: Any, client: redis.Redis) -> None:
    """Several would get items out of order, since they give back to each other what they take."""
    fill(shared, range(40), alone=False)
    fill(shared, range(40), alone=False)
    assert not any(bundled(shared, client)), "nobody has come yet"
    assert shared.get(timeout=PATIENCE) == 0
    # The reply to the first of these puts tells.
    fill(shared, range(40), alone=False)
    fill(shared, range(40), alone=False)
    assert sum(bundled(shared, client)) == 2
    other = another(shared)
    other.get(time.monotonic() + PATIENCE)
    fill(shared, range(40), alone=False)
    assert shared._producer._producer().alone_at == -math.inf
    other.handle.disconnect()


@pytest.mark.parametrize(
    "make",
    [
        lambda url: mp.JoinableQueue(url=url),
        lambda url: mp.Queue(name="with-a-name", url=url),
        lambda url: mp.Queue(50, url=url),
    ],
)
def test_queues_that_have_none(make: Callable[[str], Any], url: str, client: redis.Redis) -> None:
    """Items are done one by one; others may read it; or the bound is too small for them."""
    made = make(url)
    try:
        fill(made, range(40))
        assert bundled(made, client) == [False] * 40
        assert [made.get(timeout=PATIENCE) for _ in range(40)] == list(range(40))
    finally:
        made.delete()
        made.close()


def test_what_unpickles_only_once_goes_alone(shared: Any, client: redis.Redis) -> None:
    """As an item of a bundle may be unpickled again."""
    ours, theirs = multiprocessing.Pipe()
    fill(shared, [*range(40), theirs, *range(40)])
    assert bundled(shared, client) == [False] * 81
    ours.close()
    theirs.close()


def test_a_bound_is_kept(url: str) -> None:
    made: Any = mp.Queue(100, url=url)
    try:
        for number in range(100):
            made.put(number, timeout=PATIENCE)
        with pytest.raises(queue.Full):
            made.put(100, block=False)
        assert made.full()
        assert [made.get(timeout=PATIENCE) for _ in range(3)] == [0, 1, 2]
        for number in range(100, 103):
            made.put(number, timeout=PATIENCE)
        with pytest.raises(queue.Full):
            made.put(103, block=False)
        assert made.qsize() == 100
        assert [made.get(timeout=PATIENCE) for _ in range(100)] == list(range(3, 103))
        assert made.empty()
    finally:
        made.delete()
        made.close()


@pytest.mark.parametrize("bound", [0, 100])
def test_between_processes(bound: int, url: str, client: redis.Redis) -> None:
    context = mp.get_context("fork")
    made: Any = mp.Queue(bound, url=url)
    name = made.name
    producers = [context.Process(target=produce, args=(made, number)) for number in range(2)]
    for process in producers:
        process.start()
    got = [made.get(timeout=PATIENCE) for _ in range(2 * 10 * MANY)]
    for process in producers:
        process.join(PATIENCE)
        assert process.exitcode == 0
    for number in range(2):
        assert [value for who, value in got if who == number] == list(range(10 * MANY))
    assert made.empty()
    made.delete()
    made.close()
    assert not keys_left(client, name)


def produce(made: Any, who: int) -> None:
    for number in range(10 * MANY):
        made.put((who, number), timeout=PATIENCE)


# Whoever doesn't need all of it


def test_the_size_is_exact_amid_one(filled: Any) -> None:
    got: list[Any] = []
    get_into_one(filled, got)
    assert filled.qsize() == MANY - len(got)
    assert not filled.empty()
    assert rest_of(filled, got) == list(range(MANY))


def test_a_slow_consumer_gives_the_rest_back(filled: Any, client: redis.Redis) -> None:
    got: list[Any] = []
    get_into_one(filled, got)
    core = filled._remote.core
    eventually(lambda: not core.has_ahead and not filled._remote.handle.prefetch.under_way)
    taken = [core.protocol.keys.taken(consumer) for consumer in core.consumers()]
    eventually(lambda: not any(client.llen(one) for one in taken))
    other = another(filled)
    got.append(other.get(time.monotonic() + PATIENCE))
    other.handle.disconnect()
    assert rest_of(filled, got) == list(range(MANY))


def is_empty_handed(one: Any) -> bool:
    return not one.core.has_ahead


def test_it_keeps_nothing_that_others_wait_for(
    shared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even until the keeper looks."""
    consumers = [another(shared), shared._remote]
    until = time.monotonic() + PATIENCE
    fill(shared, range(2))
    got = [one.get(until) for one in consumers]
    fill(shared, range(2, MANY))
    # The keeper would look after a moment, and is not waited for here.
    monkeypatch.setattr("pressure.keeper.TICK", PATIENCE)
    while len(got) < MANY:
        for one in consumers:
            # It is slow: it gets an item, and works for a while.
            one._pace._last = one._unpacker._looked = 0.0
            got.append(one.get(until))
            eventually(partial(is_empty_handed, one))
    assert got == list(range(MANY))
    consumers[0].handle.disconnect()


def test_an_item_that_cannot_be_read(shared: Any, client: redis.Redis) -> None:
    objects: list[Any] = list(range(MANY))
    objects[70] = Broken()
    fill(shared, objects)
    got: list[Any] = []
    with pytest.raises(pressure.PayloadError, match="not today"):
        rest_of(shared, got := [])
    got = [shared.get(timeout=PATIENCE) for _ in range(MANY - 71)]
    assert got == list(range(71, MANY))
    letters = client.lrange(shared._remote.core.protocol.keys.dead_letters, 0, -1)
    assert len(letters) == 1
    assert shared.empty()


class Broken:
    def __reduce__(self) -> Any:
        return refuse, ()


def refuse() -> NoReturn:
    raise RuntimeError("not today")


def test_one_that_was_altered_is_refused(
    url: str, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRESSURE_KEY", "k" * 32)
    shared: Any = mp.Queue(url=url)
    fill(shared)
    base = shared._remote.core.protocol.keys.base
    items: Any = client.lrange(base, 0, -1)
    at = next(at for at, item in enumerate(items) if bundles.is_bundle(item))
    client.lset(base, at, items[at][:-1] + b"!")
    inside = len(bundles.split(items[at][envelope.HEADER_BYTES :]))
    got: list[Any] = []
    refused = 0
    while len(got) < MANY - inside:
        try:
            got.append(shared.get(timeout=PATIENCE))
        except pressure.PayloadError:
            refused += 1
    assert refused == 1
    assert len(set(got)) == len(got)
    assert shared.empty()
    shared.delete()
    shared.close()


def test_threads_share_one(filled: Any) -> None:
    assert sorted(got_by_threads(filled, MANY)) == list(range(MANY))
    assert filled.empty()


# When something goes wrong


@pytest.mark.parametrize("when", ["before", "after", "last"])
def test_a_get_that_is_cut_short_loses_no_item(
    when: str, filled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C comes as it hands out an item."""
    got: list[Any] = []
    get_into_one(filled, got)
    unpacker = filled._remote._unpacker
    unpack = unpacker.unpack
    if when == "last":
        while len(filled._remote.core.opened.bundles[0].bodies) > 1:
            got.append(filled.get(timeout=PATIENCE))

    def cut_short(part: Any, **more: Any) -> NoReturn:
        if when != "before":
            unpack(part, **more)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(unpacker, "unpack", cut_short)
        with pytest.raises(KeyboardInterrupt):
            filled.get(timeout=PATIENCE)
    assert rest_of(filled, got) == list(range(MANY))
    assert filled.empty()


def test_the_lease_is_lost_amid_one(filled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of it is somebody else's, and all of it comes again."""
    stop_keeping(filled, monkeypatch)
    got: list[Any] = []
    get_into_one(filled, got)
    remote = filled._remote
    before = len(got) - len(remote.core.opened.bundles[0].bodies)
    for consumer in remote.core.consumers():
        remote.handle.ask(remote.core.protocol.reap(consumer, force=True))
    remote.handle.give_back_ahead()
    again: list[Any] = []
    with contextlib.suppress(queue.Empty):
        while True:
            again.append(filled.get(timeout=1.0))
    assert again == list(range(again[0], MANY))
    assert before <= again[0] <= len(got), "no more than what was not acknowledged"


def is_cut(words: tuple[bytes, ...]) -> bool:
    return words[0] == b"EVALSHA" and words[1] == SCRIPTS["cut"].sha.encode()


@pytest.mark.parametrize("lose", ["reply", "request"])
def test_a_cut_that_is_lost(lose: str, url: str, client: redis.Redis) -> None:
    client.script_load(SCRIPTS["cut"].text)
    with FaultyProxy(url) as proxy:
        made: Any = mp.Queue(url=proxy.url)
        fill(made)
        got: list[Any] = []
        get_into_one(made, got)
        drop = proxy.drop_next_reply if lose == "reply" else proxy.drop_next_request
        fault = drop(is_cut)
        assert made.qsize() == MANY - len(got)
        assert fault.struck
        assert rest_of(made, got) == list(range(MANY))
        assert made.empty()
        made.delete()
        made.close()


@pytest.mark.parametrize("done", [False, True])
def test_a_cut_that_is_cut_short(done: bool, filled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By Ctrl-C, before or after the server has carried it out."""
    stop_keeping(filled, monkeypatch)
    got: list[Any] = []
    get_into_one(filled, got)
    execute = Link.execute

    def cut_short(link: Link, command: Any, *more: Any) -> Any:
        if command.script is None or command.script.name != "cut":
            return execute(link, command, *more)
        if done:
            execute(link, command, *more)
        link.close()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Link, "execute", cut_short)
        with pytest.raises(KeyboardInterrupt):
            filled.qsize()
    assert rest_of(filled, got) == list(range(MANY))
    assert filled.empty()


def test_the_server_is_away_when_one_is_to_be_cut(
    url: str, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.script_load(SCRIPTS["cut"].text)
    with FaultyProxy(url) as proxy:
        made: Any = mp.Queue(url=proxy.url)
        fill(made)
        stop_keeping(made, monkeypatch)
        got: list[Any] = []
        get_into_one(made, got)
        proxy.refuse()
        proxy.cut()
        with pytest.raises(pressure.PressureError):
            made._remote.handle.give_back_ahead(0.0)
        for bundle in made._remote.core.opened.bundles:
            bundle.doubtful = True
        back = threading.Timer(1.5, proxy.accept)
        back.start()
        assert rest_of(made, got) == list(range(MANY))
        back.join()
        assert made.empty()
        made.delete()
        made.close()


@pytest.fixture
def slow_one(shared: Any) -> Iterator[Any]:
    """A queue whose first items were got, and another thread that is getting the next one."""
    Slow.begun.clear()
    Slow.go_on.clear()
    objects: list[Any] = list(range(MANY))
    objects[40] = Slow()
    fill(shared, objects)
    assert [shared.get(timeout=PATIENCE) for _ in range(40)] == list(range(40))
    got: list[Any] = []
    getting = threading.Thread(target=lambda: got.append(shared.get(timeout=PATIENCE)), daemon=True)
    getting.start()
    assert Slow.begun.wait(PATIENCE)
    shared.slow_got = got
    yield shared
    Slow.go_on.set()
    getting.join(PATIENCE)
    assert not getting.is_alive()


def test_an_item_that_takes_long_to_unpickle_is_not_lost(slow_one: Any) -> None:
    """Should its process be killed meanwhile; nor does what was got before come again."""
    remote = slow_one._remote
    eventually(lambda: not remote.core.has_ahead)
    eventually(lambda: not any(session.pending for session in remote.core.sessions))
    # As after its death.
    for consumer in remote.core.consumers():
        remote.handle.ask(remote.core.protocol.reap(consumer, force=True))
    Slow.go_on.set()
    eventually(lambda: slow_one.slow_got)
    other = another(slow_one)
    left = [other.get(time.monotonic() + PATIENCE) for _ in range(MANY - 41)]
    assert {*left, *slow_one.slow_got} == {"slow", *range(41, MANY)}
    other.handle.disconnect()


class Getting:
    """Its unpickling gets the next item of the queue."""

    made: Any = None

    def __reduce__(self) -> Any:
        return get_another, ()


def get_another() -> tuple[str, Any]:
    opened_ones = Getting.made._remote.core.opened
    (bundle,) = opened_ones.bundles
    another_one = Getting.made.get(timeout=PATIENCE)
    # What is in hand still is no less in the queue than what nobody has.
    assert not bundle.bodies and (bundle.in_hand or bundle.doubtful)
    assert bundle in opened_ones.bundles
    return "nested", another_one


def test_the_last_item_of_one_is_in_hand(shared: Any, client: redis.Redis) -> None:
    """While another is got: the bundle is looked after until that reaches its caller."""
    Getting.made = shared
    objects: list[Any] = list(range(2 * bundles.MOST + 1))
    last = bundles.MOST - 1
    objects[last] = Getting()
    fill(shared, objects)
    assert bundled(shared, client) == [False, True, True]
    assert [shared.get(timeout=PATIENCE) for _ in range(last)] == objects[:last]
    assert shared.get(timeout=PATIENCE) == ("nested", last + 1)
    rest = objects[last + 2 :]
    assert [shared.get(timeout=PATIENCE) for _ in rest] == rest
    assert shared.empty()
    Getting.made = None


def get_first(made: Any, told: Any) -> None:
    for _ in range(11):
        made.get(timeout=PATIENCE)
    told.send(None)
    # Not before the parent has looked.
    assert told.poll(PATIENCE)


def waits(admin: Any) -> bool:
    """Whether somebody is blocked for an item."""
    return any(one["cmd"] == "blmove" and "b" in one["flags"] for one in admin.client_list())


@pytest.mark.parametrize("bound", [0, 1000])
def test_the_size_is_exact_amid_one_that_was_waited_for(bound: int, url: str) -> None:
    made: Any = mp.Queue(bound, url=url)
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=get_first, args=(made, theirs))
    process.start()
    made.put("single")
    with redis.from_url(as_admin(url)) as admin:
        eventually(lambda: made.empty() and waits(admin))
    fill(made)
    assert ours.poll(PATIENCE)
    assert made.qsize() == MANY - 10
    ours.send(None)
    process.join(PATIENCE)
    assert process.exitcode == 0
    made.delete()
    made.close()


class Slow:
    begun = threading.Event()
    go_on = threading.Event()

    def __reduce__(self) -> Any:
        return slowly, ()


def slowly() -> str:
    Slow.begun.set()
    assert Slow.go_on.wait(PATIENCE)
    return "slow"


def test_ctrl_c_as_the_next_one_is_looked_up(filled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before `get` knows of it."""
    got: list[Any] = []
    get_into_one(filled, got)

    class Interrupted(opened.Part):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(opened, "Part", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            filled.get(timeout=PATIENCE)
    assert rest_of(filled, got) == list(range(MANY))
    assert filled.empty()
    core = filled._remote.core
    assert not any(session.opening for session in core.sessions)


def test_an_item_is_taken_back_once(filled: Any) -> None:
    got: list[Any] = []
    get_into_one(filled, got)
    found = filled._remote.core.opened
    part = found.next(time.monotonic())
    assert part is not None
    found.take_back(part)
    found.take_back(part)
    assert rest_of(filled, got) == list(range(MANY))


def test_there_is_no_room_for_one(url: str, client: redis.Redis) -> None:
    """But for some of its items, and then for the others."""
    made: Any = mp.Queue(100, url=url)
    for number in range(90):
        made.put(number, timeout=PATIENCE)
    filling = threading.Thread(target=fill, args=(made, range(90, 130)), daemon=True)
    filling.start()
    eventually(lambda: made._remote.size().length == 100)
    before = commands(client)
    time.sleep(0.3)
    assert commands(client) - before < 100, "it waits, and doesn't ask again and again"
    # What is buffered here must not be waited for.
    until = time.monotonic() + PATIENCE
    assert [made._remote.get(until) for _ in range(130)] == list(range(130))
    filling.join(PATIENCE)
    made.delete()
    made.close()


def commands(client: redis.Redis) -> int:
    stats: Any = client.info("stats")
    return int(stats["total_commands_processed"])


# Whoever comes by the queue's name


def test_a_queue_of_that_name(filled: Any, url: str) -> None:
    other: Any = mp.Queue(name=filled.name, url=url)
    assert [other.get(timeout=PATIENCE) for _ in range(MANY)] == list(range(MANY))
    other.close()


@pytest.mark.parametrize("leased", [False, True])
def test_a_pressure_queue_of_that_name(leased: bool, filled: Any, client: redis.Redis) -> None:
    remote = filled._remote
    with pressure.PressureQueue[int](
        filled.name, client=client, prefix=remote.where.prefix, codec=remote.core.serializer
    ) as other:
        got = []
        for _ in range(MANY):
            if leased:
                with other.lease(timeout=PATIENCE) as number:
                    got.append(number)
            else:
                got.append(other.get(timeout=PATIENCE))
        assert got == list(range(MANY))
        assert not list(other.dead_letters)
    assert filled.empty()


@pytest.mark.parametrize("way", ["get_many", "iterate", "peek"])
def test_other_ways_to_get_them(way: str, filled: Any, client: redis.Redis) -> None:
    remote = filled._remote
    with pressure.PressureQueue[int](
        filled.name, client=client, prefix=remote.where.prefix, codec=remote.core.serializer
    ) as other:
        got: list[int] = []
        if way == "peek":
            assert other.peek() == 0
        elif way == "get_many":
            while len(got) < MANY:
                got += other.get_many(40, timeout=PATIENCE)
        else:
            for number in other:
                got.append(number)
                if len(got) == MANY:
                    break
        assert got == list(range(len(got)))
        assert not list(other.dead_letters)


def test_a_signal_handler_that_gets(filled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Just as the next item is looked up."""
    got: list[Any] = []
    get_into_one(filled, got)
    between: list[Any] = []

    class Interrupted(opened.Part):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            if not between:
                between.append(None)
                between[0] = filled.get(timeout=PATIENCE)

    with monkeypatch.context() as patched:
        patched.setattr(opened, "Part", Interrupted)
        got += [filled.get(timeout=PATIENCE), *between]
    assert sorted(rest_of(filled, got)) == list(range(MANY))
    assert filled.empty()


def test_others_see_how_many_are_left(filled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a moment they may see some of the last bundle that were handed out."""
    other = another(filled)
    assert rest_of(filled, []) == list(range(MANY))
    assert other.size().length == 0
    other.handle.disconnect()


def get_some(made: Any, sent: Any, how_many: int) -> None:
    for _ in range(how_many):
        sent.put(made.get(timeout=PATIENCE))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_that_ends_amid_one_gives_the_rest_back(method: str, url: str) -> None:
    context = mp.get_context(method)
    made: Any = mp.Queue(url=url)
    sent: Any = mp.SimpleQueue(url=url)
    fill(made)
    process = context.Process(target=get_some, args=(made, sent, 50))
    process.start()
    process.join(PATIENCE)
    assert process.exitcode == 0
    got = [sent.get() for _ in range(50)]
    assert rest_of(made, got) == list(range(MANY))
    for one in (made, sent):
        one.delete()
        one.close()


def get_some_and_die(made: Any, sent: Any, how_many: int) -> None:
    get_some(made, sent, how_many)
    core = made._remote.core
    eventually(lambda: not (core.has_ahead or any(one.pending for one in core.sessions)))
    eventually(lambda: made._remote.size().ahead == 0)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_after_a_while_had_given_the_rest_back(url: str) -> None:
    context = mp.get_context("fork")
    made: Any = mp.Queue(url=url)
    sent: Any = mp.SimpleQueue(url=url)
    fill(made)
    process = context.Process(target=get_some_and_die, args=(made, sent, 50))
    process.start()
    process.join(PATIENCE)
    assert process.exitcode == -signal.SIGKILL
    got = [sent.get() for _ in range(50)]
    assert rest_of(made, got) == list(range(MANY))
    for one in (made, sent):
        one.delete()
        one.close()


def test_a_fork_amid_one_leaves_it_to_the_parent(filled: Any, url: str) -> None:
    got: list[Any] = []
    get_into_one(filled, got)
    sent: Any = mp.SimpleQueue(url=url)
    process = mp.get_context("fork").Process(target=get_some, args=(filled, sent, 1))
    process.start()
    process.join(PATIENCE)
    assert process.exitcode == 0
    got.append(sent.get())
    assert sorted(rest_of(filled, got)) == list(range(MANY))
    sent.delete()
    sent.close()
