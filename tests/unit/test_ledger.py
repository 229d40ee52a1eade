"""The client's books: what is sent when, and what becomes of it after a loss. No server."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import pytest

from pressure.executor.client.futures import TaskFuture
from pressure.executor.client.ledger import Batch, Ledger
from pressure.executor.client.options import Options

WAIT = 10.0


class NoWithdrawer:
    def withdraw(self, task_id: bytes) -> bool:
        return False

    def withdraw_many(self, task_ids: Iterable[bytes]) -> list[TaskFuture[Any]]:
        return []


def task(name: str, max_deliveries: int = 3) -> TaskFuture[Any]:
    future: TaskFuture[Any] = TaskFuture(
        key(name), NoWithdrawer(), Options(max_deliveries=max_deliveries)
    )
    future._record = name.encode()
    return future


def key(name: str) -> bytes:
    return name.encode().rjust(16, b".")


def add(ledger: Ledger, names: str, **options: Any) -> None:
    for name in names:
        assert ledger.add(key(name), task(name, **options), may_wait=False)


def next_batch(ledger: Ledger) -> tuple[Batch, str]:
    batch = ledger.next_batch()
    assert batch is not None
    return batch, b"".join(record.id[-1:] for record in batch.records).decode()


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(window=4, most=3, max_pending=None)


def test_batches_are_in_order_and_within_the_window(ledger: Ledger) -> None:
    add(ledger, "abcdef")
    batch, names = next_batch(ledger)
    assert names == "abc"
    assert not ledger.delivered(batch, 3, 1)
    batch, names = next_batch(ledger)
    assert names == "d"
    ledger.delivered(batch, 1, 2)
    ledger.forget([key("a"), key("b")])
    assert next_batch(ledger)[1] == "ef"


def test_what_was_not_accepted_goes_first(ledger: Ledger) -> None:
    add(ledger, "abcd")
    batch, _ = next_batch(ledger)
    ledger.delivered(batch, 1, 1)
    assert next_batch(ledger)[1] == "bcd"
    assert ledger.in_queue()[1] == {key("a"): 1}


def test_a_loss_sends_all_again_but_what_may_run_once(ledger: Ledger) -> None:
    add(ledger, "a")
    add(ledger, "b", max_deliveries=1)
    add(ledger, "c")
    batch, _ = next_batch(ledger)
    ledger.delivered(batch, 3, 1)
    add(ledger, "d")
    lost = ledger.lose_all(ledger.losses)
    assert lost is not None and [one._record for one in lost] == [b"b"]
    # The same loss is not noticed twice.
    assert ledger.lose_all(0) is None
    assert next_batch(ledger)[1] == "acd"


def test_what_was_on_its_way_when_all_was_lost(ledger: Ledger) -> None:
    add(ledger, "a")
    add(ledger, "b", max_deliveries=1)
    batch, _ = next_batch(ledger)
    ledger.lose_all(ledger.losses)
    # The put succeeded, before the loss or after: that is unknown.
    assert [one._record for one in ledger.delivered(batch, 2, 1)] == [b"b"]
    assert next_batch(ledger)[1] == "a"


def test_what_was_surely_not_accepted_is_not_lost(ledger: Ledger) -> None:
    add(ledger, "a", max_deliveries=1)
    batch, _ = next_batch(ledger)
    ledger.lose_all(ledger.losses)
    assert ledger.delivered(batch, 0, 0) == []
    assert next_batch(ledger)[1] == "a"


def test_the_end_of_what_was_sent_may_be_lost(ledger: Ledger) -> None:
    add(ledger, "abc")
    batch, _ = next_batch(ledger)
    ledger.delivered(batch, 3, 1)
    assert ledger.lose([key("b"), key("c"), key("x")], ledger.losses) == []
    assert next_batch(ledger)[1] == "bc"
    assert ledger.lose([key("a")], ledger.losses + 1) == []


def test_what_waits_here_is_taken_back_and_the_rest_is_named(ledger: Ledger) -> None:
    add(ledger, "abcd")
    batch, _ = next_batch(ledger)
    ledger.delivered(batch, 3, 1)
    taken, sent = ledger.recall([key("a"), key("d"), key("x")], lambda: None, 0.0)
    assert [one._record for one in taken] == [b"d"]
    assert sent == [key("a")]
    assert key("d") not in ledger.tasks


def test_a_send_that_waits_for_room_is_called_back(ledger: Ledger) -> None:
    add(ledger, "ab")
    batch, _ = next_batch(ledger)
    called = threading.Event()

    def send() -> None:
        assert called.wait(WAIT)
        ledger.delivered(batch, 1, 1)

    sender = threading.Thread(target=send)
    sender.start()
    taken, sent = ledger.recall([key("a"), key("b")], called.set, WAIT)
    sender.join(WAIT)
    assert [one._record for one in taken] == [b"b"]
    assert sent == [key("a")]


def test_the_end(ledger: Ledger) -> None:
    add(ledger, "a")
    ledger.finish()
    assert not ledger.is_done()
    assert not ledger.add(key("b"), task("b"), may_wait=True)
    batch, _ = next_batch(ledger)
    ledger.delivered(batch, 1, 1)
    ledger.forget([key("a")])
    assert ledger.is_done()
    assert ledger.next_batch() is None


def test_a_failure_is_the_end(ledger: Ledger) -> None:
    add(ledger, "ab")
    error = ValueError("over")
    assert len(ledger.fail(error)) == 2
    assert ledger.failure is error and ledger.is_done()
    assert ledger.next_batch() is None
    assert not ledger.add(key("c"), task("c"), may_wait=True)


def test_adding_waits_for_room() -> None:
    ledger = Ledger(window=4, most=3, max_pending=1)
    add(ledger, "a")
    added = threading.Event()

    def add_one() -> None:
        assert ledger.add(key("b"), task("b"), may_wait=True)
        added.set()

    thread = threading.Thread(target=add_one)
    thread.start()
    assert not added.wait(0.1)
    with ledger.lock:
        ledger.take(key("a"))
        ledger.settled()
    assert added.wait(WAIT)
    thread.join(WAIT)
