"""Pausing a queue: who waits gets nothing, who puts goes on, and resuming wakes at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

import pressure.multiprocessing as mp
from pressure import (
    OperationUnblocked,
    PressureQueue,
    QueueClosedError,
    QueueDoesNotExistError,
    QueueEmptyError,
    RedisExecutor,
    Settings,
)
from pressure import aio as pressure_aio
from pressure.keys import Keys
from pressure.protocol import Acks, Outcome, Status
from tests.aio.running import run, until
from tests.executor.crews import daemon
from tests.executor.programs import program
from tests.redis.scripting import GENERATION, LEASE_MS, ME, Scripts
from tests.support.published import PublishedClient
from tests.support.servers import ServerProcess
from tests.support.waiting import eventually

Queue = PressureQueue[Any]
WAIT = 30.0
OK = Status.OK


@pytest.fixture
def make(url: str, queue_name: str) -> Iterator[Callable[..., Queue]]:
    """Makes handles to the test's queue."""
    made: list[Queue] = []

    def make_one(**options: Any) -> Queue:
        made.append(Queue(queue_name, url=url, **options))
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


class Waiting:
    """A call in a thread of its own."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._outcome: list[object] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._outcome.append(self._call())
        except Exception as exc:
            self._outcome.append(exc)

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> object:
        self._thread.join(WAIT)
        assert self._outcome, "the caller still waits"
        return self._outcome[0]


def taker_is_blocked(client: redis.Redis, queue: str) -> bool:
    """Whether a taker of the queue is blocked at the server."""
    waiters: Any = client.hvals(Keys("__pressure__", queue).waiters)
    ids = {waiter.split(b"@")[0].decode() for waiter in waiters}
    return bool(ids) and ids <= blocked(client)


def blocked(client: redis.Redis) -> set[str]:
    """The ids of the clients that are blocked at the server."""
    return {each["id"] for each in client.client_list() if "b" in each["flags"]}


def names_of(*handles: Queue) -> set[str]:
    """The ids at the server of the connections over which these handles take."""
    cores = [handle._core for handle in handles]
    return {s.link.client_id.decode() for core in cores for s in core.sessions if s.known}


class TestScripts:
    @pytest.fixture(params=["pickle", "raw"])
    def s(self, request: pytest.FixtureRequest, client: redis.Redis, queue_name: str) -> Scripts:
        return Scripts(client, queue_name, raw=request.param == "raw")

    def test_replies(self, s: Scripts) -> None:
        assert s.run(s.protocol.pause()) == [Status.ABSENT]
        assert s.run(s.protocol.resume()) == [Status.ABSENT]
        s.create(2)
        assert s.take(waiter="1@run") == [Status.EMPTY, 0, 0]
        assert s.run(s.protocol.pause()) == [OK, b"1@run"]
        assert s.put(b"a")[0] == OK
        assert s.take(waiter="1@run") == [Status.EMPTY, 0, 0, 1]
        assert s.run(s.protocol.pause()) == [OK], "it is no longer registered"
        assert s.queued() == [b"a"]
        assert s.run(s.protocol.resume()) == [OK, 1]
        assert s.run(s.protocol.resume()) == [OK, 0]
        assert s.bodies(s.take()[1:]) == [b"a"]

    def test_acknowledgements_go_on(self, s: Scripts) -> None:
        s.create(2)
        s.put(b"a", b"b")
        taken = s.take(ahead=True, count=2)[1:]
        s.run(s.protocol.pause())
        assert s.take(known=True, number=1, acks=s.acks("g", taken))[0] == Status.EMPTY
        assert s.held() == []
        assert s.queued() == [b"b"]

    def test_what_came_late_goes_back_uncounted(self, s: Scripts) -> None:
        s.create(1)
        assert s.take()[0] == Status.EMPTY
        s.put(b"a")
        s.run(s.protocol.pause())
        taken = s.keys.taken(b"consumer")
        item = s.client.lmove(s.keys.base, taken, "RIGHT", "LEFT")
        settle = s.protocol.settle(GENERATION, b"consumer", ME, len(item))
        assert s.run(settle) == [Status.EMPTY]
        assert (s.queued(), s.held()) == ([b"a"], [])
        assert s.client.get(s.keys.consumed_messages) is None

    def test_a_closed_queue_is_drained_later(self, s: Scripts) -> None:
        s.create()
        s.put(b"a")
        s.run(s.protocol.pause())
        s.run(s.protocol.close(GENERATION, ME))
        assert s.take() == [Status.EMPTY, 0, 0, 1]
        assert not s.client.exists(s.keys.resumed), "who asks in vain does not ask at once again"
        s.run(s.protocol.resume())
        assert s.take()[0] == OK
        s.run(s.protocol.pause())
        assert s.take(b"another") == [Status.CLOSED, 0]

    def test_exchange(self, client: redis.Redis, queue_name: str) -> None:
        s = Scripts(client, queue_name)
        s.create()
        s.put(b"a", b"b")

        def exchange(*outcomes: Outcome, known: bool = True, waiter: str = "") -> Any:
            words = (GENERATION, b"consumer", ME, outcomes)
            more: Any = {"lease_ms": LEASE_MS, "known": known, "waiter": waiter}
            return s.run(s.protocol.exchange(*words, count=1, **more))

        item = exchange(known=False)[2]
        s.run(s.protocol.pause())
        assert exchange(Outcome(s.tag(item), None, b"")) == [Status.EMPTY, 0, 0, 1]
        assert exchange(waiter="1@run") == [Status.EMPTY, 0, 0, 1]
        assert client.hlen(s.keys.waiters) == 0
        assert s.queued() == [b"b"]
        s.run(s.protocol.close(GENERATION, ME))
        assert exchange() == [Status.EMPTY, 0, 0, 1]
        s.run(s.protocol.resume())
        assert exchange()[0] == OK

    def test_it_ends_with_the_queue(self, s: Scripts) -> None:
        s.create()
        s.run(s.protocol.pause())
        s.client.delete(s.keys.bound)
        s.create()
        assert s.run(s.protocol.stats())[15] == 0
        s.run(s.protocol.pause())
        # A 0.15 client deletes the queue, and makes it anew.
        s.client.delete(s.keys.generation)
        s.run(s.protocol.describe(b"next"))
        assert not s.client.exists(s.keys.paused)

    def test_an_anonymous_queue_takes_it_along(self, s: Scripts) -> None:
        s.run(s.protocol.create(0, GENERATION, ttl_ms=50_000))
        s.run(s.protocol.pause())
        assert 0 < s.client.pttl(s.keys.paused) <= 50_000
        s.run(s.protocol.keep(90_000))
        assert s.client.pttl(s.keys.paused) > 50_000

    def test_acks_count_for_nothing(self, s: Scripts) -> None:
        """A pause and its end leave no key behind for long."""
        s.create()
        s.run(s.protocol.pause())
        s.take(acks=Acks())
        s.run(s.protocol.resume())
        assert not s.client.exists(s.keys.paused)
        assert s.client.pttl(s.keys.resumed) > 0


class TestQueue:
    def test_who_is_blocked_gets_nothing_until_it_ends(self, q: Queue, client: redis.Redis) -> None:
        getter = Waiting(q.get)
        assert eventually(lambda: taker_is_blocked(client, q.name), WAIT)
        q.pause()
        assert q.paused and q.stats().paused_at is not None
        q.put(1)
        # Had it still been blocked, the server would have handed the item over with the put.
        assert q.qsize() == 1 and not getter.over
        with pytest.raises(QueueEmptyError):
            q.get_nowait()
        with pytest.raises(QueueEmptyError):
            q.get(timeout=0.05)
        with pytest.raises(QueueEmptyError):
            q.lease(timeout=0)
        q.pause()
        q.resume()
        assert getter.result() == 1
        assert q.stats().paused_at is None
        q.resume()

    def test_all_are_woken(self, q: Queue, make: Callable[..., Queue], client: redis.Redis) -> None:
        q.pause()
        q.put_many(range(5))
        others = [make() for _ in range(4)]
        getters = [Waiting(each.get) for each in (q, *others)]
        assert eventually(lambda: len(names_of(q, *others) & blocked(client)) == 5, WAIT)
        q.resume()
        assert sorted(str(getter.result()) for getter in getters) == list("01234")

    def test_an_iterator_goes_on_where_it_was(self, q: Queue, client: redis.Redis) -> None:
        q.put_many([1, 2])
        reader = Waiting(lambda: list(q))
        assert eventually(lambda: taker_is_blocked(client, q.name), WAIT)
        q.pause()
        q.put_many([3, 4])
        q.close()
        assert q.qsize() == 2 and not reader.over
        q.resume()
        assert reader.result() == [1, 2, 3, 4]

    def test_leases_go_on(self, q: Queue) -> None:
        q.put_many([1, 2])
        first, second = q.lease(), q.lease()
        q.pause()
        first.ack()
        second.give_back()
        assert q.qsize() == 1
        with pytest.raises(QueueEmptyError):
            q.get_nowait()
        q.resume()
        assert q.get_nowait() == 2

    def test_it_outlives_whoever_restarts(self, q: Queue, make: Callable[..., Queue]) -> None:
        q.pause()
        q.put(1)
        q.disconnect()
        again = make()
        assert again.paused
        with pytest.raises(QueueEmptyError):
            again.get_nowait()
        getter = Waiting(again.get)
        q.resume()
        assert getter.result() == 1

    def test_it_outlives_the_server(self, fresh_server: ServerProcess, queue_name: str) -> None:
        q = Queue(queue_name, url=fresh_server.url)
        q.create()
        q.pause()
        q.put(1)
        fresh_server.kill()
        fresh_server.restart()
        assert q.paused
        q.resume()
        assert q.get(timeout=WAIT) == 1
        q.disconnect()

    def test_close_and_delete_wake(self, q: Queue, make: Callable[..., Queue]) -> None:
        q.pause()
        first = Waiting(make().get)
        q.close()
        assert isinstance(first.result(), QueueClosedError)
        q.delete()
        q.create()
        assert q.stats().paused_at is None
        q.pause()
        second = Waiting(make().get)
        q.delete()
        assert isinstance(second.result(), QueueDoesNotExistError)
        for call in (q.pause, q.resume, lambda: q.paused):
            with pytest.raises(QueueDoesNotExistError):
                call()

    def test_others_can_end_the_wait(self, q: Queue, client: redis.Redis) -> None:
        q.pause()
        q.put(1)
        getter = Waiting(q.get)
        assert eventually(lambda: bool(names_of(q) & blocked(client)), WAIT)
        q.unblock()
        assert isinstance(getter.result(), OperationUnblocked)
        q.resume()
        assert q.get_nowait() == 1

    def test_queues_of_the_multiprocessing_shim_heed_it(self, q: Queue, url: str) -> None:
        shim: mp.Queue[int] = mp.Queue(name=q.name, url=url)
        for number in range(3):
            # Now it expects to wait for what comes, and asks no more.
            getter = Waiting(shim.get)
            shim.put(number)
            assert getter.result() == number
        q.pause()
        getter = Waiting(shim.get)
        shim.put(3)
        assert eventually(lambda: q.qsize() == 1, WAIT)
        q.resume()
        assert getter.result() == 3
        shim.close()
        shim.join_thread()

    def test_join_waits_for_what_is_held_back(self, q: Queue) -> None:
        q.pause()
        q.put(1)
        with pytest.raises(TimeoutError):
            q.join(0.05)
        q.resume()
        q.get()
        q.task_done()
        q.join(WAIT)

    def test_clients_of_0_15_do_not_heed_it(
        self, make: Callable[..., Queue], url: str, queue_name: str
    ) -> None:
        q = make(codec="raw")
        q.create()
        q.put(b"a")
        q.pause()
        published = PublishedClient(queue_name, url)
        published = PublishedClient(queue_name, url)
        assert published.get(WAIT) == b"a"
        published.disconnect()
        published.disconnect()


class TestAsyncio:
    def test_a_blocked_get_and_a_loop(self, url: str, queue_name: str, client: redis.Redis) -> None:
        async def main() -> None:
            q: pressure_aio.PressureQueue[int] = pressure_aio.PressureQueue(queue_name, url=url)
            await q.create()
            getter = asyncio.create_task(q.get())
            assert await until(lambda: taker_is_blocked(client, queue_name), WAIT)
            await q.pause()
            await q.put(1)
            assert await q.paused() and await q.qsize() == 1 and not getter.done()
            with pytest.raises(QueueEmptyError):
                await q.get_nowait()
            await q.put(2)
            await q.close()
            await q.resume()
            assert await getter == 1
            assert [item async for item in q] == [2]
            await q.delete()

            await q.create()
            await q.pause()
            await q.put(3)
            getter = asyncio.create_task(q.get())
            assert await until(lambda: any(s.known for s in q._core.sessions), WAIT)
            getter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await getter
            assert await q.qsize() == 1
            await q.resume()
            assert await q.get() == 3
            await q.delete()
            await q.disconnect()

        run(main())


def test_workers_begin_nothing_new(url: str, queue_name: str, client: redis.Redis) -> None:
    keys = Keys("__pressure__", queue_name, hash_tag=queue_name)
    q = Queue(queue_name, url=url, settings=Settings(hash_tag=queue_name))
    with daemon(url, queue_name, 2), RedisExecutor(url=url, queue=queue_name) as executor:
        executor.submit(pow, 2, 3).result(WAIT)
        q.pause()
        while client.hlen(keys.waiters):
            # One was just about to block. It is woken by this, or when its slice ends.
            q.pause()
        futures = [executor.submit(pow, number, 2) for number in range(20)]
        assert eventually(lambda: q.qsize() == 20, WAIT)
        assert not any(future.done() or future.running() for future in futures)
        q.resume()
        assert [future.result(WAIT) for future in futures] == [n * n for n in range(20)]
        # Once more, for those that wait for the end of a pause when it comes.
        q.pause()
        future = executor.submit(pow, 7, 2)
        assert eventually(lambda: q.qsize() == 1, WAIT)
        q.resume()
        assert future.result(WAIT) == 49
    q.disconnect()


def test_a_worker_of_several_queues_serves_the_others(
    url: str, queue_name: str, client: redis.Redis
) -> None:
    other = f"{queue_name}-2"
    keys = Keys("__pressure__", queue_name, hash_tag=queue_name)
    q = Queue(queue_name, url=url, settings=Settings(hash_tag=queue_name))
    with (
        program(url, "--queue", queue_name, "--queue", other, "--processes", "1") as worker,
        RedisExecutor(url=url, queue=queue_name) as first,
        RedisExecutor(url=url, queue=other) as second,
    ):
        assert first.submit(pow, 2, 3).result(WAIT) == second.submit(pow, 2, 3).result(WAIT)
        q.pause()
        while client.hlen(keys.waiters):
            q.pause()
        held = first.submit(pow, 3, 2)
        assert eventually(lambda: q.qsize() == 1, WAIT)
        assert [second.submit(pow, n, 2).result(WAIT) for n in range(3)] == [0, 1, 4]
        assert q.qsize() == 1 and not held.done()
        q.resume()
        assert held.result(WAIT) == 9
        worker.process.terminate()
        assert worker.wait() == 0
    q.disconnect()
