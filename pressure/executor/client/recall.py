"""Taking back tasks that nobody has begun, out of the ledger or out of the queue.

What a worker has claimed and not begun is in neither. It comes back to the queue if what the worker
runs meanwhile takes long; else it is run before long.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from pressure.channel import Channel
from pressure.channel.producing import Withdrawer
from pressure.collecting import collecting
from pressure.errors import PressureError
from pressure.executor.client.futures import TaskFuture
from pressure.executor.client.ledger import Ledger
from pressure.executor.client.statistics import Tally

__all__ = ["Recall"]

log = logging.getLogger("pressure.executor")

CANCEL_PATIENCE = 5.0
AWAY_FOR = 5.0
"""So long (seconds) a server that did not answer isn't asked for a lone task again: to cancel many,
one after the other, takes no longer than to cancel one."""
COSTLY = 0.5
"""What took less (seconds) may be tried again at once."""
RECALL_PATIENCE = 1.0
SETTLE_PATIENCE = 1.0
GIVEN_BACK = 0.08
"""Within this time (seconds) what a worker has claimed and doesn't begin is in the queue again
(`watchdog.BATCH_OVERDUE`, and a moment)."""
LOOK_AGAIN = 0.005


class Recall:
    """Does what a dispatcher promises its futures (`futures.Withdrawer`). Thread-safe.

    `conclude` finds out what became of a task that was sent a moment ago; `done` is called after
    tasks were taken back; `away` says whether the server is known to be.
    """

    def __init__(
        self,
        channel: Channel,
        ledger: Ledger,
        tally: Tally,
        conclude: Callable[[], None],
        done: Callable[[], None],
        away: Callable[[], bool],
    ) -> None:
        self._channel = channel
        self._ledger = ledger
        self._tally = tally
        self._conclude = conclude
        self._done = done
        self._known_away = away
        # When it did not answer last (monotonic).
        self._failed_at = -AWAY_FOR
        self._process = os.getpid()
        self._withdrawer: Withdrawer | None = None
        # Whoever finds a task no more in the queue sees that another thread has taken it back.
        # Reentrant, for signal handlers.
        self._asking = threading.RLock()
        self.unwanted: deque[bytes] = deque()
        """What `cancel_unwanted` is to cancel: what the garbage collector has found."""

    def begin(
        self,
        was_put_to: Callable[[bytes, int], bool],
        fail_lost: Callable[[Iterable[TaskFuture[Any]]], object],
    ) -> None:
        """Once the queue is there. `was_put_to` says whether a put went to the server that it is at
        now; `fail_lost` ends tasks that may run at most once, and may have been begun elsewhere."""
        self._withdrawer = Withdrawer(self._channel)
        self._was_put_to, self._fail_lost = was_put_to, fail_lost

    def close(self) -> None:
        if self._withdrawer is not None:
            self._withdrawer.close()

    def withdraw(self, task_id: bytes) -> bool:
        withdrawn = self._withdraw([task_id], 0.0, hasty=True)
        others = [task for task in withdrawn if task._task_id != task_id]
        # An earlier call had taken these out without hearing of it.
        for task in others:
            task._withdrawn()
        return len(withdrawn) > len(others)

    def withdraw_many(self, task_ids: Iterable[bytes]) -> list[TaskFuture[Any]]:
        return self._withdraw(task_ids, GIVEN_BACK)

    def cancel_all(self, spare: int) -> None:
        """Cancel what has not begun, but for the oldest `spare` of those that are about to."""
        if self._process == os.getpid():
            ledger = self._ledger
            with ledger.lock:
                # One that has failed and waits for another try is not.
                ready = (
                    id
                    for id, task in ledger.tasks.items()
                    if id in ledger.sent or task._attempts == 1
                )
                spared = set(itertools.islice(ready, spare))
                task_ids = [id for id in ledger.tasks if id not in spared]
            self._cancel(task_ids)

    def cancel_unwanted(self, others: Iterable[bytes]) -> None:
        """Cancel what is unwanted, and these."""
        # One by one, since more may come meanwhile.
        task_ids = [self.unwanted.popleft() for _ in range(len(self.unwanted))]
        task_ids += others
        if task_ids:
            self._cancel(task_ids)

    def _cancel(self, task_ids: list[bytes]) -> None:
        for future in self.withdraw_many(task_ids):
            future._withdrawn()

    def _withdraw(
        self, task_ids: Iterable[bytes], patience: float, *, hasty: bool = False
    ) -> list[TaskFuture[Any]]:
        if self._process != os.getpid():
            # A forked child drops a copy of a `map`, say: the tasks are the parent's.
            return []
        if collecting():
            # This thread may hold any lock.
            self.unwanted.extend(task_ids)
            return []
        withdrawn = self.take_back(task_ids, patience, cancels=True, hasty=hasty)
        self._tally.cancelled += len(withdrawn)
        self._done()
        return withdrawn

    def take_back(
        self,
        task_ids: Iterable[bytes],
        patience: float = 0.0,
        *,
        cancels: bool = False,
        hasty: bool = False,
    ) -> list[TaskFuture[Any]]:
        """Those of the tasks that nobody had begun; they will never run. What workers have claimed
        and don't begin soon comes back to the queue: with `patience` (seconds) that is waited for,
        and the queue is looked through once more. With `cancels` the futures are to be cancelled,
        by the caller or by whoever wants that besides. Who is `hasty` doesn't ask a server that is
        known to be away; else what was asked for in vain is done when it is back (`settle`)."""
        if self._asking._is_owned():  # type: ignore[attr-defined]
            # A signal's handler came in the midst of this, which can't go on before it is done.
            if cancels:
                self.unwanted.extend(task_ids)
            return []
        away = hasty and self._is_away()
        if not away:
            self._conclude()
        taken, sent = self._ledger.recall(
            task_ids, self._unblock_sender, 0.0 if away else RECALL_PATIENCE, cancels=cancels
        )
        until = time.monotonic() + patience

        def note(found: list[bytes]) -> None:
            taken.extend(self._unbegun(self._ledger.forget(found, cancels=cancels)))

        while sent and self._withdrawer is not None and not away:
            began = time.monotonic()
            try:
                with self._asking:
                    self._withdrawer.withdraw(sent, began + CANCEL_PATIENCE, note)
            except PressureError as exc:
                # What it did is found out by `settle`.
                log.warning("could not cancel: %s", exc)
                now = time.monotonic()
                if now - began > COSTLY:
                    self._failed_at = now
                break
            sent = self._claimed(sent, until)
        return taken

    def _is_away(self) -> bool:
        heard = self._ledger.heard_at > self._failed_at
        return self._known_away() or not (heard or time.monotonic() > self._failed_at + AWAY_FOR)

    def _unbegun(self, tasks: list[TaskFuture[Any]]) -> list[TaskFuture[Any]]:
        """Without those that may have been begun at a server whose data is not all here, and must
        not be again: these fail."""
        assert self._withdrawer is not None
        server = self._withdrawer.server
        doubtful = [
            task
            for task in tasks
            if task._options.max_deliveries == 1 and not self._was_put_to(server, task._number)
        ]
        self._fail_lost(doubtful)
        return [task for task in tasks if task not in doubtful] if doubtful else tasks

    def _claimed(self, task_ids: list[bytes], until: float) -> list[bytes]:
        """Wait until it is known of each of these tasks that it runs, or is over. Returns those of
        which it is not; none of them if it was too late to wait."""
        if time.monotonic() >= until:
            return []
        while (task_ids := self._ledger.pending(task_ids)) and time.monotonic() < until:
            time.sleep(LOOK_AGAIN)
        return task_ids

    def settle(self) -> None:
        """Find out what became of a withdrawal whose reply was lost, or that Ctrl-C cut short.
        Raises `PressureError`."""
        try:
            if self._withdrawer is not None:
                with self._asking:
                    self._withdrawer.settle(
                        time.monotonic() + SETTLE_PATIENCE,
                        lambda found: self._unbegun(self._ledger.forget(found, cancels=True)),
                    )
        finally:
            self.cancel_leaving()

    def cancel_leaving(self) -> None:
        """Cancel what was taken back for that, and perhaps was not cancelled."""
        for task in self._ledger.leaving():
            task._withdrawn()

    def _unblock_sender(self) -> None:
        try:
            self._channel.unblock()
        except PressureError as exc:
            log.debug("the sender could not be unblocked: %s", exc)
