"""A task that its own thread sends, and the sender thread that comes meanwhile."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any, cast

from pressure.channel import Channel
from pressure.channel.producing import Producer
from pressure.executor.client.early import EarlySender
from pressure.executor.client.futures import TaskFuture
from pressure.executor.client.ledger import Batch, Ledger
from pressure.executor.client.recovery import PRUNED
from pressure.executor.client.sending import Sender
from pressure.parcels import Record

WAIT = 10.0
BATCH = Batch([Record(b"id", b"body")], [], 0)


class SlowProducer:
    """A connection that takes its time to send."""

    def __init__(self) -> None:
        self.sending = threading.Event()
        self.go_on = threading.Event()

    def begin(self, record: Record) -> bool:
        self.sending.set()
        return self.go_on.wait(WAIT)


class LedgerStub:
    early: Batch | None = None

    def add_early(self, task_id: bytes, task: TaskFuture[Any], few: int) -> Batch:
        self.early = BATCH
        return BATCH


def test_the_sender_waits_for_a_task_that_is_just_being_sent() -> None:
    """Both would use one connection, and each would take the other's reply for its own."""
    producer = SlowProducer()
    early = EarlySender(cast(Ledger, LedgerStub()), lambda batch, accepted: None)
    early.begin(cast(Producer, producer))
    submitter = threading.Thread(target=early.submit, args=(b"id", cast(Any, None)))
    submitter.start()
    assert producer.sending.wait(WAIT)
    answers: list[bool] = []
    sender = threading.Thread(target=lambda: answers.append(early.is_due))
    sender.start()
    sender.join(0.2)
    assert not answers
    producer.go_on.set()
    submitter.join(WAIT)
    sender.join(WAIT)
    assert answers == [True]


def test_the_sender_sees_to_a_producer_that_the_server_may_have_forgotten() -> None:
    """What is put early is dropped if the server knows less of its producer than was confirmed."""
    producer = SlowProducer()
    producer.go_on.set()
    recovery: Any = SimpleNamespace(sent_at=time.monotonic() - PRUNED - 1, tick=None)
    channel = cast(Channel, None)
    ledger = cast(Ledger, LedgerStub())
    sender = Sender(channel, channel, ledger, recovery, set(), lambda exc: None)
    sender.begin(cast(Producer, producer))
    assert not sender.submit(b"id", cast(Any, None))
    assert not producer.sending.is_set()
    recovery.sent_at = time.monotonic()
    assert sender.submit(b"id", cast(Any, None))


def test_a_task_in_doubt_is_sent_before_what_the_sender_has_taken_already() -> None:
    """Whether its early put was carried out shows only if the next one repeats it."""
    ledger = Ledger(window=10, most=10, max_pending=None)
    for task_id in (b"doubtful", b"2", b"3"):
        ledger.add(task_id, task(), may_wait=False)
    early = ledger.next_batch()
    assert early is not None
    late = Batch(early.records[1:], [], 0)
    # The reply to the first is lost after the sender has taken the others.
    ledger.delivered(Batch(early.records[:1], [], 0), 0, 0)
    assert ledger.comes_first(b"doubtful", late)
    again = ledger.next_batch()
    assert again is not None
    assert [record.id for record in again.records] == [b"doubtful", b"2", b"3"]
    assert not ledger.comes_first(b"doubtful", again)
    assert not ledger.comes_first(b"", again)


def task() -> TaskFuture[Any]:
    options = SimpleNamespace(max_deliveries=3)
    made: Any = SimpleNamespace(_record=b"", _needs=(), _options=options, _number=0)
    return cast(TaskFuture[Any], made)
