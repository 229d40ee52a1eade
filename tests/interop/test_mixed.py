"""Random operations of both kinds of clients at once: nothing lost, nothing twice, nobody stuck."""

from __future__ import annotations

import random
import threading
from collections import Counter

import pytest

from pressure import (
    PressureQueue,
    QueueClosedError,
    QueueEmptyError,
    QueueFullError,
    QueueInUseError,
)
from tests.interop.conftest import LIMIT, Old, Ours, Table, start
from tests.support.published import Closed, Empty, Full, InUse, PublishedClient

ATTEMPTS = 60
WAITS = (None, 0.05, 0.0)


class Books:
    """What was accepted, and what was delivered."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.put: Counter[bytes] = Counter()
        self.got: Counter[bytes] = Counter()

    def note(self, counter: Counter[bytes], items: list[bytes]) -> None:
        with self._lock:
            counter.update(items)


def produce_old(books: Books, client: PublishedClient, name: str, dice: random.Random) -> None:
    for number in range(ATTEMPTS):
        item = f"{name} {number}".encode()
        try:
            client.put(item, dice.choice(WAITS), overfill=dice.random() < 0.05)
        except (Full, InUse):
            continue
        books.note(books.put, [item])


def produce_ours(books: Books, queue: PressureQueue[bytes], name: str, dice: random.Random) -> None:
    for number in range(ATTEMPTS):
        items = [f"{name} {number} {part}".encode() for part in range(dice.choice((1, 1, 5)))]
        try:
            accepted = queue.put_many(items, dice.choice(WAITS))
        except (QueueFullError, QueueInUseError) as exc:
            accepted = exc.accepted
        books.note(books.put, items[:accepted])
        if dice.random() < 0.05:
            queue.disconnect()


def consume_old(books: Books, client: PublishedClient, dice: random.Random) -> None:
    while True:
        try:
            books.note(books.got, [client.get(dice.choice(WAITS))])
        except (Empty, InUse):
            pass
        except Closed:
            return


def consume_ours(books: Books, queue: PressureQueue[bytes], dice: random.Random) -> None:
    with queue:
        while True:
            try:
                books.note(books.got, take_somehow(queue, dice))
            except (QueueEmptyError, QueueInUseError):
                pass
            except QueueClosedError:
                return


def take_somehow(queue: PressureQueue[bytes], dice: random.Random) -> list[bytes]:
    how = dice.choice(("get", "get_many", "ack", "give_back", "iterate", "disconnect"))
    if how == "get":
        return [queue.get(timeout=dice.choice(WAITS))]
    if how == "get_many":
        return queue.get_many(5, timeout=0.05)
    if how == "iterate":
        # The range comes first: when it ends, no item must have been fetched in vain.
        return [item for _, item in zip(range(dice.randrange(1, 20)), queue, strict=False)]
    if how == "disconnect":
        queue.disconnect()
        return []
    lease = queue.lease(timeout=0.05)
    if how == "give_back":
        lease.give_back()
        return []
    lease.ack()
    return [lease.item]


@pytest.mark.parametrize("bound", [0, 1, 3])
def test_random_operations(old: Old, ours: Ours, table: Table, bound: int) -> None:
    books = Books()
    owner = ours()
    owner.create(bound)
    dice = [random.Random(f"{bound} {number}") for number in range(8)]
    consumers = [
        start(consume_old, books, old(), dice[0]),
        *(start(consume_ours, books, ours(), one) for one in dice[1:4]),
    ]
    producers = [
        *(start(produce_old, books, old(), f"old{n}", dice[n]) for n in (4, 5)),
        *(start(produce_ours, books, ours(), f"new{n}", dice[n]) for n in (6, 7)),
    ]
    for each in producers:
        each.result(LIMIT)
    owner.close()
    for each in consumers:
        each.result(LIMIT)
    assert books.put
    assert books.put == books.got
    stats = owner.stats()
    assert stats.produced_messages == stats.consumed_messages == books.put.total()
    assert (stats.length, stats.fetched_ahead) == (0, 0)
    assert table.tokens() == (1, 1, 1)
