"""The scripts of a queue's life, of its dead letters, and of those that look at it."""

from __future__ import annotations

import pytest
import redis

from pressure import envelope
from pressure.keys import Keys
from pressure.protocol import Outcome, Status
from tests.redis.invariants import SEVERAL
from tests.redis.scripting import BLOB_ID, GENERATION, LEASE_MS, ME, Scripts

OK = Status.OK


@pytest.fixture(params=["pickle", "raw"])
def s(request: pytest.FixtureRequest, client: redis.Redis, queue_name: str) -> Scripts:
    return Scripts(client, queue_name, raw=request.param == "raw")


@pytest.fixture
def p(client: redis.Redis, queue_name: str) -> Scripts:
    """Envelopes only."""
    return Scripts(client, queue_name)


class TestCreate:
    def test_replies(self, s: Scripts) -> None:
        assert s.create(3) == [OK]
        assert s.create(4) == [Status.EXISTS]
        assert s.run(s.protocol.describe(b"unused")) == [OK, 3, GENERATION, 0]

    def test_an_earlier_life_is_purged(self, s: Scripts) -> None:
        s.create()
        s.put(b"a", b"b")
        s.take()
        s.expire()
        s.run(s.protocol.reap(b"consumer"))
        s.take(b"second")
        # A 0.15 client deletes only the keys it knows.
        s.client.delete(s.keys.bound)
        status, *consumers = s.create()
        assert status == Status.AGAIN
        assert sorted(consumers) == [b"consumer", b"second"]
        assert s.run(s.protocol.create(5, b"next", consumers)) == [OK]
        names = {key.decode() for key in s.client.keys(f"*{s.keys.name}*")}
        assert names == {
            key.decode()
            for key in (
                s.keys.bound,
                s.keys.generation,
                s.keys.producer_free,
                s.keys.consumer_free,
                s.keys.not_full,
                s.keys.room,
            )
        }

    def test_describe(self, s: Scripts) -> None:
        assert s.run(s.protocol.describe(b"mine")) == [Status.ABSENT]
        # As a 0.15 client creates it.
        s.client.set(s.keys.bound, 2)
        for key in (s.keys.producer_free, s.keys.consumer_free, s.keys.not_full, s.keys.room):
            s.client.lpush(key, "1")
        assert s.run(s.protocol.describe(b"mine")) == [OK, 2, b"mine", 0]
        assert s.run(s.protocol.describe(b"yours")) == [OK, 2, b"mine", 0]

    def test_set_bound(self, s: Scripts) -> None:
        assert s.run(s.protocol.set_bound(1)) == [Status.ABSENT]
        s.create()
        s.put(b"a", b"b")
        for bound in (2, 3, 1, 0):
            assert s.run(s.protocol.set_bound(bound)) == [OK]
            assert s.run(s.protocol.size())[2] == bound

    def test_all_who_wait_for_room_hear_that_the_bound_is_gone(self, s: Scripts) -> None:
        s.create(1)
        s.put(b"a")
        s.run(s.protocol.set_bound(0))
        # Without a bound, nobody who puts passes a wake-up on.
        assert s.client.llen(s.keys.room) > 50
        s.run(s.protocol.set_bound(2))
        assert s.client.llen(s.keys.room) == 1


class TestClose:
    def test_replies(self, s: Scripts) -> None:
        assert s.run(s.protocol.close(GENERATION, ME)) == [Status.ABSENT]
        s.create()
        assert s.run(s.protocol.close(b"other", ME)) == [Status.AGAIN]
        s.client.rpop(s.keys.producer_free)
        assert s.run(s.protocol.close(GENERATION, ME)) == [Status.IN_USE, b""]
        s.client.lpush(s.keys.producer_free, "1")
        s.take(waiter="7@run")
        assert s.run(s.protocol.close(GENERATION, ME)) == [OK, b"7@run"]
        assert s.run(s.protocol.close(GENERATION, ME)) == [Status.CLOSED]
        assert s.client.llen(s.keys.closed) == 2
        assert s.run(s.protocol.size()) == [OK, 0, 0, 1, 0, 0, 0]

    def test_drain(self, s: Scripts) -> None:
        assert s.run(s.protocol.drain()) == [Status.ABSENT]
        s.create(2)
        s.put(b"a", b"b")
        s.take()
        assert s.run(s.protocol.drain()) == [OK, 1]
        assert s.run(s.protocol.drain()) == [OK, 0]
        assert len(s.held()) == 1, "what a consumer holds stays its own"


class TestDelete:
    def test_both_halves(self, s: Scripts) -> None:
        assert s.run(s.protocol.delete(GENERATION)) == [Status.ABSENT]
        s.create(2)
        s.put(b"a", b"b")
        s.take(waiter="7@run", count=0)
        assert s.run(s.protocol.delete(b"other")) == [Status.AGAIN]
        expected = [OK, 1, 1, 1, b"7@run", b"consumer"]
        assert s.run(s.protocol.delete(GENERATION)) == expected
        assert s.run(s.protocol.delete(GENERATION)) == [Status.ABSENT]
        assert s.run(s.protocol.delete(GENERATION, again=True)) == expected, "after a lost reply"
        assert s.take(known=True) == [Status.ABSENT]
        assert s.put(b"c") == [Status.ABSENT]
        assert s.run(s.protocol.purge([b"consumer"])) == [OK]
        assert s.client.keys(f"*{s.keys.name}*") == []

    def test_if_who_deletes_it_dies_the_keys_expire(self, s: Scripts) -> None:
        s.create(2)
        s.put(b"a", b"b")
        s.take()
        s.run(s.protocol.delete(GENERATION, [b"consumer"]))
        left = s.client.keys(f"*{s.keys.name}*")
        assert s.keys.taken(b"consumer") in left
        assert all(0 < s.client.pttl(key) <= 60_000 for key in left)
        s.run(s.protocol.create(2, b"next", [b"consumer"]))
        assert {s.client.pttl(key) for key in s.client.keys(f"*{s.keys.name}*")} == {-1}

    def test_a_successor_is_spared(self, s: Scripts) -> None:
        s.create()
        s.run(s.protocol.delete(GENERATION))
        s.create(5, b"next")
        assert s.run(s.protocol.delete(GENERATION, again=True)) == [Status.AGAIN]
        assert s.run(s.protocol.purge()) == [Status.EXISTS]
        assert s.client.exists(s.keys.bound)


class TestLooking:
    def test_peek(self, s: Scripts) -> None:
        assert s.run(s.protocol.peek(0)) == [Status.ABSENT]
        s.create()
        assert s.run(s.protocol.peek(0)) == [Status.EMPTY]
        s.put(b"old", b"new")
        assert s.bodies(s.run(s.protocol.peek(-1))[1:]) == [b"old"]
        assert s.bodies(s.run(s.protocol.peek(0))[1:]) == [b"new"]

    def test_size_and_stats(self, s: Scripts) -> None:
        assert s.run(s.protocol.size()) == [Status.ABSENT]
        assert s.run(s.protocol.stats()) == [Status.ABSENT]
        s.create(9)
        s.put(*(b"%d" % number for number in range(6)))
        s.take(count=3, ahead=True)
        assert s.run(s.protocol.size())[:4] == [OK, 5, 9, 0]
        stats = s.run(s.protocol.stats())
        assert stats[1:5] == [9, 3, 0, 6]
        assert stats[6] == 3
        assert stats[8:14] == [2, 1, 0, ME.encode(), ME.encode(), 0]
        # Who is dead doesn't count, though nobody has noticed yet.
        s.expire()
        assert s.run(s.protocol.stats())[9] == 0

    def test_unfinished(self, s: Scripts) -> None:
        assert s.run(s.protocol.unfinished(0)) == [Status.ABSENT]


class TestWithdraw:
    def test_replies(self, s: Scripts) -> None:
        tags = [b"x" * 16]
        assert s.run(s.protocol.withdraw(b"me", 1, tags)) == [Status.ABSENT]
        s.create(4)
        s.put(b"a", b"b", b"c", b"d")
        taken = s.take()[1:]
        values = s.client.lrange(s.keys.base, 0, -1)[::-1]
        tags = [s.tag(values[1]), s.tag(taken[0]), b"x" * 16, s.tag(values[0])]
        assert s.run(s.protocol.withdraw(b"me", 2, tags)) == [OK, b"1001"]
        assert s.queued() == [b"d"]
        assert s.run(s.protocol.withdraw(b"me", 2, tags)) == [OK, b"1001"]
        assert s.run(s.protocol.withdraw(b"me", 3, tags)) == [OK, b"0000"]

    def test_one_that_comes_late_takes_nothing(self, s: Scripts) -> None:
        """It was said that somebody had taken the item, who has given it back since."""
        s.create()
        s.put(b"a")
        taken = s.take()[1:]
        late = s.protocol.withdraw(b"me", 1, [s.tag(taken[0])])
        assert s.run(late) == [OK, b"0"]
        assert s.run(s.protocol.withdraw(b"me", 2, [b"x" * 16])) == [OK, b"0"]
        s.run(s.protocol.give_back(b"consumer", [s.tag(taken[0])], charge=False))
        assert s.run(late) == [OK, b"0"]
        assert s.queued() == [b"a"]
        assert s.run(s.protocol.withdraw(b"me", 2, [b"x" * 16])) == [OK, b"0"]

    def test_among_thousands(self, s: Scripts) -> None:
        s.create()
        for at in range(0, 2500, 500):
            s.put(*(b"%d" % number for number in range(at, at + 500)))
        values = s.client.lrange(s.keys.base, 0, -1)[::-1]
        tags = [s.tag(value) for value in values[::7]]
        assert s.run(s.protocol.withdraw(b"me", 1, tags)) == [OK, b"1" * len(tags)]
        assert s.queued() == [b"%d" % number for number in range(2500) if number % 7]


class TestDeadLetters:
    def test_bury_replay_discard(self, s: Scripts) -> None:
        tags = [b"x" * 16]
        assert s.run(s.protocol.bury(b"consumer", "{}", tags)) == [Status.LOST]
        assert s.run(s.protocol.replay([])) == s.run(s.protocol.discard([])) == [Status.ABSENT]
        s.create(2)
        s.put(b"a", b"b")
        items = s.take(count=2)[1:]
        tags = [s.tag(item) for item in items]
        assert s.run(s.protocol.bury(b"consumer", '{"reason": "test"}', tags)) == [OK, 2]
        assert s.run(s.protocol.bury(b"consumer", '{"reason": "test"}', tags)) == [OK, 0]
        assert s.unfinished() == 0
        assert len(s.run(s.protocol.dead_letters(0, -1))) == 2
        s.put(b"c")
        assert s.run(s.protocol.replay(tags[1:])) == [OK, 1]
        assert s.queued() == [b"c", b"b"]
        assert s.run(s.protocol.discard([tags[1]])) == [OK, 0]
        assert s.run(s.protocol.discard([tags[0]])) == [OK, 1]
        assert s.client.exists(s.keys.dead_letters) == 0
        s.run(s.protocol.close(GENERATION, ME))
        assert s.run(s.protocol.replay([])) == [Status.CLOSED]

    def test_what_was_fetched_ahead_fills_the_bound_no_more(self, s: Scripts) -> None:
        s.create(4)
        s.put(b"a", b"b", b"c", b"d")
        items = s.take(count=4, ahead=True)[1:]
        assert s.ahead() == len(items) - 1 > 0
        tags = [s.tag(item) for item in items]
        assert s.run(s.protocol.bury(b"consumer", "{}", tags[:1])) == [OK, 1]
        assert s.ahead() == len(items) - 1
        assert s.run(s.protocol.bury(b"consumer", "{}", tags[1:], ahead=True)) == [
            OK,
            len(items) - 1,
        ]
        assert s.ahead() == 0

    def test_replay_all_in_order(self, p: Scripts) -> None:
        p.create(1)
        p.put(b"a")
        p.put(b"b", mode="overfill")
        for _ in range(2):
            items = p.take(known=_ > 0)[1:]
            tags = [p.tag(item) for item in items]
            p.run(p.protocol.give_back(b"consumer", tags, charge=True))
            p.take(known=True)
            p.run(p.protocol.bury(b"consumer", "{}", tags))
        assert p.run(p.protocol.replay([])) == [OK, 2]
        assert p.queued() == [b"a", b"b"]
        again = p.take(count=2, known=True)[1:]
        assert [envelope.caps(item)[1] for item in again] == [0, 0]

    def test_blobs_stay_until_they_are_discarded(self, p: Scripts) -> None:
        p.create()
        value = p.blob(1)
        p.run(p.protocol.blob_write(BLOB_ID, 0, b"chunk"))
        p.put(value)
        p.take()
        p.run(p.protocol.bury(b"consumer", "{}", [p.tag(value)]))
        assert p.client.hlen(p.keys.blobs) == 1
        assert p.run(p.protocol.discard([])) == [OK, 1]
        assert p.client.exists(p.keys.blobs) == 0


class TestExchange:
    def exchange(
        self, p: Scripts, outcomes: list[Outcome], *, count: int = 0, **more: object
    ) -> list:  # type: ignore[type-arg]
        options = {"lease_ms": LEASE_MS, "known": True, "count": count} | more
        reply: list = p.run(  # type: ignore[type-arg]
            p.protocol.exchange(GENERATION, b"consumer", ME, outcomes, **options)  # type: ignore[arg-type]
        )
        return reply

    def test_outcomes_are_recorded_once(self, p: Scripts) -> None:
        assert self.exchange(p, [])[0] == Status.ABSENT
        p.create()
        assert self.exchange(p, [])[0] == Status.LOST
        p.put(b"a", b"b", b"c", b"d")
        items = self.exchange(p, [], count=3, known=False)[2:]
        tags = [p.tag(item) for item in items]
        reply, gone = Keys("__scripts__", f"{p.keys.name}-r"), Keys("__scripts__", "gone")
        p.client.set(reply.bound, 0)
        outcomes = [
            Outcome(tags[0], reply, b"result a"),
            Outcome(tags[1], gone, b"result b"),
            Outcome(tags[2], None, b"", '{"reason": "test"}'),
        ]
        status, dropped, *more = self.exchange(p, outcomes, count=1)
        assert (status, dropped, p.bodies(more)) == (OK, 0, [b"d"])
        assert p.client.lrange(reply.base, 0, -1) == [b"result a"]
        assert p.client.get(p.keys.orphans) == b"1"
        assert p.client.llen(p.keys.dead_letters) == 1
        status, dropped, *_ = self.exchange(p, outcomes)
        assert (status, dropped) == (Status.EMPTY, 3), "what is gone is dropped"
        assert p.client.llen(reply.base) == 1
        p.client.delete(reply.bound, reply.base)

    def test_all_that_is_held_at_once(self, p: Scripts) -> None:
        p.create()
        p.put(b"a", b"b", b"c", b"d")
        items = self.exchange(p, [], count=3, known=False)[2:]
        tags = [p.tag(item) for item in items]
        first, second, third = tags
        for others in (
            [first, second],
            [second, third],
            [second, first, third],
            [first, third, second],
            [*tags, first],
        ):
            assert self.exchange(p, [], count=1, held=others) == [Status.EMPTY, len(others)]
            assert p.held() == [b"a", b"b", b"c"], "nothing was done"
        p.client.hset(p.keys.blobs, "chunk", "x")
        assert self.exchange(p, [], held=tags) == [Status.EMPTY, 3], "one may have a blob"
        p.client.delete(p.keys.blobs)
        status, dropped, *more = self.exchange(p, [], count=1, held=tags)
        assert (status, dropped, p.bodies(more)) == (OK, 0, [b"d"])
        assert p.held() == [b"d"]
        status, dropped, *_ = self.exchange(p, [], held=[p.tag(more[0])])
        assert (status, dropped) == (Status.EMPTY, 0)
        assert p.held() == []

    @pytest.mark.parametrize("whose", ["a", "ab", "g", "gb", "bga"])
    def test_one_value_with_several_answers(self, p: Scripts, whose: str) -> None:
        p.create()
        p.put(b"a", b"b", b"c", b"d", b"e", b"f")
        tags = [p.tag(item) for item in self.exchange(p, [], count=6, known=False)[2:]]
        replies = {name: Keys("__scripts__", f"{p.keys.name}-{name}") for name in "abg"}
        for name in "ab":
            p.client.set(replies[name].bound, 0)
        values = {name: bytes(66) + SEVERAL + b"\1\2" + name.encode() for name in whose}
        outcomes = [Outcome(b"", replies[name], values[name]) for name in whose]
        assert self.exchange(p, outcomes, held=tags[:5]) == [Status.EMPTY, 5]
        assert p.client.llen(replies["a"].base) == 0, "nothing was done"
        assert self.exchange(p, outcomes, held=tags)[:2] == [Status.EMPTY, 0]
        for name in "ab":
            there = p.client.lrange(replies[name].base, 0, -1)
            assert there == ([values[name]] if name in whose else [])
            p.client.delete(replies[name].bound, replies[name].base)
        assert p.client.get(p.keys.orphans) == (b"258" if "g" in whose else None)
        assert p.held() == []

    @pytest.mark.parametrize("whose", ["aaa", "aba", "a-a", "g--"])
    def test_answers_to_all_that_is_held(self, p: Scripts, whose: str) -> None:
        p.create()
        p.put(b"a", b"b", b"c")
        tags = [p.tag(item) for item in self.exchange(p, [], count=3, known=False)[2:]]
        replies = {name: Keys("__scripts__", f"{p.keys.name}-{name}") for name in "abg"}
        for name in "ab":
            p.client.set(replies[name].bound, 0)
        outcomes = [
            Outcome(tag, replies.get(name), b"" if name == "-" else b"%d" % number)
            for number, (tag, name) in enumerate(zip(tags, whose, strict=True))
        ]
        assert self.exchange(p, outcomes, held=tags)[:2] == [Status.EMPTY, 0]
        for name in "ab":
            expected = [b"%d" % number for number in range(3) if whose[number] == name]
            assert p.client.lrange(replies[name].base, 0, -1)[::-1] == expected
            p.client.delete(replies[name].bound, replies[name].base)
        assert p.client.get(p.keys.orphans) == (b"1" if "g" in whose else None)
        assert p.held() == []
