"""Whoever is blocked wakes when the other kind of client acts."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from pressure import (
    PressureQueue,
    QueueClosedError,
    QueueDoesNotExistError,
    QueueEmptyError,
    Settings,
    recovering,
)
from pressure.flows import SLICE
from pressure.protocol import Status
from tests.interop.conftest import LIMIT, Old, Ours, Table, start
from tests.support.processes import Child, at
from tests.support.published import Closed
from tests.support.waiting import eventually


def lease_and_die(name: str, url: str, prefix: str) -> None:
    settings = Settings(lease=0.5)
    queue: PressureQueue[bytes] = PressureQueue(
        name, url=url, prefix=prefix, codec="raw", settings=settings
    )
    queue.lease(LIMIT)
    at("leased")


def reap(queue: PressureQueue[bytes]) -> int:
    return queue._handle.call(recovering.reap_due(queue._core))


class TestA015Producer:
    @pytest.mark.parametrize("how", ["get", "get_many", "lease", "iterate", "bigger bound"])
    def test_blocked_on_room_wakes_when_ours_makes_some(
        self, old: Old, ours: Ours, table: Table, how: str
    ) -> None:
        producer, consumer = old(), ours()
        producer.create(1)
        producer.put(b"first")
        putting = start(lambda: producer.put(b"second"))
        table.await_blocked("brpop")
        if how == "get":
            assert consumer.get_nowait() == b"first"
        elif how == "get_many":
            assert consumer.get_many(10) == [b"first"]
        elif how == "lease":
            with consumer.lease() as item:
                assert item == b"first"
        elif how == "iterate":
            assert next(iter(consumer)) == b"first"
        else:
            consumer.maxsize = 2
        putting.result(LIMIT)
        assert table.tokens()[0] == 1

    def test_does_not_wake_while_there_is_no_room(self, old: Old, ours: Ours, table: Table) -> None:
        producer, consumer = old(), ours()
        producer.create(1)
        producer.put(b"first")
        putting = start(lambda: producer.put(b"second"))
        table.await_blocked("brpop")
        # Taking and giving back in one move leaves no room, nor does looking.
        assert consumer.peek() == b"first"
        assert consumer.qsize() == 1
        assert not putting.done()
        assert table.tokens()[2] == 0
        assert consumer.get_nowait() == b"first"
        putting.result(LIMIT)


class TestA015Consumer:
    def test_blocked_wakes_on_our_put(self, old: Old, ours: Ours, table: Table) -> None:
        consumer, producer = old(), ours()
        producer.create()
        getting = start(consumer.get)
        table.await_blocked("brpop")
        producer.put(b"item")
        assert getting.result(LIMIT) == b"item"
        assert table.tokens()[:2] == (1, 1)

    def test_blocked_wakes_on_our_close_which_stays(
        self, old: Old, ours: Ours, table: Table
    ) -> None:
        consumer, producer = old(), ours()
        producer.create()
        getting = start(consumer.get)
        table.await_blocked("brpop")
        producer.close()
        with pytest.raises(Closed):
            getting.result(LIMIT)
        assert producer.closed()
        assert consumer.closed
        with pytest.raises(Closed):
            consumer.get(LIMIT)
        with pytest.raises(QueueClosedError):
            producer.put(b"late")

    def test_blocked_wakes_on_our_delete(self, old: Old, ours: Ours, table: Table) -> None:
        consumer, producer = old(), ours()
        producer.create()
        getting = start(consumer.get)
        table.await_blocked("brpop")
        producer.delete()
        with pytest.raises(Closed):
            getting.result(LIMIT)

    def test_gets_what_ours_had_on_lease_and_gave_back(self, old: Old, ours: Ours) -> None:
        producer, leaving, consumer = old(), ours(), old()
        producer.create(0)
        producer.put(b"item")
        leaving.lease(LIMIT)
        getting = start(consumer.get)
        leaving.disconnect()
        assert getting.result(LIMIT) == b"item"

    def test_gets_what_our_killed_consumer_held(
        self, old: Old, ours: Ours, table: Table, url: str, spawn_child: Callable[..., Child]
    ) -> None:
        """As long as some client of 1.0 is there to notice."""
        producer, consumer, alive = old(), old(), ours()
        producer.create(1)
        producer.put(b"item")
        child = spawn_child(lease_and_die, alive.name, url, table.keys.prefix, kill_at=["leased"])
        assert child.wait(LIMIT) == -signal.SIGKILL
        getting = start(consumer.get)
        reaping = start(lambda: eventually(lambda: reap(alive) > 0, LIMIT))
        assert getting.result(LIMIT) == b"item"
        assert reaping.result(LIMIT)
        producer.put(b"next", LIMIT)
        assert table.tokens() == (1, 1, 0)


class TestOurConsumer:
    def test_blocked_wakes_on_a_0_15_put(self, old: Old, ours: Ours, table: Table) -> None:
        producer, consumers = old(), [ours() for _ in range(3)]
        producer.create(0)
        getting = [start(consumer.get) for consumer in consumers]
        table.await_blocked("blmove", 3)
        for number in range(3):
            producer.put(b"%d" % number)
        assert {each.result(LIMIT) for each in getting} == {b"0", b"1", b"2"}

    def test_blocked_hears_of_a_0_15_close(self, old: Old, ours: Ours, table: Table) -> None:
        producer, consumer = old(), ours()
        producer.create(0)
        getting = start(consumer.get)
        table.await_blocked("blmove")
        producer.close()
        with pytest.raises(QueueClosedError):
            getting.result(LIMIT)

    def test_blocked_hears_of_a_0_15_delete(self, old: Old, ours: Ours, table: Table) -> None:
        producer, consumer = old(), ours()
        producer.create(0)
        getting = start(consumer.get)
        table.await_blocked("blmove")
        producer.delete(LIMIT)
        with pytest.raises(QueueDoesNotExistError, match="deleted while"):
            getting.result(LIMIT)

    def test_drains_what_a_closed_queue_holds(self, old: Old, ours: Ours) -> None:
        producer, consumer = old(), ours()
        producer.create(0)
        for item in (b"1", b"2"):
            producer.put(item)
        producer.close()
        assert list(consumer) == [b"1", b"2"]
        with pytest.raises(QueueClosedError):
            consumer.get(timeout=LIMIT)


class TestOurProducer:
    def test_blocked_on_room_wakes_on_a_0_15_get(self, old: Old, ours: Ours, table: Table) -> None:
        consumer, producers = old(), [ours() for _ in range(3)]
        producers[0].create(1)
        producers[0].put(b"item")
        putting = [start(each.put, b"item") for each in producers]
        table.await_blocked("blmove", 3)
        for _ in range(4):
            assert consumer.get(LIMIT) == b"item"
        for each in putting:
            each.result(LIMIT)

    def test_wakes_at_once_and_not_when_its_slice_ends(self, old: Old, ours: Ours) -> None:
        consumer, producer = old(), ours()
        producer.create(1)
        count = int(3 * LIMIT / SLICE)
        putting = start(producer.put_many, [b"item"] * count)
        for _ in range(count):
            assert consumer.get(LIMIT) == b"item"
        putting.result(LIMIT)

    def test_waiting_for_room_takes_it_from_nobody(
        self, old: Old, ours: Ours, table: Table
    ) -> None:
        consumer, blocked, producer = old(), ours(), old()
        blocked.create(1)
        blocked.put(b"1")
        putting = start(lambda: blocked.put(b"2"))
        table.await_blocked("blmove")
        consumer.get(LIMIT)
        putting.result(LIMIT)
        consumer.get(LIMIT)
        producer.put(b"3", LIMIT)
        assert table.tokens() == (1, 1, 0)

    def test_blocked_hears_of_a_0_15_close(self, old: Old, ours: Ours, table: Table) -> None:
        closer, producer = old(), ours()
        producer.create(1)
        producer.put(b"item")
        putting = start(lambda: producer.put(b"more"))
        table.await_blocked("blmove")
        closer.close()
        with pytest.raises(QueueClosedError):
            putting.result(LIMIT)

    def test_blocked_hears_of_a_0_15_delete(self, old: Old, ours: Ours, table: Table) -> None:
        deleter, producer = old(), ours()
        producer.create(1)
        producer.put(b"item")
        putting = start(lambda: producer.put(b"more"))
        table.await_blocked("blmove")
        deleter.delete(LIMIT)
        with pytest.raises(QueueDoesNotExistError, match="deleted while"):
            putting.result(LIMIT)

    def test_blocked_hears_of_our_own_close(self, ours: Ours, table: Table) -> None:
        closer, producers = ours(), [ours() for _ in range(3)]
        closer.create(1)
        closer.put(b"item")
        putting = [start(each.put, b"more") for each in producers]
        table.await_blocked("blmove", 3)
        closer.close()
        for each in putting:
            with pytest.raises(QueueClosedError):
                each.result(LIMIT)


def test_closed_while_a_0_15_consumer_waits_for_the_last_item(
    old: Old, ours: Ours, table: Table
) -> None:
    """It has seen the queue closed and one item left, so it waits for that item alone. A move of
    ours that comes late must not leave it there for ever."""
    producer, consumer = old(), ours()
    producer.create(0)
    with pytest.raises(QueueEmptyError):
        consumer.get_nowait()
    # Ours found nothing and is about to block. Meanwhile another takes the role (as 0.15 does, with
    # a token), and the last item comes.
    core, me, keys = consumer._core, consumer._core.sessions[0].consumer, table.keys
    assert table.client.rpop(keys.consumer_free) is not None
    producer.put(b"last")
    producer.close()
    moved = table.client.execute_command(  # type: ignore[no-untyped-call]
        "LMOVE", keys.base, keys.taken(me), "RIGHT", "LEFT"
    )
    assert moved == b"last"
    waiting = start(lambda: table.old()._redis.brpop([keys.base.decode()], LIMIT))
    table.await_blocked("brpop")
    reply = consumer._handle.ask(core.protocol.settle(core.generation, me, "ours", len(b"last")))
    assert reply == [Status.IN_USE]
    assert waiting.result(LIMIT) == (keys.base, b"last")
