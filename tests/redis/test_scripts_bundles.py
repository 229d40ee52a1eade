"""What the scripts make of bundles, each against a real server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from pressure import envelope
from pressure.protocol import Acks, Command, Status
from tests.redis.scripting import GENERATION, LEASE_MS, ME, Scripts

OK = Status.OK
TTL_MS = 60_000


@pytest.fixture
def p(client: redis.Redis, queue_name: str) -> Scripts:
    return Scripts(client, queue_name)


def size(p: Scripts) -> int:
    count: int = p.run(p.protocol.size())[1]
    return count


def put(p: Scripts, *values: bytes) -> Any:
    """Values, of which the first may be shorter than any envelope."""
    return p.put(*[value if len(value) > 66 else p.value(value) for value in values])


def test_a_bundle_fills_as_many_places_as_it_has_items(p: Scripts) -> None:
    p.create(6)
    assert put(p, p.bundle(b"a", b"b", b"c"))[:2] == [OK, 1]
    assert size(p) == 3
    assert put(p, b"d", p.bundle(b"e", b"f", b"g"), b"h")[:2] == [OK, 1], "it is not split"
    assert put(p, p.bundle(b"e", b"f", b"g"))[0] == Status.FULL
    assert put(p, b"e", b"f", b"g")[:2] == [OK, 2]
    assert size(p) == 6
    assert put(p, b"g")[0] == Status.FULL


def test_a_repeat_counts_nothing_twice(p: Scripts) -> None:
    p.create(10)
    values = [p.bundle(b"a", b"b"), p.value(b"c")]
    command = p.protocol.put(GENERATION, b"producer", 1, ME, values)
    assert p.run(command)[:3] == p.run(command)[:3] == [OK, 2, 0]
    assert size(p) == 3


def test_the_producer_hears_how_many_consumers_there_are(p: Scripts) -> None:
    p.create()
    assert put(p, b"a", b"b")[3:] == [0]
    p.take(b"one")
    assert put(p, b"c", b"d")[3:] == [1]
    p.take(b"another")
    assert put(p, b"e", b"f")[3:] == [2]


def test_places_may_be_reserved_behind_it(p: Scripts) -> None:
    p.create(10)
    values = [p.bundle(b"a", b"b", b"c")]
    command = p.protocol.put(GENERATION, b"producer", 1, ME, values, hold=20)
    words = list(command.words)
    assert p.client.execute_command("EVAL", command.script.text, *words[2:])[:3] == [OK, 1, 7]  # type: ignore[union-attr]


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("in_a_row", [False, True])
def test_it_counts_until_it_is_acknowledged(p: Scripts, ahead: bool, in_a_row: bool) -> None:
    p.create(10)
    put(p, b"a", p.bundle(b"b", b"c"), p.bundle(b"d", b"e", b"f"), b"g", b"h")
    items = p.take(count=4, ahead=ahead)[1:]
    assert p.bodies(items[:1]) == [b"a"]
    assert size(p) == (7 if ahead else 4)
    kinds = "gaaa" if ahead else "gggg"
    acks = Acks(kinds[: len(items)], [p.tag(item) for item in items])
    assert p.take(known=True, acks=acks, in_a_row=in_a_row)[0] == OK
    assert size(p) == 8 - len(items) - 3 - 1
    assert p.behind() == 0
    assert p.client.hget(p.keys.prefetched, "#") is None


def test_all_of_it_counts_as_fetched_ahead(p: Scripts) -> None:
    p.create(3)
    put(p, p.bundle(b"a", b"b"), b"c")
    (item,) = p.take(count=2, ahead=True)[1:]
    assert size(p) == 3
    assert (p.ahead(), p.ahead(b"consumer")) == (1, 1)
    assert put(p, b"d")[0] == Status.FULL
    assert p.run(p.protocol.ack(b"consumer", p.acks("a", [item])))[0] == OK
    assert put(p, b"d", b"e", b"f")[:2] == [OK, 2]


@pytest.mark.parametrize("size_given", [False, True])
def test_one_that_blmove_brought(p: Scripts, size_given: bool) -> None:
    p.create(4)
    p.take()
    put(p, p.bundle(b"a", b"b", b"c"))
    item = p.client.blmove(p.keys.base, p.keys.taken(b"consumer"), 1, "RIGHT", "LEFT")
    settle = p.protocol.settle(GENERATION, b"consumer", ME, len(item) if size_given else -1)
    assert p.run(settle) == [OK, 0]
    assert size(p) == (2 if size_given else 3)
    acks = p.acks("g" if size_given else "a", [item])
    assert p.run(p.protocol.ack(b"consumer", acks))[0] == OK
    assert size(p) == 0


def undo_by_giving_back(p: Scripts, tag: bytes) -> Command:
    return p.protocol.give_back(b"consumer", [tag], charge=False, ahead=True)


def undo_by_leaving(p: Scripts, tag: bytes) -> Command:
    return p.protocol.leave(b"consumer", b"producer")


def undo_by_reaping(p: Scripts, tag: bytes) -> Command:
    return p.protocol.reap(b"consumer", force=True)


@pytest.mark.parametrize("undo", [undo_by_giving_back, undo_by_leaving, undo_by_reaping])
def test_it_goes_back_as_a_whole(p: Scripts, undo: Callable[[Scripts, bytes], Command]) -> None:
    p.create(4)
    put(p, p.bundle(b"a", b"b", b"c"), b"d")
    (item,) = p.take(ahead=True)[1:]
    assert p.run(undo(p, p.tag(item)))[0] == OK
    assert (size(p), p.behind(), p.ahead()) == (4, 2, 0)
    (again,) = p.take(b"another", ahead=True)[1:]
    assert p.tag(again) == p.tag(item)


class TestCut:
    def cut(self, p: Scripts, item: bytes, *bodies: bytes, ahead: bool = True) -> Any:
        values = [p.value(body) for body in bodies]
        return p.run(p.protocol.cut(b"consumer", p.tag(item), values, ahead=ahead))

    def test_what_is_left_goes_back(self, p: Scripts) -> None:
        p.create(4)
        put(p, p.bundle(b"a", b"b", b"c"), b"d")
        (item,) = p.take(ahead=True)[1:]
        stamp = item[6:14]
        assert put(p, b"e")[0] == Status.FULL
        assert self.cut(p, item, b"b", b"c") == [OK, 1]
        assert p.queued() == [b"b", b"c", b"d"]
        assert (size(p), p.behind(), p.ahead(), p.held()) == (3, 0, 0, [])
        assert [one[6:14] for one in p.client.lrange(p.keys.base, -2, -1)] == [stamp, stamp]
        assert put(p, b"e")[:2] == [OK, 1]
        assert self.cut(p, item, b"b", b"c") == [OK, 0], "it is repeatable"
        assert p.queued() == [b"b", b"c", b"d", b"e"]

    def test_one_of_several(self, p: Scripts) -> None:
        p.create()
        put(p, p.bundle(b"a", b"b"), p.bundle(b"c", b"d"), b"e")
        first, second = p.take(count=2, ahead=True)[1:]
        assert self.cut(p, second, b"d") == [OK, 1]
        assert p.queued() == [b"d", b"e"]
        assert p.run(p.protocol.ack(b"consumer", p.acks("a", [first])))[0] == OK
        assert (size(p), p.behind(), p.ahead()) == (2, 0, 0)

    def test_after_the_lease(self, p: Scripts) -> None:
        p.create()
        put(p, p.bundle(b"a", b"b"))
        (item,) = p.take(ahead=True)[1:]
        p.run(p.protocol.reap(b"consumer", force=True))
        assert self.cut(p, item, b"b") == [Status.LOST]
        assert (p.length(), size(p)) == (1, 2)

    def test_of_an_anonymous_queue_all_runs_out(self, p: Scripts) -> None:
        p.run(p.protocol.create(0, GENERATION, ttl_ms=TTL_MS))
        values = [p.bundle(b"a", b"b"), p.value(b"c")]
        p.run(p.protocol.put(GENERATION, b"producer", 1, ME, values, ttl_ms=TTL_MS))
        take = p.protocol.take(
            GENERATION,
            b"consumer",
            ME,
            lease_ms=LEASE_MS,
            known=False,
            count=2,
            ahead=True,
            ttl_ms=TTL_MS,
        )
        item = p.run(take)[1]
        assert self.cut(p, item, b"b") == [OK, 1]
        for key in p.client.keys(p.keys.base + b"*"):
            assert 0 < p.client.pttl(key) <= TTL_MS, key


def test_it_is_buried_as_a_whole(p: Scripts) -> None:
    p.create(3)
    put(p, p.bundle(b"a", b"b"), b"c")
    (item,) = p.take(ahead=True)[1:]
    assert p.run(p.protocol.bury(b"consumer", "{}", [p.tag(item)], ahead=True)) == [OK, 1]
    assert (size(p), p.behind(), p.ahead()) == (1, 0, 0)
    assert p.run(p.protocol.replay([])) == [OK, 1]
    assert size(p) == 3
    assert p.run(p.protocol.drain()) == [OK, 3]
    assert (size(p), p.behind()) == (0, 0)
    assert put(p, b"a", b"b", b"c", b"d")[:2] == [OK, 3]


@pytest.mark.parametrize("body", [b"", b"\0", b"\0\0", b"\0\1"])
def test_one_that_claims_to_be_one(p: Scripts, body: bytes) -> None:
    """Anybody may have put it."""
    p.create(4)
    assert put(p, p.value(body, flags=envelope.BUNDLE))[:2] == [OK, 1]
    assert size(p) == 1
    (item,) = p.take(ahead=True)[1:]
    assert p.run(p.protocol.ack(b"consumer", p.acks("g", [item])))[0] == OK
    assert size(p) == 0
