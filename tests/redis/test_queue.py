"""`PressureQueue` on a real server: what it does beyond `queue.Queue`, and how it says no."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar, cast

import pytest
import redis

import pressure
import pressure.aio
from pressure import PressureQueue, Settings, blobs, flows, lifecycle, recovering, upkeep
from pressure.core import Core
from pressure.driver import resumed
from pressure.link import Link
from pressure.protocol import Acks, Command, Protocol, Status
from pressure.requests import Flow, Sleep
from pressure.retry import Broken
from pressure.scripts import SCRIPTS
from pressure.session import Session
from pressure.taking import take
from tests.redis import workers
from tests.support.processes import Child
from tests.support.proxy import FaultyProxy
from tests.support.servers import ServerProcess
from tests.support.waiting import eventually

Queue = PressureQueue[Any]
WAIT = 20.0


@pytest.fixture
def make(url: str, queue_name: str) -> Iterator[Callable[..., Queue]]:
    """Makes handles to the test's queue."""
    made: list[Queue] = []

    def make_one(**options: Any) -> Queue:
        made.append(Queue(queue_name, **({"url": url} | options)))
        return made[-1]

    yield make_one
    for q in made:
        q.disconnect()


@pytest.fixture
def q(make: Callable[..., Queue]) -> Queue:
    """A handle to a queue that exists."""
    q = make()
    q.create()
    return q


def in_thread(call: Callable[[], object]) -> Callable[[], Any]:
    """Start the call in a thread; what is returned waits for its result or exception."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(call())
        except Exception as exc:
            outcome.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def result() -> object:
        thread.join(WAIT)
        assert outcome, "the caller still waits"
        return outcome[0]

    return result


def blocked(q: Queue, count: int) -> None:
    """Return once so many consumers are blocked at the server."""
    command = Command(("HLEN", q._core.protocol.keys.waiters))
    assert eventually(lambda: q._handle.ask(command) == count)


def waits_for_room(client: redis.Redis) -> bool:
    """Whether a put is blocked at the server."""
    return any("b" in one["flags"] and one["cmd"] == "blpop" for one in client.client_list())


# The published example, and life


def test_a_bound_that_is_no_number(
    q: Queue, make: Callable[..., Queue], client: redis.Redis
) -> None:
    """Something else has written the key."""
    client.set(q._core.protocol.keys.bound, "junk")
    with pytest.raises(pressure.PressureError, match=r":bound holds no number: .*delete it"):
        make().put(1)
    client.set(q._core.protocol.keys.bound, "1")
    q.put(1, timeout=WAIT)
    assert make().get(timeout=WAIT) == 1


@pytest.mark.parametrize("value", ["junk", "", "nan", "inf", "-inf", "1e999", "1" + "0" * 60, "-7"])
def test_counters_that_are_no_numbers(q: Queue, client: redis.Redis, value: str) -> None:
    """Something else has written them: the other numbers are still told."""
    keys = q._core.protocol.keys
    q.put(1)
    counters = (keys.produced_messages, keys.produced_bytes, keys.consumed_messages)
    for key in (*counters, keys.consumed_bytes, keys.orphans, keys.paused):
        client.set(key, value)
    client.hset(keys.prefetched, "*", "junk")
    client.hset(keys.prefetched, "#", "")
    stats = q.stats()
    assert (stats.length, stats.fetched_ahead, q.qsize()) == (1, 0, 1)
    assert all(
        -(2**53) <= number <= 2**53
        for number in (stats.produced_messages, stats.produced_bytes, stats.orphans)
    )
    now = client.time()[0]
    assert stats.paused_at is not None and 0 < stats.paused_at <= now + 1
    assert q.paused
    client.delete(keys.prefetched)
    q.resume()
    assert q.stats().paused_at is None
    client.set(keys.bound, value)
    client.delete(*counters)
    if value in ("junk", "", "nan", "-inf", "-7"):
        with pytest.raises(pressure.PressureError, match=r":bound holds no number"):
            q.stats()
        with pytest.raises(pressure.PressureError, match=r":bound holds no number"):
            assert q.maxsize
    else:
        assert q.stats().bound == 2**53
    assert q.qsize() == 1


def test_the_published_example(url: str, queue_name: str) -> None:
    q = Queue(queue_name, url=url)
    q.create(bound=2)
    other = Queue(queue_name, url=url)
    q.put({"any": "object"})
    q.put("two")
    assert q.full()
    q.close()
    assert list(other) == [{"any": "object"}, "two"]
    assert q.closed()
    other.delete()
    assert not q.exists


def test_a_late_move_does_not_end_a_closed_queue_early(
    make: Callable[..., Queue], client: redis.Redis
) -> None:
    """The block of a connection that was given up ends in an item, after its consumer has a new
    name; then the queue is closed."""
    q = make()
    q.create()
    q.put(1)
    assert q.get() == 1
    (session,) = (each for each in q._core.sessions if each.known)
    keys = q._core.protocol.keys
    old = keys.taken(session.consumer)
    # The keeper has sent the acknowledgement, and has no business with it any more.
    assert eventually(lambda: not session.pending and session in q._handle._consumers)
    session.stale = True
    q.put(2)
    assert q.get() == 2
    q.put(3)
    (item,) = client.lrange(keys.base, 0, -1)
    client.lpush(old, item)
    client.delete(keys.base)
    q.close()
    assert q.get(timeout=WAIT) == 3
    with pytest.raises(pressure.QueueClosedError):
        q.get(timeout=WAIT)


@pytest.mark.parametrize("how", ["get", "iterate", "get_many", "lease", "asyncio"])
def test_a_closed_queue_does_not_end_before_what_the_dead_held(
    make: Callable[..., Queue], url: str, client: redis.Redis, how: str
) -> None:
    """The lease of its only consumer has run out, and nobody noticed before it was closed."""
    holder, q = make(), make()
    holder.create()
    core, handle = holder._core, holder._handle
    # Nobody renews the lease of a session that the handle doesn't know.
    session = Session(Link(handle.address))
    holder.put("precious")
    assert len(handle.run(take(core, session, 1, None), session).items) == 1
    client.zadd(core.protocol.keys.leases, {session.consumer: 1})
    q.close()

    async def on_a_loop() -> list[Any]:
        async with pressure.aio.PressureQueue[Any](q.name, url=url) as queue:
            return [item async for item in queue]

    got: dict[str, Callable[[], object]] = {
        "get": lambda: [q.get(timeout=WAIT)],
        "iterate": lambda: list(q),
        "get_many": lambda: q.get_many(5, timeout=WAIT),
        "lease": lambda: [q.lease(timeout=WAIT).item],
        "asyncio": lambda: asyncio.run(on_a_loop()),
    }
    assert got[how]() == ["precious"]
    session.link.close()


def test_a_closed_queue_does_not_end_while_something_is_given_back(
    make: Callable[..., Queue],
) -> None:
    """What a call had taken that was cut short is back after the server has said that nothing is
    left, and before that is read."""
    q = make()
    q.create()
    q.put(1)
    core, handle = q._core, q._handle
    cut_short, taking = handle.acquire(taking=True), handle.acquire(taking=True)
    handle.run(take(core, cut_short, 1, None), cut_short)
    cut_short.stale = True
    q.close()
    flow = take(core, taking, 1, None)
    reply = taking.link.execute(cast(Command, next(flow)))
    assert reply[0] == Status.CLOSED
    handle.run(upkeep.settle(core, cut_short), cut_short)
    assert len(handle.run(resumed(flow.send(reply), flow), taking).items) == 1
    handle.release(cut_short)
    handle.release(taking)


@pytest.fixture
def lost(q: Queue) -> Session[Any]:
    """A session that holds the item 1, whose reply was lost, of a handle that has another one, last
    used; 2 waits in the queue."""
    core, handle = q._core, q._handle
    handle.call(flows.describe(core))
    lost, other = handle.acquire(taking=True), handle.acquire(taking=True)
    handle.run(take(core, other, 1, 0.0), other)
    q.put_many([1, 2])
    handle.run(take(core, lost, 1, None), lost)
    lost.stale = True
    handle.release(lost)
    handle.release(other)
    return lost


def test_an_item_whose_reply_was_lost_comes_before_later_ones(q: Queue, lost: Session[Any]) -> None:
    assert [q.get(timeout=WAIT), q.get(timeout=WAIT)] == [1, 2]
    assert not lost.stale


def test_what_is_being_given_back_comes_before_later_items(
    q: Queue, lost: Session[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The background thread has begun to see to it; who gets then waits for that."""
    monkeypatch.setattr("pressure.sessions.FAREWELL", WAIT)
    handle = q._handle
    due = handle._borrow(lambda session: session.stale)
    got = in_thread(lambda: q.get(timeout=WAIT))
    for session in due:
        handle._settle(session)
    handle._return(due)
    assert got() == 1


def test_what_ends_a_wait_cannot_be_reached(
    make: Callable[..., Queue], q: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An item comes at the last moment, and the connection over which the wait is to be ended
    can't be made: whether it came is found out."""
    other = make()

    def unreachable(waiter: str) -> None:
        other.put(1)
        monkeypatch.undo()
        raise Broken(ConnectionRefusedError(), sent=False)

    monkeypatch.setattr(q._handle._control, "unblock", unreachable)
    assert q.get(timeout=0.2) == 1
    other.put(2)
    assert q.get(timeout=WAIT) == 2


def test_nobody_waits_for_ever_for_what_is_given_back(
    q: Queue, lost: Session[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pressure.sessions.FAREWELL", 0.05)
    due = q._handle._borrow(lambda session: session.stale)
    assert q.get(timeout=WAIT) == 2
    q._handle._return(due)
    assert q.get(timeout=WAIT) == 1


def test_disconnect_waits_for_what_is_being_acknowledged(
    q: Queue, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The background thread has just begun to see to it: whoever ends then leaves nothing."""
    monkeypatch.setattr("pressure.handle.FAREWELL", WAIT)
    begun, disconnecting = threading.Event(), threading.Event()
    acknowledge = q._handle._settle

    def slowly(session: Any, until: float) -> None:
        begun.set()
        assert disconnecting.wait(WAIT)
        time.sleep(0.1)
        acknowledge(session, until)

    monkeypatch.setattr(q._handle, "_settle", slowly)
    q.put(1)
    assert q.get() == 1
    assert begun.wait(WAIT)
    disconnecting.set()
    q.disconnect()
    assert not client.keys(f"*{q.name}:taken:*")
    assert not q._core.consumers()


def test_create_close_delete(make: Callable[..., Queue]) -> None:
    q = make()
    assert not q.exists
    for operation in (q.get, q.qsize, q.close, q.delete, q.closed, lambda: q.put(1), q.peek):
        with pytest.raises(pressure.QueueDoesNotExistError, match=q.name):
            operation()
    q.create(bound=3)
    assert make().exists
    assert (q.closed(), q.maxsize) == (False, 3)
    with pytest.raises(pressure.QueueAlreadyExistsError):
        make().create()
    q.close()
    with pytest.raises(pressure.QueueClosedError):
        q.close()
    with pytest.raises(pressure.QueueClosedError):
        q.put(1)
    q.delete()
    q.create()
    assert not q.closed() and q.maxsize == 0
    q.put(1)
    assert q.get() == 1


@pytest.mark.leaves_no_keys
def test_delete_leaves_no_key(make: Callable[..., Queue]) -> None:
    q, other = make(), make()
    q.create(5)
    q.put_many([b"x" * 200_000, 1, 2, 3])
    held = other.lease()
    assert q.get() == 1
    assert len(held.item) == 200_000
    q.task_done()
    assert other.get_many(10) == [2, 3]
    waiter = in_thread(other.get)
    blocked(q, 1)
    q.delete()
    outcome = waiter()
    assert isinstance(outcome, pressure.QueueDoesNotExistError), outcome
    with pytest.raises(pressure.LeaseLostError):
        held.ack()
    # What the keeper does later leaves nothing, either.
    other._handle.maintain(time.monotonic() + 100)
    q._handle.maintain(time.monotonic() + 100)


def test_disconnect_leaves_nothing_of_the_handle(
    q: Queue, make: Callable[..., Queue], client: redis.Redis
) -> None:
    other = make()
    q.put_many(range(3))
    assert other.get() == 0
    lease = other.lease()
    other.put(3)
    other.disconnect()
    keys = q._core.protocol.keys
    assert client.zcard(keys.leases) == 0
    assert client.hlen(keys.waiters) == client.hlen(keys.prefetched) == 0
    assert client.keys(f"*{q.name}:taken:*") == []
    with pytest.raises(pressure.LeaseLostError):
        lease.ack()
    assert [q.get() for _ in range(3)] == [1, 2, 3]
    assert other.empty(), "a handle can be used again"


def test_a_successor_is_another_queue(q: Queue, make: Callable[..., Queue]) -> None:
    """A handle that slept while its queue was made anew goes on with the new one."""
    other = make()
    other.put(1)
    assert other.get() == 1
    q.delete()
    q.create(1)
    other.put(2)
    assert other.get() == 2
    assert other.maxsize == 1


# A lease that is lost while an item is read


class Stolen:
    """While it is unpickled for the first time, which fails, `steal` lets another consumer have
    it."""

    steal: ClassVar[list[Callable[[], object]]] = []

    def __init__(self, size: int) -> None:
        self._padding = b"x" * size

    def __reduce__(self) -> Any:
        return Stolen.read, (self._padding,)

    @classmethod
    def read(cls, padding: bytes) -> str:
        if cls.steal:
            cls.steal.pop()()
            raise ValueError("it is gone")
        return "stolen"


@pytest.fixture
def robbed(make: Callable[..., Queue]) -> Iterator[Callable[[Core[Any], list[Any]], None]]:
    """`robbed(core, items)`: the next `Stolen` that this handle reads, and what else it holds, are
    another's then, who gets `items`."""

    def prepare(core: Core[Any], items: list[Any]) -> None:
        def steal() -> None:
            thief = make()
            for consumer in core.consumers():
                thief._handle.ask(core.protocol.reap(consumer, force=True))
            assert [thief.get(timeout=WAIT) for _ in items] == items
            thief.disconnect()

        Stolen.steal.append(steal)

    yield prepare
    Stolen.steal.clear()


Robbed = Callable[[Core[Any], list[Any]], None]


@pytest.mark.parametrize("size", [1, 2 * blobs.INLINE_BYTES], ids=["small", "large"])
@pytest.mark.parametrize("how", ["get", "iterate", "get_many", "lease", "asyncio"])
def test_what_was_lost_while_it_was_read_is_no_bad_item(
    make: Callable[..., Queue], url: str, robbed: Robbed, how: str, size: int
) -> None:
    producer, q = make(), make()
    producer.create()
    producer.put_many([Stolen(size), "next"])

    async def on_a_loop() -> Any:
        async with pressure.aio.PressureQueue[Any](q.name, url=url) as queue:
            robbed(queue._core, ["stolen"])
            return await queue.get(timeout=WAIT)

    taken: dict[str, Callable[[], object]] = {
        "get": lambda: q.get(timeout=WAIT),
        "iterate": lambda: next(iter(q)),
        "get_many": lambda: q.get_many(1, timeout=WAIT)[0],
        "lease": lambda: q.lease(timeout=WAIT).item,
        "asyncio": lambda: asyncio.run(on_a_loop()),
    }
    if how != "asyncio":
        robbed(q._core, ["stolen"])
    assert taken[how]() == "next"
    assert not Stolen.steal and len(q.dead_letters) == 0


@pytest.mark.parametrize("size", [1, 2 * blobs.INLINE_BYTES], ids=["small", "large"])
@pytest.mark.parametrize("how", ["get", "get_many", "asyncio"])
def test_what_was_fetched_ahead_and_lost_while_it_was_read_is_no_bad_item(
    make: Callable[..., Queue], url: str, robbed: Robbed, how: str, size: int
) -> None:
    producer, q = make(), make()
    producer.create()
    producer.put_many(["first", Stolen(size), "next"])

    async def on_a_loop() -> list[Any]:
        async with pressure.aio.PressureQueue[Any](q.name, url=url) as queue:
            robbed(queue._core, ["first", "stolen"])
            return [*await queue.get_many(2), await queue.get(timeout=WAIT)]

    if how == "asyncio":
        assert asyncio.run(on_a_loop()) == ["first", "next"]
    elif how == "get_many":
        robbed(q._core, ["first", "stolen"])
        assert [*q.get_many(2), q.get(timeout=WAIT)] == ["first", "next"]
    else:
        assert q._taker.get(None, 2) == "first"
        # The keeper may have acknowledged it.
        q._handle.flush_idle()
        robbed(q._core, ["stolen"])
        assert q.get(timeout=WAIT) == "next"
    assert not Stolen.steal and len(q.dead_letters) == 0


def test_the_queue_is_deleted_while_an_item_is_read(q: Queue, make: Callable[..., Queue]) -> None:
    q.put(Stolen(1))
    Stolen.steal.append(make().delete)
    with pytest.raises(pressure.QueueDoesNotExistError):
        q.get(timeout=WAIT)


def test_an_item_is_buried_although_the_reply_to_that_is_lost(
    q: Queue, url: str, make: Callable[..., Queue], client: redis.Redis
) -> None:
    """The repeat finds nothing to bury, and the caller hears of it all the same."""
    client.script_load(SCRIPTS["bury"].text)
    q.put(Stolen(1))
    Stolen.steal.append(lambda: None)
    with FaultyProxy(url) as proxy:
        shaky = make(url=proxy.url)
        assert shaky.qsize() == 1
        fault = proxy.drop_next_reply(lambda words: words[1:2] == (SCRIPTS["bury"].sha.encode(),))
        with pytest.raises(pressure.PayloadError):
            shaky.get(timeout=WAIT)
        assert fault.struck
        assert len(q.dead_letters) == 1
        shaky.disconnect()


# One handle, used by several threads


class Slow:
    """It is unpickled once `go` is set."""

    reading: ClassVar[threading.Event]
    go: ClassVar[threading.Event]

    def __reduce__(self) -> Any:
        return Slow.read, ()

    @classmethod
    def read(cls) -> str:
        cls.reading.set()
        assert cls.go.wait(WAIT)
        return "slow"


@pytest.mark.parametrize("how", ["get", "get_many"])
def test_what_is_read_while_another_thread_waits_with_its_session(q: Queue, how: str) -> None:
    Slow.reading, Slow.go = threading.Event(), threading.Event()
    many = ["second"] if how == "get_many" else []
    q.put_many(["first", *many, Slow()])
    assert q._taker.get(None, 3) == "first"
    getting = in_thread(lambda: q.get_many(2, WAIT) if many else [q.get(timeout=WAIT)])
    assert Slow.reading.wait(WAIT)
    waiting = in_thread(lambda: q.get(timeout=WAIT))
    blocked(q, 1)
    Slow.go.set()
    assert getting() == [*many, "slow"]
    for _ in range(len(many) + 2):
        q.task_done()
    with pytest.raises(ValueError):
        q.task_done()
    q.join(timeout=WAIT)
    q.put("end")
    assert waiting() == "end"
    q.task_done()
    q.join(timeout=WAIT)


def test_task_done_waits_for_the_acknowledgement_that_another_call_carries(
    q: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    got, carried, go_on = threading.Event(), threading.Event(), threading.Event()
    tried = threading.Semaphore(0)
    execute = Link.execute

    def held_up(link: Link, command: Command, *more: Any) -> Any:
        script = command.script.name if command.script else ""
        # Or the keeper is quicker than the other call.
        if script in ("take", "ack") and got.is_set():
            carried.set()
            assert go_on.wait(WAIT)
        reply = execute(link, command, *more)
        if script == "task_done":
            tried.release()
        return reply

    monkeypatch.setattr(Link, "execute", held_up)
    q.put("once")
    assert q.get() == "once"
    got.set()
    getting = in_thread(lambda: q.get(timeout=WAIT))
    assert carried.wait(WAIT)
    done = in_thread(q.task_done)
    for _ in range(3):
        assert tried.acquire(timeout=WAIT), done()
    go_on.set()
    assert done() is None
    with pytest.raises(ValueError):
        q.task_done()
    q.put("end")
    assert getting() == "end"


@pytest.fixture
def in_use(make: Callable[..., Queue]) -> Callable[[str], tuple[Queue, Session[Any]]]:
    """Makes a queue whose items b"1" and b"2" were handed out, while their session is in use."""

    def prepare(codec: str) -> tuple[Queue, Session[Any]]:
        q = make(codec=codec)
        q.create()
        q.put_many([b"1", b"2"])
        core, handle = q._core, q._handle
        handle.call(flows.describe(core))
        session = handle.acquire(taking=True)
        taken = handle.run(take(core, session, 2, None), session)
        # Until a test says otherwise: the keeper may look at any time.
        session.stale = True
        for item in taken.items:
            handle.owe(session, ("g", core.tag_of(item)))
        return q, session

    return prepare


InUse = Callable[[str], tuple[Queue, Session[Any]]]


@pytest.mark.parametrize("codec", ["pickle", "raw"])
@pytest.mark.parametrize("lost", ["nothing", "connection", "request", "reply"])
def test_an_acknowledgement_aside_may_be_lost(
    in_use: InUse, monkeypatch: pytest.MonkeyPatch, codec: str, lost: str
) -> None:
    q, session = in_use(codec)
    handle = q._handle
    ask = handle.ask_aside

    def lose(command: Command) -> object:
        if lost in ("nothing", "reply"):
            reply = ask(command)
        if lost != "nothing":
            raise Broken(OSError("lost"), sent=lost != "connection")
        return reply

    with monkeypatch.context() as patch:
        patch.setattr(handle, "ask_aside", lose)
        session.stale = False
        handle.flush_idle()
    handle.flush_idle()
    assert not session.aside
    handle.release(session)
    # Who can't know whether alike items were acknowledged lets them come again.
    again = [b"1", b"2"] if (codec, lost) == ("raw", "request") else []
    assert [q.get(timeout=WAIT) for _ in again] == again
    assert q.empty()
    q.task_done()
    q.task_done()
    q.join(timeout=WAIT)


def test_what_is_acknowledged_aside_may_be_forfeited(
    in_use: InUse, make: Callable[..., Queue]
) -> None:
    used, session = in_use("pickle")
    q = make()
    q._handle.ask(q._core.protocol.reap(session.consumer, force=True))
    session.stale = False
    used._handle.flush_idle()
    assert session.stale and used._core.forfeited
    used._handle.release(session)
    assert [q.get(timeout=WAIT) for _ in range(2)] == [b"1", b"2"]
    assert eventually(lambda: not (session.stale or session.aside))


def test_what_is_acknowledged_aside_is_found_under_a_new_name(in_use: InUse) -> None:
    q, session = in_use("pickle")
    q._handle.flush_idle()
    assert len(session.aside) == 2
    q._handle.release(session)
    assert eventually(lambda: not session.aside)
    assert q.empty() and q.unfinished_tasks == 2


@pytest.mark.parametrize("learns", ["get", "peek", "create", "keeper"])
def test_what_went_with_an_earlier_queue_is_no_lost_lease(
    make: Callable[..., Queue], learns: str
) -> None:
    """However a handle learns that others have made its queue anew, task_done() counts again."""
    q, other = (make(key="k" * 16) for _ in range(2))
    q.create()
    q.put(1)
    assert q.get() == 1
    other.delete()
    if learns == "keeper":
        q._handle.call(recovering.reap_due(q._core))
    (q if learns == "create" else other).create()
    other.put(2)
    if learns == "peek":
        assert q.peek() == 2
    assert q.get(timeout=WAIT) == 2
    q.task_done()
    with pytest.raises(ValueError):
        q.task_done()


class Waking:
    """A `delete` that takes its time to wake those who wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self._wake = lifecycle._wake
        monkeypatch.setattr(lifecycle, "_wake", self.slowly)

    def slowly(self, core: Core[Any], waiters: Any) -> Flow[None]:
        self.begun.set()
        while not self.go_on.is_set():
            yield Sleep(0.005)
        yield from self._wake(core, waiters)


def test_delete_leaves_alone_what_its_handle_has_of_a_successor(
    q: Queue, make: Callable[..., Queue], monkeypatch: pytest.MonkeyPatch, client: redis.Redis
) -> None:
    """Another thread got items of it, and fetched some ahead, while the old one was deleted."""
    q.put_many(["old"] * 4)
    assert q.get_many(2) == ["old"] * 2
    waking = Waking(monkeypatch)
    deleting = in_thread(q.delete)
    assert waking.begun.wait(WAIT)
    other = make()
    other.create()
    other.put_many(range(50))
    items = iter(q)
    got = [next(items)]
    while not q._core.buffer:
        got.append(next(items))
    waking.go_on.set()
    assert deleting() is None
    assert q._core.consumers()
    got += [q.get(timeout=WAIT) for _ in range(50 - len(got))]
    assert got == list(range(50))
    assert eventually(lambda: not client.keys(f"*{q.name}:taken:*")), "all are acknowledged"
    assert q.empty()


def test_delete_leaves_alone_what_its_asyncio_handle_has_of_a_successor(
    make: Callable[..., Queue],
    monkeypatch: pytest.MonkeyPatch,
    client: redis.Redis,
    url: str,
    queue_name: str,
) -> None:
    async def main() -> None:
        async with pressure.aio.PressureQueue[Any](queue_name, url=url) as q:
            await q.create()
            await q.put_many(["old"] * 4)
            assert await q.get_many(2) == ["old"] * 2
            waking = Waking(monkeypatch)
            deleting = asyncio.create_task(q.delete())
            await asyncio.to_thread(waking.begun.wait, WAIT)
            other = make()
            other.create()
            other.put_many(range(50))
            items = aiter(q)
            got = [await anext(items)]
            while not q._core.buffer:
                got.append(await anext(items))
            waking.go_on.set()
            await deleting
            assert q._core.consumers()
            got += [await q.get(timeout=WAIT) for _ in range(50 - len(got))]
            assert got == list(range(50))
            taken = f"*{queue_name}:taken:*"
            assert await asyncio.to_thread(eventually, lambda: not client.keys(taken))
            assert await q.empty()

    asyncio.run(main())


def test_a_repeated_delete_spares_the_successor(
    q: Queue, make: Callable[..., Queue], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reply is lost, and another thread learns of the successor before it is sent again."""
    other = make()
    execute = Link.execute

    def lose(link: Link, command: Command, *more: Any) -> Any:
        reply = execute(link, command, *more)
        if command.script is not None and command.script.name == "delete":
            monkeypatch.undo()
            other.create()
            q._handle.call(flows.describe(q._core))
            raise Broken(OSError("lost"), sent=True)
        return reply

    monkeypatch.setattr(Link, "execute", lose)
    q.delete()
    assert q.exists


# Many at once


def test_many_processes(
    q: Queue, url: str, spawn_child: Callable[..., Child], client: redis.Redis
) -> None:
    q.maxsize = 10
    producers = [spawn_child(workers.produce, url, q.name, first, 100) for first in (0, 1000)]
    consumers = [spawn_child(workers.consume, url, q.name) for _ in range(2)]
    longest = 0
    while any(producer.running for producer in producers):
        longest = max(longest, client.llen(q._core.protocol.keys.base))
    assert [producer.wait() for producer in producers] == [0, 0]
    q.close()
    got = [number for consumer in consumers for number in consumer.wait_for("got")]
    assert sorted(got) == [*range(100), *range(1000, 1100)]
    assert longest <= 10


def test_waiting_costs_little(make_server: Callable[..., ServerProcess]) -> None:
    server = make_server()
    q, other = Queue("q", url=server.url), Queue("q", url=server.url)
    q.create(1)
    waiters = [in_thread(q.get) for _ in range(4)]
    full = Queue("full", url=server.url)
    full.create(1)
    full.put(0)
    waiters += [in_thread(lambda: full.put(1)) for _ in range(2)]
    blocked(q, 4)
    with server.client() as client:
        # Whatever just came is still being settled.
        time.sleep(0.3)
        before = client.info("commandstats")
        time.sleep(4.0)
        after = client.info("commandstats")
    calls = sum(
        stats["calls"] - before.get(name, {"calls": 0})["calls"]
        for name, stats in after.items()
        # Scripts are counted once, not each command within.
        if name.removeprefix("cmdstat_") in ("evalsha", "blmove", "blpop", "info", "client|unblock")
    )
    assert calls / 4.0 / 6 <= 1.5, f"{calls} commands in 4 s for 6 waiters"
    started = time.monotonic()
    for number in range(4):
        other.put(number, timeout=WAIT)
    assert sorted(waiter() for waiter in waiters[:4]) == [0, 1, 2, 3]
    full.get()
    full.get(timeout=WAIT)
    assert [waiter() for waiter in waiters[4:]] == [None, None]
    assert time.monotonic() - started < 1.5, "they were not woken, but looked again by themselves"


# Batches


def test_put_many_says_how_many_were_accepted(q: Queue) -> None:
    assert q.put_many(range(2500)) == 2500
    assert q.put_many([]) == 0
    assert q.get_many(5000) == list(range(2500))
    q.maxsize = 10
    with pytest.raises(pressure.QueueFullError) as full:
        q.put_many(range(100), timeout=0.1)
    assert full.value.accepted == 10
    assert q.get_many(100) == list(range(10))
    q.close()
    with pytest.raises(pressure.QueueClosedError) as closed:
        q.put_many(range(5))
    assert closed.value.accepted == 0


def test_a_handle_that_has_not_seen_the_bound_refuses_negative_timeouts(
    make: Callable[..., Queue],
) -> None:
    first, words = make(), "'timeout' must be a non-negative number"
    first.create(2)
    with pytest.raises(ValueError, match=words):
        make().put(1, timeout=-1)
    with pytest.raises(ValueError, match=words):
        make().put_many([1], timeout=-1)
    assert first.empty()
    # Nor does it go by a bound that holds no more.
    late = make()
    late.put(1)
    first.maxsize = 0
    late.put(2, timeout=-1)
    assert late.put_many([3], timeout=-1) == 1
    first.maxsize = 5
    with pytest.raises(ValueError, match=words):
        late.put(4, timeout=-1)
    assert first.get_many(10) == [1, 2, 3]


def test_put_many_streams(q: Queue, make: Callable[..., Queue]) -> None:
    other = make()

    def numbers() -> Iterator[int]:
        for number in range(5):
            if number >= 2:
                # The first items must be there before the last ones are made.
                assert other.get(timeout=WAIT) == number - 2
                time.sleep(0.02)
            yield number

    assert q.put_many(numbers()) == 5
    assert other.get_many(5) == [3, 4]


def test_put_many_keeps_what_came_before_an_error(q: Queue) -> None:
    def broken() -> Iterator[int]:
        yield from range(7)
        raise LookupError

    with pytest.raises(LookupError):
        q.put_many(broken())
    with pytest.raises((TypeError, pickle.PicklingError)):
        q.put_many([7, threading.Lock(), 8])
    assert q.get_many(100) == list(range(8))


class Noted:
    """Notes when it is pickled."""

    pickled: ClassVar[list[int]] = []
    hook: ClassVar[Callable[[int], None]] = staticmethod(lambda number: None)

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        self.pickled.append(self.number)
        type(self).hook(self.number)
        return int, (self.number,)


@pytest.fixture
def noted() -> Iterator[type[Noted]]:
    Noted.pickled.clear()
    yield Noted
    Noted.hook = staticmethod(lambda number: None)


def test_put_many_makes_the_next_batch_while_the_last_is_on_its_way(
    q: Queue, noted: type[Noted], monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = Link.execute
    made: list[int] = []
    put: list[int] = []

    def look(self: Any, command: Any, meanwhile: Any = None) -> Any:
        before = len(noted.pickled)
        reply: Any = execute(self, command, meanwhile)
        if command.script is not None and command.script.name == "put":
            put.append(reply[1])
            made.append(len(noted.pickled) - before)
        return reply

    monkeypatch.setattr(Link, "execute", look)
    assert q.put_many([noted(number) for number in range(100)]) == 100
    # Those of the batch after it.
    assert made == [*put[1:], 0]
    assert len(put) > 3
    put.clear()
    made.clear()
    assert q.put_many(noted(number) for number in range(100, 200)) == 100
    # An iterator may wait for something, and then a put that is refused would wait for that.
    assert set(made) == {0}
    assert q.get_many(1000) == list(range(200))


def test_a_batch_that_was_made_for_an_earlier_queue_is_made_again(
    q: Queue, make: Callable[..., Queue], noted: type[Noted]
) -> None:
    """What is signed for one queue is refused in the next of that name."""
    other = make(key=b"k" * 32)
    signed = make(key=b"k" * 32)
    replaced: list[bool] = []

    def replace(number: int) -> None:
        if number == 20 and not replaced:
            replaced.append(True)
            other.delete()
            other.create()

    noted.hook = staticmethod(replace)
    assert signed.put_many([noted(number) for number in range(40)]) == 40
    rest = other.get_many(100)
    assert rest == list(range(rest[0], 40))
    assert not list(other.dead_letters)


def test_an_error_that_ends_a_batch_made_ahead(q: Queue, noted: type[Noted]) -> None:
    def refuse(number: int) -> None:
        if number == 50:
            raise LookupError

    noted.hook = staticmethod(refuse)
    with pytest.raises(LookupError):
        q.put_many([noted(number) for number in range(100)])
    assert q.get_many(1000) == list(range(50))


def test_get_many_is_acknowledged_by_its_first_and_last(
    q: Queue, client: redis.Redis, make: Callable[..., Queue], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[int, int]] = []
    take = Protocol.take

    def look(self: Any, *words: Any, **more: Any) -> Any:
        command = take(self, *words, **more)
        acks = more.get("acks", Acks())
        said.append((len(acks.kinds), 2 if more.get("in_a_row") else len(acks.tags)))
        return command

    monkeypatch.setattr(Protocol, "take", look)
    q.put_many(range(300))
    for start in range(0, 300, 100):
        assert q.get_many(100) == list(range(start, start + 100))
    assert said[1:] == [(100, 2), (100, 2)]
    # Among others, and those that were taken by others, nothing is mistaken.
    q.put_many(range(30))
    with q.lease() as oldest:
        got = [oldest, *q.get_many(10)]
        got += q.get_many(5)
    got += [q.get(), *q.get_many(5), *make().get_many(3), *q.get_many(10)]
    assert got == list(range(30))
    # What is in the way is found by the server.
    q.put_many([bytes(100_000), 1, 2, 3, 4])
    assert len(q.get_many(3)) == 3
    assert q.get_many(5) == [3, 4]
    q.task_done()
    q.disconnect()
    assert client.exists(f"__pressure__:{q.name}:blobs") == 0
    assert make().unfinished_tasks == 300 + 30 + 5 - 2


def test_get_many_returns_what_it_has_if_the_rest_fails(
    q: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> Any:
        raise pressure.ServerUnavailableError("it is away")

    large = bytes(100_000)
    q.put_many([1, large, 2])
    with monkeypatch.context() as patches:
        patches.setattr(blobs, "download", away)
        assert q.get_many(3) == [1]
    assert q.get_many(3) == [large, 2]


def test_get_many(q: Queue) -> None:
    with pytest.raises(pressure.QueueEmptyError):
        q.get_many(5, timeout=0.05)
    with pytest.raises(ValueError, match="max_items"):
        q.get_many(0)
    q.put_many(range(10))
    assert q.get_many(4) == [0, 1, 2, 3]
    assert q.qsize() == 6
    waiter = in_thread(lambda: q.get_many(10**30))
    assert sorted(waiter()) == list(range(4, 10))


@pytest.mark.parametrize(
    ("count", "error"),
    [(0, ValueError), (-(10**30), ValueError), (2.5, TypeError), ("1", TypeError)],
)
def test_bad_counts(q: Queue, url: str, count: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="max_items"):
        q.get_many(count)

    async def get() -> None:
        async with pressure.aio.PressureQueue[Any](q.name, url=url) as other:
            with pytest.raises(error, match="max_items"):
                await other.get_many(count)

    asyncio.run(get())


def test_iteration_hoards_nothing(q: Queue, make: Callable[..., Queue]) -> None:
    slow, other = make(), make()
    q.put_many(range(400))
    seen = []
    for item in slow:
        seen.append(item)
        if len(seen) == 50:
            break
    assert seen == list(range(50))
    # It has fetched more than it has used. Others get them within 100 ms (here: soon).
    got = [other.get(timeout=WAIT) for _ in range(350)]
    assert sorted(got) == list(range(50, 400))
    # What it did use is acknowledged soon, too.
    assert eventually(lambda: q.stats().fetched_ahead == 0)


def test_what_iteration_has_handed_out_counts_no_more(q: Queue) -> None:
    q.put_many(range(300))
    q.maxsize = 300
    left = 300
    for _ in q:
        left -= 1
        assert (q.qsize(), q.empty(), q.full()) == (left, left == 0, False)
        if left == 0:
            break


def test_iteration_starves_nobody(q: Queue, make: Callable[..., Queue]) -> None:
    """An item for each of two consumers: neither takes both."""
    consumers = [make(), make()]
    first, second = (in_thread(partial(next, iter(consumer))) for consumer in consumers)
    blocked(q, 2)
    q.put_many([1, 2])
    assert {first(), second()} == {1, 2}


def test_what_is_fetched_ahead_counts(q: Queue, make: Callable[..., Queue]) -> None:
    q.maxsize = 100
    q.put_many(range(100))
    iterator = iter(make())
    for _ in range(20):
        next(iterator)
    with pytest.raises(pressure.QueueFullError) as full:
        q.put_many(range(200), timeout=0.0)
    assert full.value.accepted <= 20
    assert q.qsize() <= 100


# Looking, overfilling, unblocking


def test_peek(q: Queue) -> None:
    for peek in (q.peek, q.peek_reverse):
        with pytest.raises(pressure.QueueEmptyError):
            peek()
    q.put_many(["oldest", "between", "newest"])
    assert (q.peek(), q.peek_reverse(), q.qsize()) == ("oldest", "newest", 3)


@pytest.mark.parametrize("asyncio_too", [False, True])
def test_peek_into_a_queue_that_was_made_anew(
    make: Callable[..., Queue], url: str, queue_name: str, asyncio_too: bool
) -> None:
    """Items are signed for one queue of a name; who knew its predecessor learns of it."""
    key = "k" * 16
    maker = make(key=key)

    def renew(*items: str) -> None:
        if maker.exists:
            maker.delete()
        maker.create()
        maker.put_many(items)

    renew("old")
    if asyncio_too:

        async def look() -> list[str]:
            async with pressure.aio.PressureQueue[str](queue_name, url=url, key=key) as other:
                seen = [await other.peek()]
                renew("new", "newest")
                seen.append(await other.peek())
                renew("later", "last")
                seen.append(await other.peek_reverse())
                maker.purge()
                with pytest.raises(asyncio.QueueEmpty):
                    await other.peek()
                return seen

        assert asyncio.run(look()) == ["old", "new", "last"]
    else:
        q = make(key=key)
        assert q.peek() == "old"
        renew("new", "newest")
        assert q.peek() == "new"
        renew("later", "last")
        assert q.peek_reverse() == "last"
    # One that is signed with another key stays refused.
    maker.put("signed")
    stranger = make(key="x" * 16)
    with pytest.raises(pressure.SignatureError):
        stranger.peek()


def test_overfill(q: Queue) -> None:
    q.maxsize = 1
    q.put(1)
    q.overfill(2)
    assert q.qsize() == 2 and q.full()
    with pytest.raises(pressure.QueueFullError):
        q.put_nowait(3)
    q.get()
    with pytest.raises(pressure.QueueFullError):
        q.put_nowait(3)
    q.get()
    q.put_nowait(3)


def test_unblock(q: Queue, make: Callable[..., Queue], client: redis.Redis) -> None:
    other = make()
    q.maxsize = 1
    getters = [in_thread(q.get), in_thread(lambda: q.get(timeout=WAIT)), in_thread(other.get)]
    blocked(q, 3)
    q.unblock()
    assert {type(getter()) for getter in getters[:2]} == {pressure.OperationUnblocked}
    other.put("for the other handle")
    assert getters[2]() == "for the other handle"
    q.put("full")
    putter = in_thread(lambda: q.put("discarded"))
    assert eventually(lambda: waits_for_room(client))
    q.unblock()
    assert isinstance(putter(), pressure.OperationUnblocked)
    assert q.get() == "full"
    assert q.empty()


def test_stats(q: Queue, make: Callable[..., Queue]) -> None:
    before = time.time()
    q.maxsize = 7
    q.put_many(range(5))
    assert make().get() == 0
    stats = q.stats()
    assert (stats.bound, stats.length, stats.closed) == (7, 4, False)
    assert (stats.produced_messages, stats.consumed_messages) == (5, 1)
    assert stats.produced_bytes > stats.consumed_bytes > 0
    assert (stats.consumers, stats.dead_letters, stats.fetched_ahead) == (1, 0, 0)
    assert stats.oldest_put_at is not None and before - 1 < stats.oldest_put_at < time.time() + 1
    assert stats.last_producer == q._core.client
    assert stats.last_consumer


def test_roles(q: Queue) -> None:
    with pytest.raises(ValueError, match="role"):
        q.break_role("boss")
    assert q.break_role("producer") == ""


# Leases and dead letters


def test_a_lease(q: Queue) -> None:
    q.put("a")
    with q.lease() as item:
        assert item == "a"
        assert q.qsize() == 0
        assert q.unfinished_tasks == 1
    assert q.unfinished_tasks == 0
    with pytest.raises(pressure.QueueEmptyError):
        q.lease(timeout=0.05)
    q.put("b")
    lease = q.lease()
    q.ack(lease)
    with pytest.raises(pressure.LeaseLostError):
        lease.ack()


def test_a_lease_is_of_the_oldest_item_though_others_were_fetched_ahead(q: Queue) -> None:
    q.put_many(range(60))
    items = iter(q)
    got = [next(items) for _ in range(8)]
    for _ in range(4):
        with q.lease(timeout=WAIT) as item:
            got.append(item)
        got.append(next(items))
    got += [q.get(timeout=WAIT) for _ in range(44)]
    assert got == list(range(60))


def test_a_lease_that_fails(q: Queue) -> None:
    q.put_many(["first", "second"])
    with pytest.raises(ZeroDivisionError), q.lease():
        raise ZeroDivisionError
    lease = q.lease()
    assert (lease.item, lease.deliveries) == ("first", 1)
    q.give_back(lease, charge=False)
    assert q.lease().deliveries == 1


def test_a_lease_outlives_its_time_while_its_holder_lives(make: Callable[..., Queue]) -> None:
    q = make(settings=Settings(lease=1.5))
    q.create()
    q.put("long")
    with q.lease() as item:
        time.sleep(2.0)
        with pytest.raises(pressure.QueueEmptyError):
            make().get(timeout=0.1)
        assert item == "long"
    assert q.unfinished_tasks == 0


@pytest.mark.parametrize("codec", ["pickle", "raw"])
def test_max_deliveries(make: Callable[..., Queue], codec: str) -> None:
    q = make(codec=codec, settings=Settings(max_deliveries=2))
    q.create()
    q.put_many([b"poison", b"innocent"])
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), q.lease() as item:
            assert item == b"poison"
            raise ZeroDivisionError
    assert q.get() == b"innocent"
    with pytest.raises(pressure.QueueEmptyError):
        q.get(timeout=0.05)
    (letter,) = q.dead_letters
    assert (letter.reason, letter.deliveries, len(q.dead_letters)) == ("max_deliveries", 2, 1)
    assert b"poison" in letter.payload
    assert q.dead_letters[letter.id] == letter
    assert q.dead_letters.replay([letter.id]) == 1
    lease = q.lease()
    assert (lease.item, lease.deliveries) == (b"poison", 0)
    lease.ack()
    assert len(q.dead_letters) == 0
    q.task_done()
    q.join(timeout=WAIT)


class Unloadable:
    """Can be pickled, not unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _fail, ("unloadable",)


class ExitsOnLoad:
    def __reduce__(self) -> tuple[Any, ...]:
        return exit, (3,)


def _fail(text: str) -> None:
    raise RuntimeError(text)


@pytest.mark.parametrize("item", [Unloadable(), ExitsOnLoad()])
def test_an_item_that_cannot_be_unpickled(q: Queue, item: object) -> None:
    q.put_many(["before", item, "after"])
    assert q.get() == "before"
    with pytest.raises(pressure.PayloadError, match=q.name):
        q.get()
    assert q.get() == "after"
    (letter,) = q.dead_letters
    assert letter.reason == "unreadable"
    assert q.dead_letters.purge() == 1
    assert len(q.dead_letters) == 0
    with pytest.raises(KeyError):
        q.dead_letters[letter.id]


def test_an_unreadable_item_amid_a_batch(q: Queue) -> None:
    q.put_many([0, Unloadable(), 2, Unloadable()])
    assert q.get_many(10) == [0, 2]
    q.put_many([3, Unloadable(), 5, 6, 7, 8])
    got: list[Any] = []
    while len(got) < 5:
        try:
            for item in q:
                got.append(item)
                if len(got) == 5:
                    break
        except pressure.PayloadError:
            pass
    assert got == [3, 5, 6, 7, 8]
    assert len(q.dead_letters) == 3


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"x",
        b"\xff" * 100,
        pytest.param(b"\x10" + b"\0" * 65, id="no-body"),
        pytest.param(b"\x10" + b"\0" * 65 + b"junk", id="no-pickle"),
        pytest.param(b"\x10\x02" + b"\0" * 64, id="no-reference"),
        pytest.param(b"\x10\x02" + b"\0" * 64 + b"\xff" * 4, id="half-a-reference"),
        pytest.param(b"\x10\x02" + b"\0" * 64 + b"\xff" * 12, id="endless-reference"),
    ],
)
def test_garbage_in_the_queue(q: Queue, client: redis.Redis, value: bytes) -> None:
    """Whatever anybody pushes, scripts and consumers go on."""
    keys = q._core.protocol.keys
    client.lpush(keys.base, value)
    q.stats()
    with pytest.raises(pressure.PayloadError):
        q.peek()
    with pytest.raises(pressure.PayloadError):
        q.get(timeout=WAIT)
    assert q.dead_letters.replay() == 1
    with pytest.raises(pressure.PayloadError):
        q.lease(timeout=WAIT)
    assert q.dead_letters.purge() == 1
    client.lpush(keys.base, value)
    q.put(b"y" * 100_000)
    q.shutdown(immediate=True)
    assert q.qsize() == 0
    assert client.hlen(keys.blobs) == 0


def test_garbage_that_a_dead_consumer_held(
    url: str, make: Callable[..., Queue], client: redis.Redis
) -> None:
    q = make(settings=Settings(lease=0.3))
    q.create()
    q.put(1)
    keys = q._core.protocol.keys
    client.zadd(keys.leases, {b"dead" * 4: 1})
    client.lpush(keys.taken(b"dead" * 4), b"x")
    assert q.get() == 1
    with pytest.raises(pressure.PayloadError):
        q.get(timeout=WAIT)


# Codecs, signatures, sizes


def test_raw(make: Callable[..., Queue], client: redis.Redis) -> None:
    q = make(codec="raw")
    q.create()
    for item in (b"bytes", bytearray(b"array"), memoryview(b"view"), b""):
        q.put(item)
    assert client.lrange(q._core.protocol.keys.base, 0, -1) == [b"", b"view", b"array", b"bytes"]
    assert q.get_many(10) == [b"bytes", b"array", b"view", b""]
    with pytest.raises(TypeError, match="carries bytes, not str"):
        q.put("text")
    assert q.empty()


def test_objects_that_plain_pickle_cannot_carry(q: Queue) -> None:
    class Local:
        answer = 42

    q.put(lambda: 41)
    q.put(Local())
    assert q.get()() == 41
    assert q.get().answer == 42
    with pytest.raises((TypeError, pickle.PicklingError)):
        q.put(threading.Lock())
    assert q.empty()
    assert q.stats().produced_messages == 2


def test_a_codec_of_ones_own(make: Callable[..., Queue]) -> None:
    class Text:
        def dumps(self, obj: Any, /) -> bytes:
            return str(obj).encode()

        def loads(self, data: bytes, /) -> Any:
            return data.decode()

    q = make(codec=Text())
    q.create()
    q.put(7)
    assert q.get() == "7"
    for wrong in (object(), 3):
        with pytest.raises(TypeError):
            make(codec=wrong)
    with pytest.raises(ValueError, match="unknown codec"):
        make(codec="yaml")


def test_signatures(make: Callable[..., Queue]) -> None:
    signing, unsigned = make(key="secret"), make()
    signing.create()
    signing.put("signed")
    with pytest.raises(pressure.SignatureError, match="no key"):
        unsigned.get()
    unsigned.put("plain")
    with pytest.raises(pressure.SignatureError, match="not signed"):
        signing.get()
    make(key="other").put("forged")
    with pytest.raises(pressure.SignatureError, match="unknown key"):
        signing.get()
    assert {letter.reason for letter in signing.dead_letters} == {"signature"}
    make(key=["new", "secret"]).put("rotated")
    assert make(key=["old", "new"]).get() == "rotated"
    with pytest.raises(ValueError, match="empty"):
        make(key="")


def test_a_signature_is_of_one_queue_and_generation(
    make: Callable[..., Queue], client: redis.Redis
) -> None:
    q = make(key="secret")
    q.create()
    for item in ("small", b"x" * 100_000):
        q.put(item)
        base = q._core.protocol.keys.base
        stolen = client.lindex(base, 0)
        assert isinstance(stolen, bytes)
        assert q.get() == item
        q.delete()
        q.create()
        client.lpush(base, stolen)
        with pytest.raises(pressure.PayloadError):
            q.get()


def test_an_altered_item_is_not_unpickled(make: Callable[..., Queue], client: redis.Redis) -> None:
    q = make(key="secret")
    q.create()
    q.put("payload")
    base = q._core.protocol.keys.base
    item = client.rpop(base)
    assert isinstance(item, bytes)
    client.lpush(base, item.replace(b"payload", b"pAyload"))
    with pytest.raises(pressure.SignatureError, match="wrong"):
        q.get()


def test_items_too_large(make: Callable[..., Queue], client: redis.Redis) -> None:
    q = make(settings=Settings(max_item_bytes=1000))
    q.create()
    with pytest.raises(pressure.ItemTooLargeError, match="1,000 bytes") as caught:
        q.put(b"x" * 1001)
    assert caught.value.limit == 1000 < caught.value.size
    assert q.empty()
    with pytest.raises(pressure.ItemTooLargeError) as caught:
        q.put_many([1, 2, b"x" * 1001, 3])
    assert caught.value.accepted == 2
    assert q.get_many(5) == [1, 2]


def test_items_of_many_megabytes(q: Queue, client: redis.Redis) -> None:
    keys = q._core.protocol.keys
    large = [bytes([n]) * (3_000_000 + n) for n in range(3)]
    q.put_many(large)
    assert (client.memory_usage(keys.base) or 0) < 10_000
    assert q.get() == large[0]
    with q.lease() as item:
        assert item == large[1]
    assert q.peek() == large[2]
    assert q.get() == large[2]
    assert eventually(lambda: client.exists(keys.blobs, keys.uploads) == 0)
    # Refused puts leave nothing behind.
    q.maxsize = 1
    q.put(0)
    with pytest.raises(pressure.QueueFullError):
        q.put(large[0], timeout=0.01)
    assert client.exists(keys.blobs) == 0
    q.get()
    q.put(large[0])
    q.shutdown(immediate=True)
    assert client.exists(keys.blobs) == 0


def test_a_large_item_may_wait_for_room_for_more_than_an_hour(
    make: Callable[..., Queue], client: redis.Redis
) -> None:
    q = make()
    q.create(1)
    q.put("first")
    large = b"x" * 100_000
    putting = in_thread(lambda: make().put(large))
    uploads = q._core.protocol.keys.uploads

    assert eventually(lambda: client.zcard(uploads) == 1)
    (upload,) = cast(list[bytes], client.zrange(uploads, 0, -1))
    client.zadd(uploads, {upload: 1})
    assert eventually(lambda: client.zcount(uploads, 2, "+inf") == 1), "it comes again and again"
    with pytest.raises(pressure.QueueFullError):
        make().put(large, timeout=0.01)
    assert q.get() == "first"
    assert putting() is None
    assert q.get(timeout=WAIT) == large


def test_a_blob_that_is_gone(q: Queue, client: redis.Redis) -> None:
    q.put(b"x" * 100_000)
    client.delete(q._core.protocol.keys.blobs)
    with pytest.raises(pressure.PayloadError, match="chunk 0 of 1 is gone"):
        q.get()


# Bad input


@pytest.mark.parametrize(
    "name",
    ["", "a\0b", "x" * 513, "{tag}", "a:bound", "a:stats:produced_bytes", "a:taken:b", "\ud800"],
)
def test_bad_names(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        Queue(name)


def test_a_name_of_another_type() -> None:
    with pytest.raises(TypeError, match="name"):
        Queue(b"bytes")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bound", "error"), [(-1, ValueError), (2**60, ValueError), (1.5, TypeError), ("3", TypeError)]
)
def test_bad_bounds(make: Callable[..., Queue], bound: Any, error: type[Exception]) -> None:
    q = make()
    with pytest.raises(error, match="bound"):
        q.create(bound)
    assert not q.exists


@pytest.mark.parametrize(
    "bad",
    [
        {"lease": 0},
        {"max_deliveries": -1},
        {"max_deliveries": 70000},
        {"max_item_bytes": 0},
        {"reconnect_timeout": -1},
    ],
)
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Settings(**bad)


@pytest.mark.parametrize("kind", [PressureQueue, pressure.aio.PressureQueue])
def test_a_handle_says_why_it_is_not_pickled(kind: Callable[..., object]) -> None:
    with pytest.raises(TypeError, match="name and url"):
        pickle.dumps(kind("q", url="redis://127.0.0.1:1/0", key="k" * 16))


def test_no_server() -> None:
    q = Queue("q", url="redis://user:hush@127.0.0.1:1/0")
    for operation in (q.create, q.get_nowait, lambda: q.put(1)):
        with pytest.raises(pressure.ServerUnavailableError) as caught:
            operation()
        assert "127.0.0.1:1" in str(caught.value) and "local_server" in str(caught.value)
        assert "hush" not in str(caught.value) and "hush" not in repr(caught.value.__cause__)
    assert "hush" not in repr(q)
    with pytest.raises(ValueError, match="server URL") as wrong:
        Queue("q", url="http://user:hush@host/")
    assert "hush" not in str(wrong.value)


def test_clients_of_ones_own(url: str, queue_name: str) -> None:
    """Its settings for decoding, retries and time-outs don't matter."""
    with redis.Redis.from_url(url, decode_responses=True, socket_timeout=0.05) as client:
        q = Queue(queue_name, client=client)
        q.create()
        with pytest.raises(pressure.QueueEmptyError):
            q.get(timeout=0.3)
        q.put({"a": 1})
        assert q.get() == {"a": 1}
        q.disconnect()
        with pytest.raises(ValueError, match="not both"):
            Queue(queue_name, client=client, url=url)


# Handles


def test_a_handle_in_a_forked_child(q: Queue, spawn_child: Callable[..., Child], url: str) -> None:
    child = spawn_child(workers.fork_and_use, url, q.name)
    ids = child.wait_for("ids")
    assert child.wait() == 0, child.output
    assert len(set(ids)) == len(ids) == 4, "producer and consumer ids are the child's own"
    assert q.get_many(10) == ["from the parent", "from the child", "parent again"]


def test_what_was_got_stays_got_though_the_handle_is_dropped(
    q: Queue, url: str, client: redis.Redis
) -> None:
    q.put(1)
    assert Queue(q.name, url=url).get() == 1
    assert eventually(lambda: not client.keys(f"*{q.name}:taken:*"))


def test_nothing_is_left_on_the_way(q: Queue, client: redis.Redis) -> None:
    """Gets by many threads, of which some put as well, are all acknowledged soon."""
    q.maxsize = 4

    def work() -> int:
        for number in range(30):
            q.put(number, timeout=WAIT)
            q.get(timeout=WAIT)
        return 1

    assert sum(worker() for worker in [in_thread(work) for _ in range(4)]) == 4
    assert eventually(lambda: not client.keys(f"*{q.name}:taken:*"))
    assert all(not s.opening and not s.leased and not s.pending for s in q._core.sessions)


def test_an_idle_get_is_acknowledged_while_a_put_blocks(q: Queue, client: redis.Redis) -> None:
    q.maxsize = 1
    q.put(1)
    assert q.get() == 1
    q.put(2)
    putter = in_thread(lambda: q.put(3))
    assert eventually(lambda: not client.keys(f"*{q.name}:taken:*"))
    assert q.get() == 2
    assert putter() is None


def test_a_loop_that_is_left_gives_back_at_once(q: Queue, make: Callable[..., Queue]) -> None:
    other = make()
    q.put_many(range(100))
    for item in q:
        if item == 20:
            break
    assert [other.get(timeout=WAIT) for _ in range(79)] == list(range(21, 100))
