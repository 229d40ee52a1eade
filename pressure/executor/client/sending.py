"""The thread that sends tasks, many at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from pressure.channel import Channel
from pressure.channel.producing import Forgotten, Producer, TailLost
from pressure.errors import (
    NotReplicatedError,
    OperationUnblocked,
    QueueDoesNotExistError,
    ServerOutOfMemoryError,
)
from pressure.executor.client.early import EarlySender
from pressure.executor.client.futures import Needed, TaskFuture
from pressure.executor.client.ledger import Batch, Ledger
from pressure.executor.client.recovery import PRUNED, Recovery

__all__ = ["Sender"]

OOM_PAUSE = 0.5
EARLY_PATIENCE = 5.0


class Sender:
    """Sends what the ledger has, after what that needs: `stored` are the digests of what lies
    beside the reply queue already. `early` sends lone tasks instead, from other threads."""

    def __init__(
        self,
        channel: Channel,
        reply: Channel,
        ledger: Ledger,
        recovery: Recovery,
        stored: set[bytes],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._channel = channel
        self._reply = reply
        self._ledger = ledger
        self._recovery = recovery
        self._stored = stored
        self._failed = failed
        self._early = EarlySender(ledger, self._delivered)

    def begin(self, producer: Producer) -> None:
        """Before `run`."""
        self.producer = producer
        self._early.begin(producer)

    def submit(self, task_id: bytes, task: TaskFuture[Any]) -> bool:
        """Send a task from the caller's thread, if that needs no wait; False: it is left to the
        sender thread."""
        if self._may_be_pruned():
            # That thread concedes it first.
            return False
        if not self._early.submit(task_id, task):
            return False
        if self._recovery.tick is not None:
            self._recovery.sent(time.monotonic())
        return True

    def conclude(self, *, insist: bool) -> None:
        """Find out what became of a task that was sent early; wait for that if the caller insists
        to know."""
        self._early.conclude(EARLY_PATIENCE if insist else 0.0)

    def run(self) -> None:
        """What the thread does, until all is done."""
        producer = self.producer
        losses = 0
        try:
            while (batch := self._ledger.next_batch(self._recovery.tick)) is not None:
                self._recovery.look()
                if not batch.records:
                    continue
                if self._early.is_due:
                    # Should that not have been accepted, it comes first, under its old number.
                    self._delivered(batch, 0)
                    self.conclude(insist=True)
                    continue
                if self._ledger.comes_first(producer.doubtful, batch):
                    continue
                if batch.losses != losses:
                    losses = batch.losses
                    producer.renew()
                self._send(producer, batch)
                # While this thread waits it keeps no argument alive.
                del batch
            self.conclude(insist=True)
            producer.close()
        except BaseException as exc:
            self._failed(exc)

    def provide(self, needs: Iterable[Needed]) -> None:
        """Store what tasks need beside the reply queue."""
        for needed in needs:
            if needed.digest not in self._stored:
                self._reply.store(needed.digest, needed.data)
                self._stored.add(needed.digest)

    def _send(self, producer: Producer, batch: Batch) -> None:
        accepted = 0
        if self._may_be_pruned():
            producer.concede()
        try:
            self.provide(batch.needs)
            accepted = producer.send(batch.records)
        except OperationUnblocked as exc:
            # Somebody wants to have some of it back.
            accepted = exc.accepted
        except (Forgotten, QueueDoesNotExistError) as exc:
            accepted = getattr(exc, "accepted", 0)
            self._recovery.recover(exc, batch.losses)
        except TailLost as exc:
            # Not even what this batch had been accepted of is there.
            self._recovery.lost_after(exc.number)
            producer.concede(exc.number)
        except NotReplicatedError as exc:
            # It is sent again if it turns out to be lost.
            accepted = exc.accepted
            self._channel.core.warn_once(str(exc))
        except ServerOutOfMemoryError as exc:
            accepted = exc.accepted
            self._channel.core.warn_once(f"tasks wait: {exc}")
            time.sleep(OOM_PAUSE)
        self._delivered(batch, accepted)

    def _may_be_pruned(self) -> bool:
        return time.monotonic() - self._recovery.sent_at > PRUNED

    def _delivered(self, batch: Batch, accepted: int) -> None:
        now = self._recovery.sent_at = time.monotonic()
        if accepted:
            self._recovery.sent(now)
        self._recovery.fail_lost(self._ledger.delivered(batch, accepted, self.producer.number))
