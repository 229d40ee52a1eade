"""Creating, looking at, closing, deleting and re-creating by either kind of client."""

from __future__ import annotations

import pytest

from pressure import (
    LeaseLostError,
    PressureQueue,
    QueueAlreadyExistsError,
    QueueClosedError,
    QueueDoesNotExistError,
    QueueFullError,
    lifecycle,
    recovering,
)
from tests.interop.conftest import LIMIT, Old, Ours, Table, start
from tests.interop.test_roles import Hold
from tests.support.fixtures import keys_left
from tests.support.published import (
    AlreadyExists,
    Closed,
    Crash,
    DoesNotExist,
    Empty,
    Full,
    crash_at,
)


class TestCreate:
    def test_made_by_0_15_and_used_by_ours(self, old: Old, ours: Ours, table: Table) -> None:
        theirs, mine = old(), ours()
        before = mine.exists
        theirs.create(3)
        assert (before, mine.exists) == (False, True)
        assert mine.maxsize == 3
        assert not table.client.exists(table.keys.generation)
        mine.put(b"1")
        assert table.client.exists(table.keys.generation)
        assert theirs.get(LIMIT) == b"1"
        with pytest.raises(QueueAlreadyExistsError):
            mine.create(3)

    def test_made_by_0_15_is_not_made_again(self, old: Old, ours: Ours, table: Table) -> None:
        old().create(3)
        with pytest.raises(QueueAlreadyExistsError):
            ours().create(5)
        assert not table.client.exists(table.keys.generation)
        assert ours().maxsize == 3

    def test_made_by_ours_and_used_by_0_15(self, old: Old, ours: Ours, table: Table) -> None:
        theirs, mine = old(), ours()
        mine.create(3)
        assert theirs.exists
        assert table.tokens() == (1, 1, 1)
        theirs.put(b"1", LIMIT)
        assert mine.get(timeout=LIMIT) == b"1"
        with pytest.raises(AlreadyExists):
            theirs.create(3)

    @pytest.mark.parametrize("step", ["create.bound", "create.freed_producer"])
    def test_half_made_by_a_0_15_client_that_died(self, old: Old, ours: Ours, step: str) -> None:
        with pytest.raises(Crash):
            old(at=crash_at(step)).create(1)
        queue = ours()
        for role in ("producer", "consumer"):
            queue.break_role(role)
        queue.put(b"item", timeout=LIMIT)
        assert old().get(LIMIT) == b"item"
        old().put(b"item", LIMIT)


class TestLooking:
    def test_both_see_the_same(self, old: Old, ours: Ours) -> None:
        theirs, mine = old(), ours()
        theirs.create(2)
        assert (mine.qsize(), mine.empty(), mine.full()) == (0, True, False)
        theirs.put(b"1", LIMIT)
        mine.put(b"2")
        assert theirs.length == mine.qsize() == 2
        assert mine.full()
        assert mine.peek() == b"1"
        assert mine.peek_reverse() == b"2"
        assert theirs.length == 2
        assert theirs.closed is mine.closed() is False

    def test_full_and_empty_for_both(self, old: Old, ours: Ours) -> None:
        theirs, mine = old(), ours()
        mine.create(1)
        with pytest.raises(Empty):
            theirs.get_nowait()
        mine.put(b"1")
        with pytest.raises(Full):
            theirs.put_nowait(b"2")
        with pytest.raises(QueueFullError):
            mine.put_nowait(b"2")
        assert theirs.get_nowait() == b"1"
        theirs.put_nowait(b"2")
        with pytest.raises(QueueFullError):
            mine.put(b"3", timeout=0.1)

    def test_overfilled_by_0_15(self, old: Old, ours: Ours, table: Table) -> None:
        theirs, mine = old(), ours()
        theirs.create(1)
        for number in range(3):
            theirs.put(b"%d" % number, LIMIT, overfill=True)
        assert mine.qsize() == 3
        assert table.tokens()[2] == 1
        with pytest.raises(QueueFullError):
            mine.put(b"more", timeout=0.1)
        # The stale element would have kept us busy asking.
        assert table.tokens()[2] == 0
        assert [mine.get() for _ in range(2)] == [b"0", b"1"]
        assert mine.full()
        assert table.tokens()[2] == 0
        assert mine.get() == b"2"
        assert table.tokens()[2] == 1

    def test_overfilled_by_ours(self, old: Old, ours: Ours, table: Table) -> None:
        theirs, mine = old(), ours()
        mine.create(1)
        for number in range(3):
            mine.overfill(b"%d" % number)
        assert theirs.length == 3
        assert [theirs.get(LIMIT) for _ in range(2)] == [b"0", b"1"]
        with pytest.raises(Full):
            theirs.put_nowait(b"more")
        assert theirs.get(LIMIT) == b"2"
        assert table.tokens()[2] == 1

    def test_counters_agree(self, old: Old, ours: Ours, table: Table) -> None:
        theirs, mine = old(client_id="theirs"), ours()
        theirs.create(0)
        theirs.put(b"four", LIMIT)
        mine.put_many([b"1", b"22"])
        mine.overfill(b"")
        before = mine.stats()
        assert (before.produced_messages, before.produced_bytes) == (4, 7)
        assert before.last_producer == mine._core.client
        with pytest.raises(KeyError), mine.lease(LIMIT):
            raise KeyError("given back")
        assert theirs.get(LIMIT) == b"four"
        assert mine.stats().last_consumer == "theirs"
        assert mine.get_many(10) == [b"1", b"22", b""]
        after = mine.stats()
        assert (after.consumed_messages, after.consumed_bytes) == (4, 7)
        assert (after.produced_messages, after.produced_bytes) == (4, 7)
        assert table.number(table.keys.consumed_bytes) == 7


class TestClose:
    def test_by_0_15(self, old: Old, ours: Ours) -> None:
        theirs, mine = old(), ours()
        theirs.create(0)
        theirs.put(b"1")
        theirs.close()
        assert mine.closed()
        with pytest.raises(QueueClosedError):
            mine.put(b"2")
        with pytest.raises(QueueClosedError):
            mine.close()
        mine.shutdown()
        assert mine.get() == b"1"
        with pytest.raises(QueueClosedError):
            mine.get()

    def test_by_ours(self, old: Old, ours: Ours, table: Table) -> None:
        theirs, mine = old(), ours()
        mine.create()
        mine.put(b"1")
        mine.close()
        assert theirs.closed
        with pytest.raises(Closed):
            theirs.put(b"2", LIMIT)
        with pytest.raises(Closed):
            theirs.close(LIMIT)
        assert list(theirs) == [b"1"]
        assert table.tokens()[:2] == (1, 1)


@pytest.mark.leaves_no_keys
class TestOurDelete:
    def test_wakes_a_blocked_0_15_consumer(self, old: Old, ours: Ours, table: Table) -> None:
        queue = ours()
        queue.create()
        getting = start(old().get)
        table.await_blocked("brpop")
        queue.delete()
        with pytest.raises(Closed):
            getting.result(LIMIT)

    def test_wakes_a_blocked_0_15_producer(self, old: Old, ours: Ours, table: Table) -> None:
        queue, theirs = ours(), old()
        queue.create(1)
        queue.put(b"1")
        putting = start(lambda: theirs.put(b"2"))
        table.await_blocked("brpop")
        queue.delete()
        # As published, it finishes its put into what is being deleted.
        putting.result(LIMIT)
        assert not queue.exists

    def test_waits_until_the_roles_are_returned(self, old: Old, ours: Ours, table: Table) -> None:
        queue, hold = ours(), Hold("put.pushed")
        queue.create()
        putting = start(lambda: old(at=hold).put(b"1"))
        assert hold.reached.wait(LIMIT)
        deleting = start(queue.delete)
        table.await_blocked("blmove")
        assert not queue.exists
        assert table.client.exists(table.keys.base)
        hold.go_on.set()
        putting.result(LIMIT)
        deleting.result(LIMIT)

    def test_does_not_wait_for_the_dead(
        self, old: Old, ours: Ours, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lifecycle, "TOKEN_PATIENCE", 0.2)
        queue = ours()
        queue.create()
        with pytest.raises(Crash):
            old(at=crash_at("put.pushed")).put(b"1")
        with pytest.warns(RuntimeWarning, match="had not returned"):
            queue.delete()

    def test_by_the_consumer_once_it_is_drained(self, old: Old, ours: Ours) -> None:
        theirs, mine = old(), ours()
        theirs.create(0)
        theirs.put(b"1")
        theirs.close()
        assert list(mine) == [b"1"]
        mine.delete()
        with pytest.raises(DoesNotExist):
            theirs.put(b"2")


class TestA015Delete:
    def test_by_the_consumer_once_it_is_drained(self, old: Old, ours: Ours) -> None:
        theirs, mine = old(), ours()
        mine.create(5)
        mine.put_many([b"1", b"2"])
        mine.close()
        assert list(theirs) == [b"1", b"2"]
        theirs.delete(LIMIT)
        with pytest.raises(QueueDoesNotExistError):
            mine.put(b"3")
        with pytest.raises(QueueDoesNotExistError):
            mine.get()

    def test_a_new_queue_of_that_name_starts_afresh(
        self, old: Old, ours: Ours, table: Table
    ) -> None:
        theirs, mine = old(), ours()
        mine.create(4)
        mine.put_many([b"%d" % number for number in range(4)])
        stale: PressureQueue[bytes] = ours()
        leases = [stale.lease(LIMIT) for _ in range(2)]
        before = table.client.get(table.keys.generation)
        theirs.delete(LIMIT)
        with pytest.raises(QueueDoesNotExistError):
            mine.get_nowait()
        theirs.create(4)
        mine.put(b"new 0", timeout=LIMIT)
        assert table.client.get(table.keys.generation) != before
        # What was on lease belongs to the old life: it must not come back into the new one.
        for lease in leases:
            with pytest.raises(LeaseLostError):
                lease.give_back()
        mine._handle.call(recovering.reap_due(mine._core))
        assert [key for key in keys_left(table.client, mine.name) if ":taken:" in key] == []
        stale.disconnect()
        for number in range(1, 4):
            mine.put(b"new %d" % number, timeout=LIMIT)
        assert mine.full()
        assert [theirs.get(LIMIT) for _ in range(4)] == [b"new %d" % number for number in range(4)]

    def test_under_a_consumer_that_has_fetched_ahead(self, old: Old, ours: Ours) -> None:
        theirs, mine, consumer = old(), ours(), ours()
        mine.create(64)
        mine.put_many([b"%d" % number for number in range(64)])
        items = iter(consumer)
        for _ in range(3):
            next(items)
        theirs.delete(LIMIT)
        # Else it might be made anew before any 1.0 client has noticed, and what was fetched ahead
        # would be given back to the new one.
        with pytest.raises(QueueDoesNotExistError):
            mine.get_nowait()
        theirs.create(2)
        for _ in range(2):
            mine.put(b"new", timeout=LIMIT)
        consumer.disconnect()
        assert [theirs.get(LIMIT) for _ in range(2)] == [b"new", b"new"]
        assert theirs.length == 0

    def test_who_notices_leaves_nothing(self, old: Old, ours: Ours, table: Table) -> None:
        theirs, consumer, leaser, producer = old(), ours(), ours(), ours()
        theirs.create(0)
        producer.put_many([b"1", b"2", b"3"])
        assert consumer.get(timeout=LIMIT) == b"1"
        leaser.lease(LIMIT)
        consumer.lease(LIMIT)
        theirs.delete(LIMIT)
        for notices in (consumer.get_nowait, leaser.get_nowait, lambda: producer.put_nowait(b"4")):
            with pytest.raises(QueueDoesNotExistError):
                notices()
        consumer.disconnect()
        leaser.disconnect()
        assert keys_left(table.client, producer.name) == []
