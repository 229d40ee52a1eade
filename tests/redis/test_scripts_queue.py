"""The scripts that put and take, each against a real server: replies, invariants, repeats."""

from __future__ import annotations

import pytest
import redis

from pressure import envelope
from pressure.protocol import Acks, Status
from tests.redis.scripting import BLOB_ID, GENERATION, LEASE_MS, ME, Scripts

OK = Status.OK


@pytest.fixture(params=["pickle", "raw"])
def s(request: pytest.FixtureRequest, client: redis.Redis, queue_name: str) -> Scripts:
    return Scripts(client, queue_name, raw=request.param == "raw")


@pytest.fixture
def p(client: redis.Redis, queue_name: str) -> Scripts:
    """Envelopes only."""
    return Scripts(client, queue_name)


class TestPut:
    def test_replies(self, s: Scripts) -> None:
        assert s.put(b"a") == [Status.ABSENT]
        s.create(2)
        assert s.put(b"a", generation=b"other") == [Status.AGAIN]
        assert s.put(b"a")[:2] == [OK, 1]
        assert s.put(b"b", b"c")[:2] == [OK, 1], "as many as there is room for"
        assert s.put(b"d")[0] == Status.FULL
        assert s.put(b"d", mode="overfill")[:2] == [OK, 1]
        assert s.queued() == [b"a", b"b", b"d"]
        s.run(s.protocol.close(GENERATION, ME))
        assert s.put(b"e") == [Status.CLOSED]

    def test_at_the_head(self, s: Scripts) -> None:
        s.create(2)
        s.put(b"a", b"b")
        s.put(b"x", b"y", mode="head")
        assert s.queued() == [b"x", b"y", b"a", b"b"]

    def test_a_repeat_is_not_carried_out_again(self, s: Scripts) -> None:
        s.create(3)
        assert s.put(b"a", b"b", sequence=7)[:2] == [OK, 2]
        for _ in range(2):
            assert s.put(b"a", b"b", sequence=7)[:2] == [OK, 2]
        s.put(b"c", producer=b"another", sequence=1)
        assert s.put(b"a", b"b", sequence=7)[:2] == [OK, 2], "though it is full now"
        s.run(s.protocol.close(GENERATION, ME))
        assert s.put(b"a", b"b", sequence=7)[:2] == [OK, 2], "though it is closed now"
        assert s.queued() == [b"a", b"b", b"c"]

    def test_what_was_refused_does_not_happen_later(self, s: Scripts) -> None:
        s.create(1)
        s.put(b"a")
        assert s.put(b"b", sequence=10)[0] == Status.FULL
        s.take()
        assert s.put(b"b", sequence=10)[0] == Status.FULL
        assert s.put(b"b", sequence=11)[:2] == [OK, 1]
        # It comes late, over a connection that its sender gave up long ago.
        s.take(known=True)
        assert s.put(b"b", sequence=10)[:2] == [OK, 0]
        assert s.queued() == []

    def test_a_0_15_producer_holds_the_role(self, s: Scripts) -> None:
        s.create()
        s.client.set(s.keys.producer, "ancient")
        s.client.rpop(s.keys.producer_free)
        assert s.put(b"a") == [Status.IN_USE, b"ancient"]
        assert s.run(s.protocol.break_role("producer")) == [OK, b"ancient"]
        assert s.run(s.protocol.break_role("producer")) == [Status.EMPTY]
        assert s.put(b"a")[:2] == [OK, 1]

    def test_stamps_and_counts(self, p: Scripts) -> None:
        p.create()
        p.put(b"12345")
        (item,) = p.client.lrange(p.keys.base, 0, -1)
        seconds, micros = p.client.time()
        assert 0 <= seconds * 1000 + micros // 1000 - envelope.Envelope.parse(item).put_ms < 10_000
        assert int(p.client.get(p.keys.produced_messages) or 0) == 1
        assert int(p.client.get(p.keys.produced_bytes) or 0) == len(item)
        assert p.client.get(p.keys.producer) == ME.encode()

    def test_what_was_uploaded_outlives_a_wait(self, p: Scripts) -> None:
        p.create(1)
        p.put(b"a")
        upload, item = BLOB_ID + b"2", p.blob(2)
        for refused in (Status.FULL, Status.IN_USE):
            if refused == Status.IN_USE:
                p.client.rpop(p.keys.producer_free)
            p.run(p.protocol.announce(BLOB_ID, 2))
            p.client.zadd(p.keys.uploads, {upload: 1})
            assert p.put(b"b", item)[0] == refused
            assert p.run(p.protocol.announce(b"o" * 16, 1)) == [OK]
            assert p.client.zscore(p.keys.uploads, upload)
        # What was dropped by then doesn't come back.
        p.client.zrem(p.keys.uploads, upload)
        assert p.put(item)[0] == Status.IN_USE
        assert p.client.zrange(p.keys.uploads, 0, -1) == [b"o" * 16 + b"1"]

    def test_producers_long_dead_are_forgotten(self, s: Scripts) -> None:
        s.create()
        for number in range(4):
            s.client.hset(s.keys.producers, f"old-{number}", f"5:1:{1000 + number}")
        for number in range(40):
            s.put(b"x", producer=b"new-%d" % number)
        left = [name for name in s.client.hkeys(s.keys.producers) if name.startswith(b"old")]
        assert not left


class TestTake:
    def test_replies(self, s: Scripts) -> None:
        assert s.take() == [Status.ABSENT]
        s.create(3)
        assert s.take(generation=b"other") == [Status.AGAIN]
        assert s.take() == [Status.EMPTY, 0, 0]
        s.put(b"a", b"b", b"c")
        status, *items = s.take(count=2, known=True)
        assert (status, s.bodies(items)) == (OK, [b"a", b"b"])
        assert s.held() == [b"a", b"b"]
        s.run(s.protocol.close(GENERATION, ME))
        assert s.bodies(s.take(count=5, known=True)[1:]) == [b"c"]
        assert s.take(known=True) == [Status.CLOSED, 0]

    def test_a_consumer_that_the_server_forgot(self, s: Scripts) -> None:
        s.create()
        assert s.take(known=True) == [Status.LOST]
        s.take()
        s.expire()
        s.run(s.protocol.reap(b"consumer"))
        assert s.take(known=True) == [Status.LOST]
        assert s.take(known=False) == [Status.LOST], "a late first take after its death"

    def test_overdue_leases_are_named(self, s: Scripts) -> None:
        s.create()
        s.take(b"first")
        s.expire(b"first")
        assert s.take() == [Status.EMPTY, 1, 0]

    def test_acknowledgements_ride_on_it(self, s: Scripts) -> None:
        s.create()
        s.put(b"a", b"b", b"c")
        items = s.take(count=2)[1:]
        reply = s.take(known=True, number=1, acks=s.acks("g", items))
        assert s.bodies(reply[1:]) == [b"c"]
        assert s.held() == [b"c"]
        assert s.fetched() == 2
        assert s.unfinished() == 3

    def test_waiters(self, s: Scripts) -> None:
        s.create()
        s.take(waiter="7@run")
        assert s.client.hgetall(s.keys.waiters) == {b"consumer": b"7@run"}
        s.put(b"a")
        assert s.take(known=True, waiter="7@run")[0] == OK
        assert s.client.hlen(s.keys.waiters) == 0, "who got something waits no longer"
        s.take(known=True, waiter="7@run")
        s.take(known=True, waiter="-")
        assert s.client.hlen(s.keys.waiters) == 0
        s.take(known=True, waiter="7@run")
        s.run(s.protocol.close(GENERATION, ME))
        s.take(known=True)
        assert s.client.hlen(s.keys.waiters) == 0

    def test_fetching_ahead_counts_against_the_bound(self, s: Scripts) -> None:
        s.create(10)
        s.take(b"another")
        s.put(*(b"%d" % number for number in range(10)))
        items = s.take(count=8, ahead=True)[1:]
        assert 3 < len(items) <= 5, "half of what is there is left to others"
        assert s.ahead() == s.ahead(b"consumer") == len(items) - 1
        assert s.put(b"x", b"y")[:2] == [OK, 1]
        assert s.run(s.protocol.size())[1] == 10
        s.take(known=True, count=0, number=1, acks=s.acks("g", items[:1]))
        assert s.put(b"z")[0] == Status.FULL, "the first was handed out when it was taken"
        s.take(known=True, count=0, number=2, acks=s.acks("a", items[1:3]))
        assert s.ahead() == len(items) - 3
        assert s.put(b"z", b"zz", b"zzz")[:2] == [OK, 2]

    def test_fetching_ahead_starves_nobody(self, s: Scripts) -> None:
        s.create()
        s.take(b"waiting", waiter="7@run")
        s.put(*(b"%d" % number for number in range(10)))
        assert len(s.take(count=8, ahead=True)[1:]) == 1

    def test_asking_early_takes_what_can_be_spared(self, s: Scripts) -> None:
        s.create(10)
        s.put(*(b"%d" % number for number in range(10)))
        first = s.take(count=1)[1:]
        items = s.take(known=True, count=4, early=True, acks=s.acks("g", first))[1:]
        assert s.bodies(items) == [b"1", b"2", b"3", b"4"]
        assert s.ahead() == s.ahead(b"consumer") == 4, "nobody waits for the first"
        assert s.put(b"x", b"y")[:2] == [OK, 1]
        s.take(b"waiting", count=0, waiter="7@run")
        acks = s.acks("a", items)
        assert s.take(known=True, count=4, early=True, acks=acks) == [Status.EMPTY, 0, 0]
        assert s.held() == []
        s.take(b"waiting", known=True, count=0, waiter="-")
        while s.length() > 1:
            s.take(b"waiting", known=True)
        assert s.take(known=True, count=4, early=True) == [Status.EMPTY, 0, 0], "the last is left"
        s.run(s.protocol.close(GENERATION, ME))
        assert s.take(known=True, count=4, early=True) == [Status.EMPTY, 0, 0], "and not drained"

    def test_the_oldest_in_a_row_are_acknowledged(self, s: Scripts) -> None:
        s.create()
        s.put(*(b"%d" % number for number in range(8)))
        items = s.take(count=6, ahead=True)[1:]
        for others in (items[1:4], [items[0], items[2], items[3]], [items[1], items[0], items[2]]):
            acks = s.acks("a", others)
            assert s.take(known=True, count=1, acks=acks, in_a_row=True, number=1) == [Status.EMPTY]
            assert len(s.held()) == 6, "nothing was done"
        acks = Acks("gaa", s.acks("a", items[:3]).tags)
        assert len(s.take(known=True, count=1, acks=acks, in_a_row=True, number=1)) == 2
        assert s.held() == [b"3", b"4", b"5", b"6"]
        assert (s.fetched(), s.ahead()) == (3, 3)
        s.client.hset(s.keys.blobs, "chunk", "x")
        acks = s.acks("a", items[3:])
        refused = s.take(known=True, count=1, acks=acks, in_a_row=True, number=2)
        assert refused == [Status.EMPTY], "one may have a blob"
        assert s.take(known=True, count=1, acks=acks, number=2)[0] == OK
        assert s.held() == [b"6", b"7"]
        s.client.delete(s.keys.blobs)

    def test_a_0_15_consumer_holds_the_role(self, s: Scripts) -> None:
        s.create()
        s.put(b"a")
        s.client.set(s.keys.consumer, "ancient")
        s.client.rpop(s.keys.consumer_free)
        assert s.take() == [Status.IN_USE, b"ancient"]
        assert s.run(s.protocol.break_role("consumer")) == [OK, b"ancient"]
        assert s.take(known=True)[0] == OK


class TestAck:
    def test_numbers_make_repeats_harmless(self, s: Scripts) -> None:
        """Also where all items look alike, as raw ones may."""
        s.create()
        s.put(*[b"same"] * 3)
        items = s.take(count=3)[1:]
        command = s.protocol.ack(b"consumer", s.acks("g", items[:1]), 5)
        for _ in range(3):
            assert s.run(command) == [OK, 0]
        assert len(s.held()) == 2
        assert s.fetched() == 1

    def test_leased_items(self, s: Scripts) -> None:
        s.create()
        s.put(b"a", b"b", b"c")
        items = s.take(count=3)[1:]
        assert s.run(s.protocol.ack(b"consumer", s.acks("f", items[1:2]))) == [OK, 1]
        assert s.run(s.protocol.ack(b"consumer", s.acks("f", items[1:2]))) == [OK, 0]
        assert s.held() == [b"a", b"c"]
        assert s.fetched() == 0
        assert s.unfinished() == 2

    def test_after_its_death(self, s: Scripts) -> None:
        s.create()
        s.put(b"a")
        items = s.take()[1:]
        s.expire()
        s.run(s.protocol.reap(b"consumer"))
        assert s.run(s.protocol.ack(b"consumer", s.acks("f", items))) == [Status.LOST]
        assert s.queued()

    def test_blobs_are_freed(self, p: Scripts) -> None:
        p.create()
        value = p.blob(2)
        assert p.run(p.protocol.announce(BLOB_ID, 2)) == [OK]
        for index in range(2):
            p.run(p.protocol.blob_write(BLOB_ID, index, b"chunk"))
        p.put(value)
        assert p.client.zcard(p.keys.uploads) == 0
        items = p.take()[1:]
        p.run(p.protocol.ack(b"consumer", p.acks("g", items), 1))
        assert p.client.exists(p.keys.blobs) == 0

    def test_uploads_that_were_never_put(self, p: Scripts) -> None:
        assert p.run(p.protocol.announce(b"i" * 16, 1)) == [Status.ABSENT]
        p.create()
        p.run(p.protocol.blob_write(b"o" * 16, 0, b"orphan"))
        p.client.zadd(p.keys.uploads, {b"o" * 16 + b"1": 1})
        assert p.run(p.protocol.announce(b"i" * 16, 3)) == [OK]
        assert p.client.exists(p.keys.blobs) == 0
        assert p.client.zrange(p.keys.uploads, 0, -1) == [b"i" * 16 + b"3"]


class TestGiveBack:
    def test_order_and_charge(self, p: Scripts) -> None:
        p.create(3)
        p.put(b"a", b"b", b"c", b"d")
        items = p.take(count=2)[1:]
        command = p.protocol.give_back(b"consumer", [p.tag(i) for i in items], charge=True)
        assert p.run(command) == [OK, 2]
        assert p.run(command) == [OK, 0]
        assert p.queued() == [b"a", b"b", b"c"]
        again = p.take(count=2, known=True)[1:]
        assert [envelope.Envelope.parse(item).deliveries for item in again] == [1, 1]
        p.run(p.protocol.give_back(b"consumer", [p.tag(again[0])], charge=False))
        assert int(p.client.get(p.keys.consumed_messages) or 0) == 1

    def test_raw_items_are_charged_by_digest(self, client: redis.Redis, queue_name: str) -> None:
        s = Scripts(client, queue_name, raw=True)
        s.create()
        s.put(b"a")
        tag = s.tag(b"a")
        for expected in (1, 2):
            s.take(known=expected > 1)
            s.run(s.protocol.give_back(b"consumer", [tag], charge=True))
            assert int(s.run(s.protocol.delivery_count(tag))) == expected

    def test_what_was_fetched_ahead(self, s: Scripts) -> None:
        s.create(6)
        s.put(*(b"%d" % number for number in range(6)))
        items = s.take(count=3, ahead=True)[1:]
        tags = [s.tag(item) for item in items[1:]]
        command = s.protocol.give_back(b"consumer", tags, charge=False, ahead=True)
        assert s.run(command) == [OK, 2]
        assert s.run(command) == [OK, 0]
        assert s.ahead() == 0
        assert s.queued() == [b"1", b"2", b"3", b"4", b"5"]

    def test_after_its_death(self, s: Scripts) -> None:
        s.create()
        s.put(b"a")
        items = s.take()[1:]
        s.expire()
        s.run(s.protocol.reap(b"consumer"))
        tags = [s.tag(items[0])]
        assert s.run(s.protocol.give_back(b"consumer", tags, charge=True)) == [Status.LOST]
        assert len(s.queued()) == 1


class TestSettle:
    def test_an_item_that_blmove_brought(self, s: Scripts) -> None:
        s.create(1)
        s.take(waiter="7@run")
        s.put(b"a")
        item = s.run(s.protocol.blocking_take(b"consumer", 0.1), check=False)
        assert s.bodies([item]) == [b"a"]
        assert s.run(s.protocol.settle(GENERATION, b"consumer", ME, len(item)))[0] == OK
        assert s.client.hlen(s.keys.waiters) == 0
        assert int(s.client.get(s.keys.consumed_messages) or 0) == 1

    @pytest.mark.parametrize("size", [0, -1])
    def test_an_item_without_bytes(self, client: redis.Redis, queue_name: str, size: int) -> None:
        raw = Scripts(client, queue_name, raw=True)
        raw.create(1)
        raw.take(waiter="7@run")
        raw.put(b"")
        assert not raw.client.exists(raw.keys.not_full)
        assert raw.run(raw.protocol.blocking_take(b"consumer", 0.1), check=False) == b""
        assert raw.run(raw.protocol.settle(GENERATION, b"consumer", ME, size))[0] == OK
        assert raw.client.llen(raw.keys.not_full) == 1
        assert int(raw.client.get(raw.keys.consumed_messages) or 0) == 1

    def test_a_block_without_an_item(self, s: Scripts) -> None:
        s.create(1)
        s.take(waiter="7@run")
        assert s.run(s.protocol.settle(GENERATION, b"consumer", ME, None))[0] == OK
        assert s.client.hlen(s.keys.waiters) == 0
        assert not s.client.exists(s.keys.consumed_messages)

    def test_one_that_came_too_late(self, s: Scripts) -> None:
        s.create(2)
        s.take()
        s.put(b"a", b"b")
        s.run(s.protocol.blocking_take(b"consumer", 0.1), check=False)
        s.run(s.protocol.blocking_take(b"consumer", 0.1), check=False)
        s.client.zrem(s.keys.leases, b"consumer")
        assert s.run(s.protocol.settle(GENERATION, b"consumer", ME, 1)) == [Status.LOST]
        assert s.queued() == [b"a", b"b"]
        assert s.held() == []

    def test_one_of_another_generation(self, s: Scripts) -> None:
        s.create(1, b"generation-2")
        s.put(b"a", generation=b"generation-2")
        s.run(s.protocol.blocking_take(b"consumer", 0.1), check=False)
        assert s.run(s.protocol.settle(GENERATION, b"consumer", ME, 1)) == [Status.LOST]
        assert s.queued() == [b"a"]


class TestAdopt:
    def test_everything_comes_along(self, s: Scripts) -> None:
        s.create(8)
        s.put(*(b"%d" % number for number in range(8)))
        items = s.take(count=4, ahead=True)[1:]
        s.take(known=True, count=0, number=9, acks=s.acks("g", items[:1]))
        command = s.protocol.adopt(b"consumer", b"new", LEASE_MS)
        for _ in range(2):
            status, number, ahead, *held = s.run(command)
            assert (status, number, ahead) == (OK, 9, 3)
            assert s.bodies(held) == [b"1", b"2", b"3"]
        assert (s.held(), s.held(b"new")) == ([], [b"1", b"2", b"3"])
        assert (s.fetched(), s.fetched(b"new")) == (0, 1)
        assert (s.ahead(b"consumer"), s.ahead(b"new"), s.ahead()) == (0, 3, 3)
        assert s.take(known=True) == [Status.LOST], "the old id is fenced"
        assert s.take(known=False) == [Status.LOST]
        assert s.take(b"new", known=True)[0] == OK

    def test_what_a_late_command_moves_to_the_old_id(self, s: Scripts) -> None:
        s.create(2)
        s.put(b"a")
        s.take()
        s.run(s.protocol.adopt(b"consumer", b"new", LEASE_MS))
        s.put(b"b", b"c")
        s.run(s.protocol.blocking_take(b"consumer", 0.1), check=False)
        s.client.zadd(s.keys.departed, {b"consumer": 1})
        _, due = s.run(s.protocol.renew(LEASE_MS, [b"new"]), check=False)
        assert due == [b"consumer"]
        assert s.run(s.protocol.reap(b"consumer")) == [OK, 1]
        assert s.queued() == [b"b", b"c"]
        if not s.raw:
            item = s.client.lindex(s.keys.base, -1)
            assert isinstance(item, bytes)
            assert envelope.caps(item)[1] == 0, "nobody had begun with it"

    def test_of_somebody_unknown(self, s: Scripts) -> None:
        assert s.run(s.protocol.adopt(b"consumer", b"new", LEASE_MS)) == [Status.LOST]
        assert s.client.keys(f"*{s.keys.name}*") == [], "nothing is left of a deleted queue"
        s.create()
        assert s.run(s.protocol.adopt(b"consumer", b"new", LEASE_MS)) == [Status.LOST]


class TestLeave:
    def test_everything_goes_back(self, s: Scripts) -> None:
        s.create(8)
        s.put(*(b"%d" % number for number in range(6)))
        items = s.take(count=3, ahead=True)[1:]
        acks = s.acks("g", items[:1])
        command = s.protocol.leave(b"consumer", b"producer", acks, 3)
        assert s.run(command) == [OK, 2]
        assert s.run(command) == [OK, 0]
        assert s.queued() == [b"1", b"2", b"3", b"4", b"5"]
        assert s.ahead() == 0
        assert s.client.zcard(s.keys.leases) == s.client.hlen(s.keys.producers) == 0
        assert s.fetched(b"*") == 1, "what it got is still to be done"
        assert s.unfinished() == 6


class TestReap:
    def test_the_living_are_spared(self, s: Scripts) -> None:
        s.create()
        s.put(b"a")
        s.take()
        assert s.run(s.protocol.reap(b"consumer")) == [Status.AGAIN]
        assert s.run(s.protocol.reap(b"consumer", force=True)) == [OK, 1]

    def test_a_dead_consumer(self, p: Scripts) -> None:
        p.create(8)
        p.put(*(b"%d" % number for number in range(6)))
        items = p.take(count=3, ahead=True, waiter="7@run")[1:]
        p.take(known=True, count=0, number=1, acks=p.acks("g", items[:1]))
        assert p.unfinished() == 6
        p.expire()
        lost, due = p.run(p.protocol.renew(LEASE_MS, [b"consumer", b"unknown"]))
        assert lost == [b"unknown"]
        assert due == [], "its own renewal came in time"
        p.expire()
        lost, due = p.run(p.protocol.renew(LEASE_MS, []))
        assert due == [b"consumer"]
        for expected in (2, 0):
            assert p.run(p.protocol.reap(b"consumer")) == [OK, expected]
        assert p.queued() == [b"1", b"2", b"3", b"4", b"5"]
        assert p.ahead() == p.fetched() == p.client.hlen(p.keys.waiters) == 0
        assert p.unfinished() == 5, "what it had got counts as done"
        deliveries = [envelope.caps(item)[1] for item in p.take(b"next", 5)[1:]]
        assert deliveries == [1, 0, 0, 0, 0], "only what it had begun with is charged"

    def test_a_departed_consumer_is_looked_at_for_an_hour(self, s: Scripts) -> None:
        s.create()
        s.take()
        s.expire()
        s.run(s.protocol.reap(b"consumer"))
        assert s.client.zscore(s.keys.departed, b"consumer")
        s.client.hset(s.keys.departures, b"consumer", "1")
        s.run(s.protocol.reap(b"consumer"))
        assert s.client.zcard(s.keys.departed) == s.client.hlen(s.keys.departures) == 0

    def test_what_others_did_on_its_behalf(self, s: Scripts) -> None:
        s.create()
        s.put(b"a", b"b")
        items = s.take(count=2)[1:]
        s.run(s.protocol.ack(b"consumer", s.acks("g", items), 1))
        s.run(s.protocol.task_done(b"other", 1, []))
        assert s.unfinished() == 1
        s.expire()
        s.run(s.protocol.reap(b"consumer"))
        assert s.unfinished() == 0

    def test_of_a_deleted_queue(self, s: Scripts) -> None:
        assert s.run(s.protocol.reap(b"consumer")) == [OK, 0]
        assert s.client.keys(f"*{s.keys.name}*") == []


class TestTaskDone:
    def test_counts(self, s: Scripts) -> None:
        assert s.run(s.protocol.task_done(b"me", 1, [])) == [Status.ABSENT]
        s.create()
        s.put(b"a", b"b")
        assert s.run(s.protocol.task_done(b"me", 1, [b"consumer"])) == [Status.EMPTY]
        items = s.take(count=2)[1:]
        s.run(s.protocol.ack(b"consumer", s.acks("g", items), 1))
        for _ in range(3):
            assert s.run(s.protocol.task_done(b"me", 2, [b"consumer"])) == [OK]
        assert s.unfinished() == 1
        assert s.run(s.protocol.task_done(b"me", 1, [b"consumer"])) == [OK], "a late repeat"
        assert s.unfinished() == 1
        assert s.run(s.protocol.task_done(b"me", 3, [b"consumer"])) == [OK]
        assert s.run(s.protocol.task_done(b"me", 4, [b"consumer"])) == [Status.EMPTY]
        assert s.client.exists(s.keys.fetched) == 0

    def test_joiners_are_woken(self, s: Scripts) -> None:
        s.create()
        s.put(b"a")
        assert s.run(s.protocol.unfinished(5000)) == [OK, 1]
        items = s.take()[1:]
        assert s.run(s.protocol.unfinished(5000))[0] == Status.AGAIN
        assert s.run(s.protocol.unfinished(5000, [b"consumer"])) == [OK, 1]
        s.take(known=True, count=0, number=1, acks=s.acks("g", items))
        assert s.client.llen(s.keys.joined) == 0
        s.run(s.protocol.task_done(b"me", 1, [b"consumer"]))
        assert s.client.llen(s.keys.joined) == 1
        assert s.run(s.protocol.unfinished(5000, [b"consumer"])) == [OK, 0]


def test_acks_of_nothing(s: Scripts) -> None:
    s.create()
    s.take()
    assert s.run(s.protocol.ack(b"consumer", Acks("ga", [b"x" * 16, b"y" * 16]), 1)) == [OK, 0]
    assert s.ahead() == s.fetched() == 0
