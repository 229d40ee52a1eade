"""Values pass between clients of 0.15 and of 1.0, at the same time, in order, within the bound."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest

from pressure import PressureQueue, flows, taking
from tests.interop.conftest import LIMIT, Old, Ours, Table, start
from tests.support.published import PublishedClient
from tests.support.waiting import eventually

BOUND = 4


class Gauge:
    """Watches how long the queue gets, as a client of 0.15 sees it, while a block runs."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._stop = threading.Event()
        self.longest = 0

    def __enter__(self) -> Gauge:
        self._done = start(self._watch)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._done.result(LIMIT)

    def _watch(self) -> None:
        while not self._stop.is_set():
            self.longest = max(self.longest, self._table.client.llen(self._table.keys.base))


def values(producer: str, count: int) -> list[bytes]:
    return [f"{producer} {number}".encode() for number in range(count)]


def produce_old(client: PublishedClient, items: list[bytes]) -> None:
    for item in items:
        client.put(item)


def of(producer: str, received: list[bytes]) -> list[bytes]:
    return [item for item in received if item.startswith(producer.encode() + b" ")]


def gather(consumers: list[Future[list[bytes]]]) -> list[list[bytes]]:
    return [consumer.result(LIMIT) for consumer in consumers]


def check(received: list[list[bytes]], produced: dict[str, list[bytes]]) -> None:
    """Nothing lost, nothing twice, and each consumer sees each producer's items in order."""
    everything = [item for one in received for item in one]
    assert sorted(everything) == sorted(item for items in produced.values() for item in items)
    for one in received:
        for producer, items in produced.items():
            mine = of(producer, one)
            assert mine == sorted(mine, key=items.index)


def test_a_0_15_producer_and_several_of_our_consumers(old: Old, ours: Ours, table: Table) -> None:
    producer = old()
    producer.create(BOUND)
    items = values("p", 400)
    with Gauge(table) as gauge:
        producing = start(lambda: produce_old(producer, items))
        table.await_blocked("brpop")
        # The queue is full and stays so, until consumers come that may be as fast as the producer.
        assert eventually(lambda: gauge.longest >= BOUND, LIMIT)
        consumers = [start(lambda: list(ours())) for _ in range(3)]
        producing.result(LIMIT)
        producer.close()
        received = gather(consumers)
    check(received, {"p": items})
    # Published clients check length and room in two steps, so they may be one too far.
    assert BOUND <= gauge.longest <= BOUND + 1


def test_what_ours_fetch_ahead_makes_no_room_for_a_0_15_producer(
    old: Old, ours: Ours, table: Table
) -> None:
    """It sees only the list, so nothing is fetched ahead while such a client produces."""
    producer, consumer, other = old(), ours(), ours()
    producer.create(8)
    for item in values("p", 8):
        producer.put(item, LIMIT)
    assert _fetch_ahead(consumer) == [b"p 0"]
    other.put(b"ours")
    fetched = _fetch_ahead(consumer)
    assert len(fetched) > 1
    assert fetched == values("p", 8)[1 : len(fetched) + 1]


def _fetch_ahead(consumer: PressureQueue[bytes]) -> list[bytes]:
    """What a consumer in a hot loop gets from the server."""
    core, handle = consumer._core, consumer._handle
    handle.call(flows.describe(core))
    session = handle.acquire()
    try:
        return handle.run(taking.take(core, session, 4, 0.0, ahead=True), session).items
    finally:
        handle.release(session)


def test_one_of_our_consumers_gets_a_0_15_producers_items_in_order(old: Old, ours: Ours) -> None:
    producer, consumer = old(), ours()
    producer.create(BOUND)
    items = values("p", 300)
    consuming = start(lambda: list(consumer))
    produce_old(producer, items)
    producer.close()
    assert consuming.result(LIMIT) == items


def test_several_of_our_producers_and_a_0_15_consumer(old: Old, ours: Ours, table: Table) -> None:
    creator = ours()
    creator.create(BOUND)
    produced = {name: values(name, 150) for name in ("a", "b", "c")}
    consuming = start(lambda: list(old()))

    def produce(items: list[bytes]) -> None:
        with ours() as queue:
            for item in items:
                queue.put(item)

    with Gauge(table) as gauge:
        producing = [start(produce, items) for items in produced.values()]
        for each in producing:
            each.result(LIMIT)
        creator.close()
        received = consuming.result(LIMIT)
    check([received], produced)
    for name, items in produced.items():
        assert of(name, received) == items
    assert 0 < gauge.longest <= BOUND


def test_a_batch_of_ours_and_a_0_15_consumer(old: Old, ours: Ours, table: Table) -> None:
    producer = ours()
    producer.create(BOUND)
    items = values("p", 300)
    consuming = start(lambda: list(old()))
    with Gauge(table) as gauge:
        assert producer.put_many(items) == len(items)
        producer.close()
        assert consuming.result(LIMIT) == items
    assert 0 < gauge.longest <= BOUND


@pytest.mark.parametrize("creator", ["old", "ours"])
def test_all_kinds_at_once(old: Old, ours: Ours, table: Table, creator: str) -> None:
    if creator == "old":
        old().create(BOUND)
    else:
        ours().create(BOUND)
    produced = {name: values(name, 100) for name in ("old1", "old2", "new1", "new2")}

    def produce_ours(items: list[bytes]) -> None:
        with ours() as queue:
            for item in items:
                queue.put(item)

    def consume_ours_one_by_one() -> list[bytes]:
        received = []
        with ours() as queue:
            for item in queue:
                received.append(item)
        return received

    consumers = [
        start(lambda: list(old())),
        start(lambda: list(old())),
        start(consume_ours_one_by_one),
        start(consume_ours_one_by_one),
    ]
    with Gauge(table) as gauge:
        producers = [
            *(start(produce_old, old(), produced[name]) for name in ("old1", "old2")),
            *(start(produce_ours, produced[name]) for name in ("new1", "new2")),
        ]
        for each in producers:
            each.result(LIMIT)
        old().close()
        received = gather(consumers)
    check(received, produced)
    assert gauge.longest <= BOUND + 1
    assert table.tokens()[:2] == (1, 1)
    keys = table.keys
    assert table.number(keys.produced_messages) == table.number(keys.consumed_messages) == 400
    assert table.number(keys.produced_bytes) == table.number(keys.consumed_bytes)


def test_binary_values_of_every_kind_pass(old: Old, ours: Ours) -> None:
    items = [b"", b"\0", bytes(range(256)), b"\n\r\n", b"x" * 200_000]
    theirs, mine = old(), ours()
    theirs.create(0)
    for item in items:
        theirs.put(item)
        assert mine.get(timeout=LIMIT) == item
        mine.put(item, timeout=LIMIT)
        assert theirs.get(LIMIT) == item
