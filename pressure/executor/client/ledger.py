"""What a client has submitted and not yet heard the end of.

    add ──> unsent ──next_batch──> sending ──delivered──> sent ──take──> (answered)

What was sent is kept, so that it can be sent again if the server loses it.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any, NamedTuple

from pressure.channel import Record
from pressure.executor.client.futures import Needed, TaskFuture

__all__ = ["Batch", "Ledger"]


BATCH_BYTES = 4 * 1024 * 1024
FIRST_WAY, GIVE_WAY = 16, 1000
"""After so many tasks in a row, and then again and again, who submits them lets the other threads
come to the interpreter,"""
GIVE_WAY_FOR = 0.002
"""for so long (seconds) at most. They would get it only every 5 ms, and workers wait for tasks."""

# Quicker than the class itself, for what is made for each task.
_record: Callable[[tuple[Any, ...]], Record] = partial(tuple.__new__, Record)


class Batch(NamedTuple):
    """What is sent at once. `losses` is how often the server had lost everything until then."""

    records: list[Record]
    needs: list[Needed]
    losses: int


class Ledger:
    """Thread-safe; `lock` guards all of it. `sent` contains `sending`.

    Callers take the lock itself: the conditions' `with` is Python, and Ctrl-C in it would leave the
    lock held.
    """

    def __init__(self, window: int, most: int, max_pending: int | None) -> None:
        self._window = window
        self._most = most
        self._max_pending = max_pending
        # Reentrant, since the garbage collector may call `finish` while it is held.
        lock = self.lock = threading.RLock()
        self.condition = threading.Condition(lock)
        """Notified when the sender has something to do, or is done with something."""
        self._room = threading.Condition(lock)
        self._way = threading.Condition(lock)
        # How many tasks were added since somebody gave way, and whether others did anything since.
        self._in_a_row = 0
        self._progress = False
        self.tasks: dict[bytes, TaskFuture[Any]] = {}
        # Nobody waits for a future to which nothing refers.
        self._leaving: weakref.WeakValueDictionary[bytes, TaskFuture[Any]]
        self._leaving = weakref.WeakValueDictionary()
        self.sent: set[bytes] = set()
        self.sending: set[bytes] = set()
        self.losses = 0
        self.refused = 0
        self.finishing = False
        self.failure: BaseException | None = None
        self._unsent: deque[bytes] = deque()
        self.heard_at = 0.0
        """When the last answer or notice came (monotonic)."""
        self.idle = False
        """Whether the sender waits for something to do."""
        self._recalls = 0
        self.early: Batch | None = None
        """What a thread that submits has sent, or is about to."""

    def is_done(self) -> bool:
        return self.failure is not None or (self.finishing and not self.tasks)

    # Tasks out

    def add(self, task_id: bytes, task: TaskFuture[Any], *, may_wait: bool) -> bool:
        """Have a task sent soon; waits while there are too many if it `may_wait`. False if no more
        can be taken: there is a `failure`, or the end was announced."""
        with self.lock:
            if self._max_pending is not None and may_wait:
                while len(self.tasks) >= self._max_pending and not self._is_over():
                    self._room.wait()
            if self.finishing or self.failure is not None:
                return False
            self.tasks[task_id] = task
            self._unsent.append(task_id)
            if self.idle:
                self.idle = False
                self.condition.notify_all()
                self._in_a_row = 0
            number = self._in_a_row = self._in_a_row + 1
            if may_wait and (number == FIRST_WAY or (number >= GIVE_WAY and self._progress)):
                # If they did nothing since, they wait for the server, and none waits for them.
                self._in_a_row, self._progress = FIRST_WAY, False
                self._way.wait(GIVE_WAY_FOR)
            return True

    def add_early(self, task_id: bytes, task: TaskFuture[Any], few: int) -> Batch | None:
        """Have a task sent by the caller, who says `delivered`; until then it is `early`. None if
        the sender is busy, or if `few` or more are outstanding: then nothing was added."""
        if not self.idle:
            return None
        with self.lock:
            if not self.idle or self._unsent or self._recalls or len(self.sent) >= few:
                return None
            if self._is_over() or task._needs or len(self.sent) >= self._window:
                return None
            if self._max_pending is not None and len(self.tasks) >= self._max_pending:
                return None
            record = _record((task_id, task._record, task._options.max_deliveries))
            # In this order: wherever Ctrl-C comes, somebody can tell what has become of the task.
            batch = self.early = Batch([record], [], self.losses)
            self.sending.add(task_id)
            self.sent.add(task_id)
            self.tasks[task_id] = task
            self._progressed()
            return batch

    def _is_over(self) -> bool:
        return self.finishing or self.failure is not None

    def next_batch(self, patience: float | None = None) -> Batch | None:
        """What is to be sent next, once there is something: nothing, after `patience` (seconds).
        None at the end."""
        with self.lock:
            while True:
                self.idle = False
                if self.is_done():
                    return None
                room = min(self._most, self._window - len(self.sent))
                if self._unsent and room > 0 and not self._recalls:
                    batch = self._take(room)
                    if batch.records:
                        return batch
                    continue
                self.idle = True
                if not self.condition.wait(patience):
                    return Batch([], [], self.losses)

    def _take(self, room: int) -> Batch:
        records: list[Record] = []
        needs: list[Needed] = []
        size = 0
        # What is large is uploaded before the batch is put: small batches let it begin sooner.
        while self._unsent and len(records) < room and size < BATCH_BYTES:
            task_id = self._unsent.popleft()
            task = self.tasks.get(task_id)
            if task is not None:
                size += len(task._record)
                records.append(_record((task_id, task._record, task._options.max_deliveries)))
                if task._needs:
                    needs += task._needs
                self.sent.add(task_id)
                self.sending.add(task_id)
        self._progressed()
        return Batch(records, needs, self.losses)

    def delivered(self, batch: Batch, accepted: int, number: int) -> list[TaskFuture[Any]]:
        """The first `accepted` of a batch are in the queue, by put `number`; the rest is to be sent
        again. Returns those that were lost meanwhile and must not be sent twice."""
        with self.lock:
            ids = [record.id for record in batch.records]
            if batch is self.early and ids[0] not in self.sending:
                # Who said so before was interrupted.
                self.early = None
                return []
            self.sending.difference_update(ids)
            there: Iterable[bytes] = ids[:accepted]
            lost: list[TaskFuture[Any]] = []
            if self.losses != batch.losses:
                lost = self._lose(there)
                there = ()
            for task_id in there:
                task = self.tasks.get(task_id)
                if task is not None:
                    task._number = number
            for task_id in reversed(ids[accepted:]):
                self._unsend(task_id)
            if self._unsent or self._recalls or self.is_done():
                # Else there is nothing to do for the sender, nor anybody who waits for this.
                self.condition.notify_all()
            if batch is self.early:
                self.early = None
            return lost

    def comes_first(self, task_id: bytes, batch: Batch) -> bool:
        """Whether this task is to be sent, and is not the first of the batch: then that is taken
        back, and the next one begins with the task."""
        ids = [record.id for record in batch.records]
        if not task_id or ids[0] == task_id:
            return False
        with self.lock:
            if task_id in ids or task_id in self._unsent:
                self.sending.difference_update(ids)
                for other in reversed(ids):
                    self._unsend(other)
                if task_id in self._unsent:
                    self._unsent.remove(task_id)
                    self._unsent.appendleft(task_id)
                    return True
                # It is not wanted any more, and the batch comes once more.
                return bool(self._unsent)
            return False

    def _unsend(self, task_id: bytes) -> None:
        self.sent.discard(task_id)
        if task_id in self.tasks:
            self._unsent.appendleft(task_id)

    def pending(self, task_ids: Iterable[bytes]) -> list[bytes]:
        """Those of the tasks that are neither over nor known to run."""
        with self.lock:
            found = [(id, self.tasks.get(id)) for id in task_ids]
            return [id for id, task in found if task is not None and not task.running()]

    # Losses

    def in_queue(self) -> tuple[int, dict[bytes, int]]:
        """How often everything was lost, and by which put each task came that is now there."""
        with self.lock:
            there = self.sent - self.sending
            return self.losses, {
                task_id: self.tasks[task_id]._number for task_id in there if task_id in self.tasks
            }

    def lose_all(self, losses: int) -> list[TaskFuture[Any]] | None:
        """The server has lost all that was sent: it is sent again. Returns what must not
        be, or None if that was known: `losses` is how many there were when the caller noticed."""
        with self.lock:
            if self.losses != losses:
                return None
            self.losses += 1
            lost = self._lose(sorted(self.sent - self.sending))
            self.condition.notify_all()
            return lost

    def lose(self, task_ids: Collection[bytes], losses: int) -> list[TaskFuture[Any]]:
        """The server has lost these."""
        with self.lock:
            if self.losses != losses:
                return []
            lost = self._lose(sorted(self.sent.intersection(task_ids) - self.sending))
            self.condition.notify_all()
            return lost

    def _lose(self, task_ids: Iterable[bytes]) -> list[TaskFuture[Any]]:
        lost = []
        again = []
        for task_id in task_ids:
            self.sent.discard(task_id)
            task = self.tasks.get(task_id)
            if task is None:
                continue
            if task._options.max_deliveries == 1:
                lost.append(self.tasks.pop(task_id))
            else:
                again.append(task_id)
        self._unsent.extendleft(reversed(again))
        return lost

    # Answers in

    def again(self, task_id: bytes) -> None:
        """Send a task once more that was answered, unless it was taken back or failed since."""
        with self.lock:
            if task_id in self.tasks and task_id not in self.sent:
                self._unsent.append(task_id)
                self.idle = False
                self.condition.notify_all()

    def take(self, task_id: bytes) -> TaskFuture[Any] | None:
        """A task is over. Call with the condition held, and `settled` after a number of these."""
        self.sent.discard(task_id)
        return self.tasks.pop(task_id, None)

    def _progressed(self) -> None:
        self._progress = True
        self._way.notify_all()

    def settled(self) -> None:
        self._progressed()
        if self.idle and (self._unsent or (self.finishing and not self.tasks)):
            self.idle = False
            self.condition.notify_all()
        if self._max_pending is not None:
            self._room.notify_all()

    # Taking back

    def recall(
        self,
        task_ids: Iterable[bytes],
        unblock: Callable[[], None],
        patience: float,
        *,
        cancels: bool = False,
    ) -> tuple[list[TaskFuture[Any]], list[bytes]]:
        """Take back what is not sent yet. Returns these, and the ids of those that are. `unblock`
        ends a send that waits for room; without `patience` no send is waited for. If the caller
        `cancels` them, others may say so, too."""
        with self.lock:
            wanted = [task_id for task_id in task_ids if task_id in self.tasks]
            self._recalls += 1
            try:
                if patience and not self.sending.isdisjoint(wanted):
                    self.condition.wait_for(lambda: not self.sending, min(0.05, patience))
                if patience and not self.sending.isdisjoint(wanted):
                    self.condition.release()
                    try:
                        unblock()
                    finally:
                        self.condition.acquire()
                    self.condition.wait_for(lambda: not self.sending, patience)
                sent = [task_id for task_id in wanted if task_id in self.sent]
                taken = self._take_back(
                    [task_id for task_id in wanted if task_id not in self.sent], cancels
                )
            finally:
                self._recalls -= 1
                self.idle = False
                self.condition.notify_all()
                self._room.notify_all()
            return taken, sent

    def forget(self, task_ids: Iterable[bytes], *, cancels: bool = False) -> list[TaskFuture[Any]]:
        """These are over: taken back, for one; see `recall`."""
        with self.lock:
            taken = self._take_back(task_ids, cancels)
            self.condition.notify_all()
            self._room.notify_all()
            return taken

    def _take_back(self, task_ids: Iterable[bytes], cancels: bool) -> list[TaskFuture[Any]]:
        taken = []
        for task_id in task_ids:
            task = self.tasks.get(task_id)
            if task is not None:
                if cancels:
                    # Noted first: wherever Ctrl-C comes, somebody cancels it.
                    task._taken_back = True
                    self._leaving[task_id] = task
                self.take(task_id)
                taken.append(task)
        return taken

    def leaving(self) -> list[TaskFuture[Any]]:
        """What was taken back to be cancelled since this was asked last, as far as it is not
        cancelled."""
        with self.lock:
            tasks = list(self._leaving.values())
            self._leaving.clear()
        return [task for task in tasks if not task.done()]

    # The end

    def finish(self) -> None:
        """No more tasks will be added."""
        with self.lock:
            self.finishing = True
            self.condition.notify_all()
            self._room.notify_all()

    def fail(self, exc: BaseException) -> list[TaskFuture[Any]]:
        """Nothing more can be done. Returns all tasks."""
        with self.lock:
            self.failure = self.failure or exc
            tasks = list(self.tasks.values())
            self.tasks.clear()
            self.sent.clear()
            self.sending.clear()
            self._unsent.clear()
            self.condition.notify_all()
            self._room.notify_all()
            return tasks
