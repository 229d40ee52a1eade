"""What a client does about losses: of the server's data, of the end of it, and of all workers.

The server is asked now and then whether it still has what was sent. All of it is sent again if a
queue is gone or is another than before, and the end of it if the server knows only of earlier puts
than those that were made. What may run at most once fails instead.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from typing import Any

from pressure.channel import Channel
from pressure.channel.producing import Producer
from pressure.errors import PressureError
from pressure.executor.client.answers import fresh, settle
from pressure.executor.client.futures import TaskFuture
from pressure.executor.client.ledger import Ledger
from pressure.executor.client.recall import Recall
from pressure.executor.client.statistics import Tally
from pressure.executor.errors import NoWorkersError, TaskLostError

__all__ = ["PRUNED", "Recovery"]

log = logging.getLogger("pressure.executor")

CHECK = 4.0
"""How often (seconds) the server is asked whether it still has what was sent."""
SOON = 1.0
"""How soon (seconds) at first, and while there are no workers."""
ALONE = 5.0
"""After this long without any worker (seconds) there is a warning."""
PRUNED = 3000.0
"""The server forgets a producer that puts nothing for an hour; within this time it has not."""


class Recovery:
    """`stored` are the digests of what lies beside the reply queue."""

    def __init__(
        self,
        channel: Channel,
        reply: Channel,
        ledger: Ledger,
        recall: Recall,
        tally: Tally,
        stored: set[bytes],
        *,
        bound: int,
        heed_workers: bool,
        no_workers_timeout: float | None,
    ) -> None:
        self._channel = channel
        self._reply = reply
        self._ledger = ledger
        self._recall = recall
        self._tally = tally
        self._stored = stored
        self._bound = bound
        self._heed_workers = heed_workers
        self._no_workers_timeout = no_workers_timeout if heed_workers else None
        self._lock = threading.Lock()
        self._every = CHECK
        self.tick: float | None = None
        """How often (seconds) to `look`."""
        if no_workers_timeout is not None and heed_workers:
            self._every = min(CHECK, max(0.1, no_workers_timeout / 2))
            self.tick = min(SOON, max(0.1, no_workers_timeout))
        self._alone_said = False
        # When somebody was there last, or nobody was needed; and since when tasks wait.
        self._seen_at = self._waiting_since = 0.0
        self.check_at = time.monotonic() + SOON
        """When `check` is due."""
        self.sent_at = 0.0
        """When the last batch was sent."""

    def start(self) -> Producer:
        """Make the queues, and what sends to them."""
        self._channel.ensure(self._bound)
        self._reply.ensure()
        self._producer = Producer(self._channel)
        self._recall.begin(self._producer.was_put_to, self.fail_lost)
        return self._producer

    def sent(self, now: float) -> None:
        """Something was sent."""
        if self._waiting_since <= max(self._seen_at, self._ledger.heard_at):
            self._waiting_since = now
            if self._no_workers_timeout is not None:
                self.check_at = min(self.check_at, now + self._no_workers_timeout)

    @property
    def look_by(self) -> float | None:
        """When `check` is due at the latest, though nothing comes; None: that has time."""
        if self._no_workers_timeout is None:
            return None
        waits = self._waiting_since > max(self._seen_at, self._ledger.heard_at)
        return self.check_at if waits else None

    def look(self) -> None:
        """Have the listener `check` now, should that be overdue."""
        # Once, for other threads may make it None.
        look_by = self.look_by
        if look_by is not None and look_by < time.monotonic():
            try:
                self._reply.unblock()
            except PressureError as exc:
                log.debug("the listener could not be unblocked: %s", exc)

    # Losses

    def recover(self, why: object, losses: int) -> None:
        """The server has lost what was sent, or we were away for too long. `losses` is how many the
        ledger knew of before this one was noticed."""
        with self._lock:
            if self._ledger.losses != losses:
                return
            self._stored.clear()
            # In this order: a worker drops the tasks of a client that has no reply queue.
            self._reply.ensure()
            self._channel.ensure(self._bound)
            lost = self._ledger.lose_all(losses) or []
        log.warning("the server lost what was outstanding, which is sent again (%s)", why)
        self.fail_lost(lost)

    def fail_lost(self, tasks: Iterable[TaskFuture[Any]]) -> None:
        """These may run at most once, and it is unknown whether they did."""
        for task in tasks:
            error = TaskLostError(
                f"task {task.task_id} was lost with the server's data; it may run at most "
                "once, so it was not sent again"
            )
            settle(task, None, error)
            self._tally.failed += 1

    def check(self) -> None:
        """Ask the server whether it still has what was sent, and whether anybody works on it."""
        self.check_at = time.monotonic() + self._every
        try:
            self._recall.settle()
            losses, there = self._ledger.in_queue()
            if not there:
                self._seen()
                return
            standing = self._producer.standing()
        except PressureError as exc:
            log.debug("the server does not say what it has: %s", exc)
            return
        number = standing.number
        if number is None and time.monotonic() - self.sent_at < PRUNED:
            number = 0
        if number == 0:
            self.recover(f"queue {self._channel.name!r} was made anew", losses)
        elif number is not None:
            self._lost_after(number, losses, there)
        if self._heed_workers:
            self._look_for_workers(standing.consumers, len(there))

    def lost_after(self, number: int) -> None:
        """The server, which took over from another, knows of no later put than this one."""
        losses, there = self._ledger.in_queue()
        if number == 0:
            self.recover("the server knows nothing of it", losses)
        else:
            self._lost_after(number, losses, there)

    def _lost_after(self, number: int, losses: int, there: dict[bytes, int]) -> None:
        missing = [task_id for task_id, put in there.items() if put > number]
        if missing:
            log.warning("the server lost the end of what was sent, which is sent again")
            self._stored.clear()
            self.fail_lost(self._ledger.lose(missing, losses))

    def _look_for_workers(self, workers: int, tasks: int) -> None:
        if workers:
            self._seen()
            return
        now = time.monotonic()
        self.check_at = now + min(self._every, SOON)
        since = max(self._waiting_since, self._seen_at, self._ledger.heard_at)
        alone = now - since
        limit = self._no_workers_timeout
        if limit is not None and alone < limit:
            self.check_at = min(self.check_at, since + limit)
        where = f"queue {self._channel.name!r} at {self._channel.handle.address}"
        if limit is not None and alone >= limit:
            self._give_up(f"no worker has served {where} for {alone:.1f} s: start pressure-worker")
        elif alone >= ALONE and not self._alone_said:
            self._alone_said = True
            log.warning(
                "no worker serves %s: %d tasks wait until a pressure-worker is started there",
                where,
                tasks,
            )

    def _seen(self) -> None:
        """Tasks that wait from now on wait for workers anew."""
        self._seen_at, self._alone_said = time.monotonic(), False

    def _give_up(self, why: str) -> None:
        self._seen()
        # Out of the queue first, or they would run when a worker comes after all.
        everything = list(self._ledger.tasks)
        tasks = self._recall.take_back(everything)
        tasks += self._ledger.forget(everything)
        for task in tasks:
            settle(task, None, fresh(NoWorkersError(why)))
            self._tally.failed += 1
