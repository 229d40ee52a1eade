"""Sending a lone task from the thread that submits it.

To wake the sender thread takes as long as the rest of a lone task's way to the server. So when
nothing is outstanding, the submitting thread writes the put itself, without waiting for the reply.
Whoever comes next reads that: the next early submit, the sender, or the listener. A put whose
reply was lost is sent again by the sender under its old number, which makes no second copy.

Ctrl-C may come between any two steps of the submitting thread. What is under way therefore stands
in the ledger (`early`) before anything is sent, and whoever comes next finds out how far it got.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from pressure.channel.producing import Producer
from pressure.executor.client.futures import TaskFuture
from pressure.executor.client.ledger import Batch, Ledger

__all__ = ["EarlySender"]

FEW = 4
"""With this many tasks outstanding, sending them together is quicker."""


class EarlySender:
    """`delivered` is told what became of a batch: how many of it were accepted. Thread-safe."""

    def __init__(self, ledger: Ledger, delivered: Callable[[Batch, int], None]) -> None:
        self._ledger = ledger
        self._delivered = delivered
        # Reentrant: a future that is resolved on the way may call back.
        self._lock = threading.RLock()
        self._insists = False
        """Whether somebody waits for a reply, with the lock held."""
        self._producer: Producer | None = None

    def begin(self, producer: Producer) -> None:
        self._producer = producer

    def submit(self, task_id: bytes, task: TaskFuture[Any]) -> bool:
        """Send a task, if that needs no wait; False: it is left to the sender."""
        producer = self._producer
        if producer is None or self._insists:
            return False
        # With a lock that was asked for without waiting, Ctrl-C could come before it is known here
        # whether it is held.
        with self._lock:
            if self._ledger.early is not None and not self._conclude(producer):
                return False
            batch = self._ledger.add_early(task_id, task, FEW)
            if batch is None:
                return False
            if not producer.begin(batch.records[0]):
                self._delivered(batch, 0)
            return True

    @property
    def is_due(self) -> bool:
        """Whether a reply is still to be read. Waits for a thread that is just sending."""
        with self._lock:
            return self._ledger.early is not None

    def conclude(self, patience: float = 0.0) -> None:
        """Read the reply that is due. With `patience` (seconds) nothing is due any more then."""
        with self._lock:
            if self._producer is not None:
                self._insists = patience > 0
                try:
                    self._conclude(self._producer, patience)
                finally:
                    self._insists = False

    def _conclude(self, producer: Producer, patience: float = 0.0) -> bool:
        batch = self._ledger.early
        if batch is None:
            return True
        task_id, until = batch.records[0].id, time.monotonic() + patience
        accepted = producer.conclude(task_id, until, insist=patience > 0)
        if accepted is None:
            return False
        self._delivered(batch, accepted)
        return True
