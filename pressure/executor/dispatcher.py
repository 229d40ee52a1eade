"""The client's engine: tasks out, answers in.

    submit ──> unsent ──sender──> task queue ──> workers ──> reply queue ──listener──> futures

It lives as long as there is work, also when the executor that it works for is gone. What was sent
and not answered is kept here, so that it can be sent again if the server loses it.
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

from pressure.channel import Channel, Delivery, Record, Verdict
from pressure.errors import (
    OutcomeUnknownError,
    PressureError,
    QueueClosedError,
    QueueDoesNotExistError,
    ServerError,
)
from pressure.executor import pickling
from pressure.executor.answers import PendingTask, finish, settle, start
from pressure.executor.errors import TaskLostError
from pressure.executor.futures import TaskFuture
from pressure.executor.options import Options
from pressure.executor.records import Answer, Kind, pack_task, unpack_answer

__all__ = ["Dispatcher"]

log = logging.getLogger("pressure.executor")

BATCH = 500
BURST = 16
"""With more tasks than this outstanding, answers are fetched many at a time."""


class Dispatcher:
    """Two threads, which end when `finish` was called and all is done."""

    def __init__(self, channel: Channel, *, bound: int, window: int) -> None:
        self._channel = channel
        self._reply = channel.reply_channel()
        self._bound = bound
        self._window = window
        self._packer = pickling.FunctionPacker()
        self._stored: set[bytes] = set()
        self._store_lock = threading.Lock()
        self._prefix = os.urandom(8)
        self._numbers = itertools.count()
        self._condition = threading.Condition(threading.Lock())
        # Guarded by the condition:
        self._tasks: dict[bytes, PendingTask] = {}
        self._unsent: deque[bytes] = deque()
        self._sent: set[bytes] = set()
        self._sending: set[bytes] = set()
        self._sender_idle = False
        self._finishing = False
        self._failure: BaseException | None = None
        self._done = threading.Event()
        self._threads: list[threading.Thread] = []
        self.on_idle: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Make the queues, and start the threads."""
        self._channel.ensure(self._bound)
        self._reply.ensure()
        for target, name in ((self._send, "pressure sender"), (self._listen, "pressure listener")):
            thread = threading.Thread(target=target, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    # Tasks out

    def submit(
        self, function: Callable[..., Any], args: Any, kwargs: dict[str, Any], options: Options
    ) -> TaskFuture:
        """Pickle a task now and send it soon. What can't be pickled is the future's exception."""
        task_id = self._prefix + next(self._numbers).to_bytes(8, "big")
        future = TaskFuture(task_id, self)
        try:
            packed = self._packer.pack(function)
            if packed.stored:
                self._store(packed)
            body = pack_task(packed.reference, pickling.dumps((args, kwargs)), stored=packed.stored)
            self._channel.core.check_size(body)
        except ServerError:
            raise
        except BaseException as exc:
            future.set_exception(exc)
            return future
        task = PendingTask(future, body, options.max_deliveries)
        with self._condition:
            if self._failure is not None:
                raise self._failure
            if self._finishing:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._tasks[task_id] = task
            self._unsent.append(task_id)
            if self._sender_idle:
                self._sender_idle = False
                self._condition.notify()
        return future

    def _store(self, packed: pickling.PackedFunction) -> None:
        with self._store_lock:
            if packed.digest not in self._stored:
                self._reply.store(packed.digest, packed.data)
                self._stored.add(packed.digest)

    def _send(self) -> None:
        try:
            while (batch := self._next_batch()) is not None:
                self._send_batch(batch)
        except BaseException as exc:
            self.fail(exc)

    def _next_batch(self) -> list[Record] | None:
        with self._condition:
            while not self._failure:
                room = min(BATCH, self._window - len(self._sent))
                if self._unsent and room > 0:
                    break
                if self._finishing and not self._tasks:
                    return None
                self._sender_idle = True
                self._condition.wait()
            if self._failure:
                return None
            batch: list[Record] = []
            while self._unsent and len(batch) < room:
                task_id = self._unsent.popleft()
                task = self._tasks.get(task_id)
                if task is not None:
                    batch.append(Record(task_id, task.record, task.max_deliveries))
                    self._sent.add(task_id)
                    self._sending.add(task_id)
            return batch

    def _send_batch(self, batch: list[Record]) -> None:
        while batch:
            try:
                self._channel.send(batch)
                break
            except OutcomeUnknownError:
                raise
            except (QueueDoesNotExistError, QueueClosedError) as exc:
                # The server came back empty. What was accepted before is gone with the queue.
                log.warning("%s: it is made anew", exc)
                self._channel.ensure(self._bound)
        with self._condition:
            self._sending.difference_update(record.id for record in batch)
            self._condition.notify_all()

    # Answers in

    def _listen(self) -> None:
        try:
            consumer = self._reply.consumer()
            acks: list[Verdict] = []
            deliveries: list[Delivery] = []
            while not self._is_done():
                if len(acks) > BURST or len(self._sent) > BURST or not consumer.known:
                    deliveries, acks = self._exchange(consumer, acks), []
                else:
                    deliveries = []
                if not deliveries:
                    one = consumer.next()
                    if one is None:
                        deliveries, acks = self._exchange(consumer, acks), []
                    else:
                        deliveries = [one]
                acks += self._resolve(deliveries)
                # While this thread waits it keeps no result alive.
                deliveries = []
            self._exchange(consumer, acks)
            consumer.close()
        except BaseException as exc:
            self.fail(exc)
        finally:
            self._done.set()
            self.on_idle()

    def _exchange(self, consumer: Any, acks: list[Verdict]) -> list[Delivery]:
        try:
            found: list[Delivery] = consumer.exchange(acks, BATCH, 0.0)
        except (QueueDoesNotExistError, QueueClosedError):
            self._resend()
            return []
        return found

    def _resend(self) -> None:
        """The server lost our reply queue, so it came back empty or we were away for too long: all
        that is outstanding is sent again, except what may run at most once."""
        log.warning("the server lost what was outstanding: it is sent again")
        self._stored.clear()
        self._reply.ensure()
        self._channel.ensure(self._bound)
        lost: list[PendingTask] = []
        with self._condition:
            for task_id in sorted(self._sent - self._sending):
                self._sent.discard(task_id)
                task = self._tasks[task_id]
                if task.max_deliveries == 1:
                    lost.append(self._tasks.pop(task_id))
                else:
                    self._unsent.append(task_id)
            self._condition.notify_all()
        for task in lost:
            error = TaskLostError(
                f"task {task.future.task_id} was lost with the server's data; it may run at most "
                "once, so it was not sent again"
            )
            settle(task.future, None, error)

    def _resolve(self, deliveries: Iterable[Delivery]) -> list[Verdict]:
        acks = []
        finished: list[tuple[PendingTask, Answer]] = []
        with self._condition:
            for delivery in deliveries:
                acks.append(Verdict(delivery, None))
                answer = self._read(delivery)
                if answer is None:
                    continue
                task = self._tasks.get(delivery.id)
                if task is None:
                    continue
                if answer.kind == Kind.DEATH:
                    task.deaths.append(answer.json())
                elif answer.kind == Kind.STARTED:
                    start(task.future)
                else:
                    del self._tasks[delivery.id]
                    self._sent.discard(delivery.id)
                    finished.append((task, answer))
            if self._sender_idle and (self._unsent or not self._tasks):
                self._sender_idle = False
                self._condition.notify_all()
        finished.reverse()
        while finished:
            # Nothing of a task stays referenced while the next one's callbacks run.
            finish(*finished.pop())
        return acks

    @staticmethod
    def _read(delivery: Delivery) -> Answer | None:
        if delivery.error:
            log.error("an answer is ignored: %s", delivery.error)
            return None
        try:
            return unpack_answer(delivery.body)
        except ValueError as exc:
            log.error("an answer is ignored: %s", exc)
            return None

    # Taking back

    def withdraw(self, task_id: bytes) -> bool:
        """Take a task back if nobody has begun it (`Withdrawer`)."""
        return bool(self.withdraw_many([task_id]))

    def withdraw_many(self, task_ids: Iterable[bytes]) -> list[TaskFuture]:
        """The futures of the tasks that will now never run. The caller cancels them."""
        withdrawn: list[PendingTask] = []
        asked: list[bytes] = []
        with self._condition:
            for task_id in task_ids:
                if task_id not in self._tasks:
                    continue
                if task_id in self._sending:
                    self._condition.wait_for(lambda: not self._sending, timeout=1.0)
                if task_id in self._sent:
                    asked.append(task_id)
                else:
                    withdrawn.append(self._tasks.pop(task_id))
        if asked:
            try:
                answers = self._channel.withdraw(asked, time.monotonic() + 5.0)
            except PressureError as exc:
                log.warning("could not cancel: %s", exc)
                answers = []
            with self._condition:
                for task_id, gone in zip(asked, answers, strict=False):
                    task = self._tasks.pop(task_id, None) if gone else None
                    if task is not None:
                        self._sent.discard(task_id)
                        withdrawn.append(task)
        with self._condition:
            self._condition.notify_all()
        if self._finishing:
            self._nudge()
        return [task.future for task in withdrawn]

    def cancel_all(self) -> None:
        """Cancel what has not begun."""
        with self._condition:
            task_ids = list(self._tasks)
        for future in self.withdraw_many(task_ids):
            future._withdrawn()

    # The end

    def finish(self) -> None:
        """No more tasks will come. The threads end when all futures are resolved."""
        with self._condition:
            self._finishing = True
            self._condition.notify_all()
        self._nudge()

    def fail(self, exc: BaseException) -> None:
        """Nothing more can be done: every future gets the error."""
        with self._condition:
            if self._failure is None:
                self._failure = exc
            tasks = list(self._tasks.values())
            self._tasks.clear()
            self._unsent.clear()
            self._sent.clear()
            self._condition.notify_all()
        for task in tasks:
            settle(task.future, None, exc)
        self._nudge()

    @property
    def failure(self) -> BaseException | None:
        return self._failure

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the threads have ended."""
        return self._done.wait(timeout)

    def close(self) -> None:
        """Remove the reply queue, and disconnect. After `wait`."""
        current = threading.current_thread()
        for thread in self._threads:
            if thread is not current:
                thread.join(5.0)
        try:
            self._reply.delete()
        except PressureError as exc:
            log.debug("the reply queue stays until its time is over: %s", exc)
        self._reply.disconnect()
        self._channel.disconnect()

    def _is_done(self) -> bool:
        with self._condition:
            return self._failure is not None or (self._finishing and not self._tasks)

    def _nudge(self) -> None:
        """Let the threads see that something changed."""
        if self._is_done():
            threading.Thread(target=self._unblock, daemon=True).start()

    def _unblock(self) -> None:
        while not self._done.is_set():
            try:
                self._reply.unblock()
            except PressureError as exc:
                log.debug("unblock failed: %s", exc)
            self._done.wait(0.02)
