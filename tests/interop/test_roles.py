"""The roles of 0.15: ours wait for a held one without taking it, and can free a dead client's."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from pressure import (
    PressureQueue,
    QueueClosedError,
    QueueDoesNotExistError,
    QueueInUseError,
    flows,
    lifecycle,
)
from tests.interop.conftest import LIMIT, Old, Ours, Table, start
from tests.support.published import STEPS, Crash, crash_at
from tests.support.waiting import eventually


class Hold:
    """A crash point that holds its thread at a step until it is told to go on."""

    def __init__(self, step: str) -> None:
        self._step = step
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, step: str) -> None:
        if step == self._step:
            self.reached.set()
            assert self.go_on.wait(LIMIT)


class TestAHeldRole:
    @pytest.mark.parametrize("timeout", [0.0, 0.001, 0.2])
    def test_put_names_the_holder_when_time_is_up(
        self, old: Old, ours: Ours, timeout: float
    ) -> None:
        hold = Hold("put.open")
        holder, producer = old(client_id="some-host_4711", at=hold), ours()
        producer.create()
        putting = start(lambda: holder.put(b"theirs"))
        assert hold.reached.wait(LIMIT)
        with pytest.raises(QueueInUseError, match=r"producer role is held by some-host_4711"):
            producer.put(b"ours", timeout=timeout)
        with pytest.raises(QueueInUseError):
            producer.put_nowait(b"ours")
        hold.go_on.set()
        putting.result(LIMIT)
        assert producer.get_many(10) == [b"theirs"]

    @pytest.mark.parametrize("timeout", [0.0, 0.001, 0.2])
    def test_get_names_the_holder_when_time_is_up(
        self, old: Old, ours: Ours, table: Table, timeout: float
    ) -> None:
        holder, consumer = old(client_id="some-host_4711"), ours()
        consumer.create()
        getting = start(holder.get)
        table.await_blocked("brpop")
        with pytest.raises(QueueInUseError, match=r"consumer role is held by some-host_4711"):
            consumer.get(timeout=timeout)
        with pytest.raises(QueueInUseError):
            consumer.get_nowait()
        consumer.put(b"item")
        assert getting.result(LIMIT) == b"item"

    def test_close_gives_up_in_the_end(
        self, old: Old, ours: Ours, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lifecycle, "TOKEN_PATIENCE", 0.2)
        queue = ours()
        queue.create()
        with pytest.raises(Crash):
            old(client_id="dead", at=crash_at("put.open")).put(b"never")
        with pytest.raises(QueueInUseError, match="dead"):
            queue.close()
        assert not queue.closed()

    def test_waiting_takes_no_token(self, old: Old, ours: Ours, table: Table) -> None:
        hold = Hold("put.open")
        holder, producers = old(at=hold), [ours() for _ in range(3)]
        producers[0].create()
        theirs = start(lambda: holder.put(b"theirs"))
        assert hold.reached.wait(LIMIT)
        putting = [start(each.put, b"ours") for each in producers]
        table.await_blocked("blmove", 3)
        assert not any(each.done() for each in putting)
        hold.go_on.set()
        theirs.result(LIMIT)
        for each in putting:
            each.result(LIMIT)
        assert table.tokens() == (1, 1, 1)
        # Another client of 0.15 gets the role at once.
        old().put(b"more", LIMIT)
        assert producers[0].get_many(10)[0] == b"theirs"

    def test_waiting_for_the_consumer_role(self, old: Old, ours: Ours, table: Table) -> None:
        holder, consumers = old(), [ours() for _ in range(3)]
        consumers[0].create()
        theirs = start(holder.get)
        table.await_blocked("brpop")
        getting = [start(each.get) for each in consumers]
        table.await_blocked("blmove", 3)
        producer = ours()
        for number in range(4):
            producer.put(b"%d" % number)
        assert theirs.result(LIMIT) == b"0"
        assert {each.result(LIMIT) for each in getting} == {b"1", b"2", b"3"}
        assert table.tokens()[:2] == (1, 1)

    def test_waiting_for_a_role_ends_with_a_close(self, old: Old, ours: Ours, table: Table) -> None:
        holder, consumer, producer = old(), ours(), ours()
        producer.create()
        theirs = start(holder.get)
        table.await_blocked("brpop")
        getting = start(consumer.get)
        table.await_blocked("blmove")
        producer.close()
        assert theirs.exception(LIMIT) is not None
        with pytest.raises(QueueClosedError):
            getting.result(LIMIT)

    def test_unblock_ends_the_wait_for_a_role(self, old: Old, ours: Ours, table: Table) -> None:
        consumer = ours()
        consumer.create()
        theirs = start(old().get)
        table.await_blocked("brpop")
        getting = start(consumer.get)
        table.await_blocked("blmove")
        consumer.unblock()
        assert "unblock" in str(getting.exception(LIMIT))
        ours().put(b"item")
        assert theirs.result(LIMIT) == b"item"


def steps(*operations: str) -> list[str]:
    # What happens to a closed queue is another test's matter.
    return [
        step
        for step in STEPS
        if step.partition(".")[0] in operations and not step.endswith(".closed")
    ]


OPERATIONS: dict[str, tuple[str, Callable[[PressureQueue[bytes]], object]]] = {
    "put": ("producer", lambda queue: queue.put(b"late")),
    "put_many": ("producer", lambda queue: queue.put_many([b"late", b"later"])),
    "close": ("producer", lambda queue: queue.close()),
    "shutdown": ("producer", lambda queue: queue.shutdown()),
    "get": ("consumer", lambda queue: queue.get()),
    "get_many": ("consumer", lambda queue: queue.get_many(2)),
    "iteration": ("consumer", lambda queue: next(iter(queue))),
    "lease": ("consumer", lambda queue: queue.lease()),
}


class TestASuccessor:
    @pytest.mark.parametrize("operation", OPERATIONS)
    def test_is_not_used_by_who_waits_for_a_role_of_the_deleted_queue(
        self,
        old: Old,
        ours: Ours,
        table: Table,
        monkeypatch: pytest.MonkeyPatch,
        operation: str,
    ) -> None:
        monkeypatch.setattr(flows, "SLICE", LIMIT)
        monkeypatch.setattr(lifecycle, "TOKEN_PATIENCE", 0.05)
        waiter, other = ours(), ours()
        waiter.create(5)
        role, act = OPERATIONS[operation]
        if role == "producer":
            with pytest.raises(Crash):
                old(at=crash_at("put.open")).put(b"never")
        else:
            with pytest.raises(Crash):
                old(at=crash_at("get.set_consumer")).get()
        acting = start(act, waiter)
        table.await_blocked("blmove")
        with pytest.warns(RuntimeWarning, match="had not returned"):
            other.delete()
        other.create(5)
        other.put(b"of the successor")
        with pytest.raises(QueueDoesNotExistError, match="deleted while"):
            acting.result(LIMIT)
        assert not other.closed()
        assert other.get_many(10) == [b"of the successor"]


class TestADeadHolder:
    def test_is_named_in_a_warning(
        self, old: Old, ours: Ours, table: Table, caplog: pytest.LogCaptureFixture
    ) -> None:
        queue = ours()
        queue.create()
        with pytest.raises(Crash):
            old(client_id="host_4711", at=crash_at("put.open")).put(b"never")
        putting = start(queue.put, b"item")
        assert eventually(lambda: "break_role('producer')" in caplog.text, LIMIT)
        assert "host_4711" in caplog.text
        queue.break_role("producer")
        putting.result(LIMIT)
        assert len(caplog.records) == 1

    def test_break_role_frees_whoever_waits(self, old: Old, ours: Ours, table: Table) -> None:
        queue = ours()
        queue.create()
        with pytest.raises(Crash):
            old(client_id="dead", at=crash_at("put.set_producer")).put(b"never")
        putting = start(lambda: queue.put(b"item"))
        table.await_blocked("blmove")
        assert ours().break_role("producer") == "dead"
        putting.result(LIMIT)
        assert queue.break_role("producer") == ""
        assert queue.break_role("consumer") == ""
        assert table.tokens() == (1, 1, 1)

    @pytest.mark.parametrize("bound", [0, 1, 2])
    @pytest.mark.parametrize("step", steps("put", "get", "close"))
    def test_dead_at_any_step_costs_no_more_than_its_own_item(
        self, old: Old, ours: Ours, table: Table, step: str, bound: int
    ) -> None:
        """After break_role both kinds work on, within the bound."""
        queue = ours()
        queue.create(bound)
        operation = step.partition(".")[0]
        if operation == "get":
            queue.put(b"before")
        dying = old(at=crash_at(step))
        actions: dict[str, Callable[[], object]] = {
            "put": lambda: dying.put(b"before"),
            "get": dying.get,
            "close": dying.close,
        }
        try:
            actions[operation]()
        except Crash:
            pass
        else:
            assert step == "put.took_not_full" and bound == 0
        for role in ("producer", "consumer"):
            queue.break_role(role)
        assert table.tokens()[:2] == (1, 1)

        if queue.closed():
            with pytest.raises(QueueClosedError):
                queue.put(b"late", timeout=LIMIT)
            return
        left = [queue.get() for _ in range(queue.qsize())]
        assert left in ([], [b"before"])
        theirs, most = old(), bound or 3
        for _ in range(2):
            for number in range(most):
                (theirs.put if number % 2 else queue.put)(b"item", timeout=LIMIT)
            assert queue.full() is (bound > 0)
            assert table.tokens()[2] == (bound == 0)
            for number in range(most):
                got = queue.get(timeout=LIMIT) if number % 2 else theirs.get(LIMIT)
                assert got == b"item"
        assert table.tokens() == (1, 1, 1)
