"""The client's engine: tasks out, answers in.

    submit ──> unsent ──sender──> task queue ──> workers ──> reply queue ──listener──> futures

It lives as long as there is work, also when the executor that it works for is gone. What was sent
and not answered is kept in the `Ledger`, so that it can be sent again if the server loses it: all
of it if a queue is gone or is another than before, and the end of it if the server knows only of
earlier puts than those that were made.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from pressure.channel import Channel, Consumer, Delivery, Verdict
from pressure.errors import (
    OperationUnblocked,
    PressureError,
    QueueClosedError,
    QueueDoesNotExistError,
    ServerUnavailableError,
)
from pressure.executor import pickling
from pressure.executor.answers import Needed, PendingTask, finish, fresh, settle, start
from pressure.executor.ending import Ending
from pressure.executor.errors import NoWorkersError, ResultPayloadError, TaskLostError
from pressure.executor.futures import TaskFuture
from pressure.executor.ledger import Batch, Ledger
from pressure.executor.options import Options
from pressure.executor.records import Answer, Kind, pack_task, unpack_answer
from pressure.executor.retries import Retries
from pressure.executor.sharing import Shelf
from pressure.executor.statistics import ExecutorStats, Tally
from pressure.producing import Forgotten, Producer, Withdrawer
from pressure.tending import Tender

__all__ = ["Dispatcher"]

log = logging.getLogger("pressure.executor")

BATCH = 500
BURST = 16
"""With more tasks than this outstanding, answers are fetched many at a time."""
LARGE = 4096
CHECK = 4.0
"""How often (seconds) the server is asked whether it still has what was sent."""
ALONE = 5.0
"""After this long without any worker (seconds) there is a warning."""
PRUNED = 3000.0
"""The server forgets a producer that puts nothing for an hour; within this time it has not."""
CANCEL_PATIENCE = 5.0
CLOSE_PATIENCE = 2.0


class Dispatcher:
    """Two threads, which end when `finish` was called and all is done.

    `on_idle` is called, by any thread, when the listener may have to be told of the end: somebody
    else then calls `unblock` until `wait` says that it has ended.
    """

    def __init__(
        self,
        channel: Channel,
        *,
        bound: int,
        window: int,
        max_pending: int | None = None,
        no_workers_timeout: float | None = None,
        heed_workers: bool = True,
    ) -> None:
        self._channel = channel
        self._reply = channel.reply_channel()
        self._tender = Tender(self._reply.handle)
        self._bound = bound
        self._packer = pickling.FunctionPacker()
        self._stored: set[bytes] = set()
        self.shelf = Shelf(self._reply, self._stored)
        self.tally = Tally()
        self._prefix = os.urandom(8)
        self._numbers = itertools.count()
        self.ledger = Ledger(window, BATCH, max_pending)
        self._retries = Retries(self._again, self._over)
        self._ending = Ending(channel)
        self._recovering = threading.Lock()
        self._producer: Producer | None = None
        self._withdrawer: Withdrawer | None = None
        self._sent_at = 0.0
        self._check_every = CHECK
        if no_workers_timeout is not None:
            self._check_every = min(CHECK, max(0.1, no_workers_timeout / 2))
        self._check_at = 0.0
        self._no_workers_timeout = no_workers_timeout
        self._heed_workers = heed_workers
        self._alone_since: float | None = None
        self._alone_said = False
        self._away_since: float | None = None
        self._done = threading.Event()
        self.resolving = False
        """Whether futures are being resolved, and their callbacks called, at the moment."""
        self._threads: list[threading.Thread] = []
        self.on_idle: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Make the queues, and start the threads. Once; if it raises, all is over."""
        self._channel.ensure(self._bound)
        self._reply.ensure()
        self._tender.begin()
        self._producer = Producer(self._channel)
        self._withdrawer = Withdrawer(self._channel)
        self._check_at = time.monotonic() + self._check_every
        try:
            for target, name in (
                (self._listen, "pressure listener"),
                (self._send, "pressure sender"),
            ):
                thread = threading.Thread(target=target, name=name, daemon=True)
                thread.start()
                self._threads.append(thread)
        except RuntimeError as exc:
            # No thread can be started any more.
            self.fail(exc)
            raise

    # Tasks out

    def submit(
        self, function: Callable[..., Any], args: Any, kwargs: dict[str, Any], options: Options
    ) -> TaskFuture:
        """Pickle a task now and send it soon. What can't be pickled is the future's exception."""
        task_id = self._prefix + next(self._numbers).to_bytes(8, "big")
        future = TaskFuture(task_id, self)
        try:
            packed = self._packer.pack(function)
            limits = None if options.timeout is None else (options.timeout, options.grace)
            needs: tuple[Needed, ...] = (packed,) if packed.stored else ()
            if self.shelf.used:
                arguments, shared = self.shelf.pickled((args, kwargs))
                needs += shared
            else:
                arguments = pickling.dumps((args, kwargs))
            body = pack_task(
                packed.reference,
                arguments,
                stored=packed.stored,
                limits=limits,
                capture=options.capture_output,
            )
            self._channel.core.check_size(body)
        except KeyboardInterrupt:
            raise
        except BaseException as exc:
            self.ledger.refused += 1
            # Without this frame, which refers to the future.
            traceback = exc.__traceback__
            future.set_exception(exc.with_traceback(traceback and traceback.tb_next))
            return future
        task = PendingTask(future, body, options, needs)
        # A callback of a future must not wait for what only its own thread can bring about.
        may_wait = threading.current_thread() not in self._threads
        if not self.ledger.add(task_id, task, may_wait=may_wait):
            if self.ledger.failure is not None:
                raise fresh(self.ledger.failure)
            raise RuntimeError("cannot schedule new futures after shutdown")
        return future

    def _send(self) -> None:
        producer = self._producer
        assert producer is not None
        losses = 0
        try:
            while (batch := self.ledger.next_batch()) is not None:
                if batch.losses != losses:
                    losses = batch.losses
                    producer.renew()
                self._send_batch(producer, batch)
            producer.close()
        except BaseException as exc:
            self.fail(exc)

    def _send_batch(self, producer: Producer, batch: Batch) -> None:
        accepted = 0
        try:
            for needed in batch.needs:
                if needed.digest not in self._stored:
                    self._reply.store(needed.digest, needed.data)
                    self._stored.add(needed.digest)
            accepted = producer.send(batch.records)
        except OperationUnblocked as exc:
            # Somebody wants to have some of it back.
            accepted = exc.accepted
        except (Forgotten, QueueDoesNotExistError) as exc:
            accepted = getattr(exc, "accepted", 0)
            self._recover(exc, batch.losses)
        self._sent_at = time.monotonic()
        self._fail_lost(self.ledger.delivered(batch, accepted, producer.number))

    # Answers in

    def _listen(self) -> None:
        try:
            consumer = self._reply.consumer()
            acks: list[Verdict] = []
            deliveries: list[Delivery] = []
            sent = self.ledger.sent
            while not self.ledger.is_done():
                if len(acks) > BURST or len(sent) > BURST or not consumer.known:
                    deliveries, acks = self._exchange(consumer, acks), []
                else:
                    deliveries = []
                if not deliveries:
                    one = self._next(consumer)
                    if one is None:
                        deliveries, acks = self._exchange(consumer, acks), []
                    else:
                        deliveries = [one]
                acks += self._resolve(deliveries)
                # While this thread waits it keeps no result alive.
                one, deliveries = None, []
                if time.monotonic() >= self._check_at:
                    self._check()
                    self._check_at = time.monotonic() + self._check_every
            self._sign_off(consumer, acks)
        except BaseException as exc:
            self.fail(exc)
        finally:
            self._done.set()
            self.on_idle()

    def _next(self, consumer: Consumer) -> Delivery | None:
        return None if self._away_since is not None else consumer.next()

    def _exchange(self, consumer: Consumer, acks: list[Verdict]) -> list[Delivery]:
        losses = self.ledger.losses
        try:
            found = consumer.exchange(acks, BATCH, 0.0)
        except (QueueDoesNotExistError, QueueClosedError) as exc:
            self._recover(exc, losses)
            return []
        except ServerUnavailableError:
            # One try has a short patience, all together have that of the settings. What was not
            # acknowledged comes again, and is known then.
            now = time.monotonic()
            self._away_since = self._away_since or now
            if now - self._away_since > self._channel.core.settings.reconnect_timeout:
                raise
            return []
        self._away_since = None
        return found

    def _resolve(self, deliveries: Iterable[Delivery]) -> list[Verdict]:
        acks = []
        finished: list[tuple[PendingTask, Answer | str]] = []
        ledger = self.ledger
        with ledger.condition:
            for delivery in deliveries:
                answer = _read(delivery)
                if len(delivery.body) > LARGE:
                    delivery = delivery._replace(body=b"")
                acks.append(Verdict(delivery, None))
                task = ledger.tasks.get(delivery.id)
                if task is None:
                    continue
                if isinstance(answer, str) or answer.kind < Kind.STARTED:
                    self._ending.over(delivery.id)
                    if task.options.retries:
                        ledger.sent.discard(delivery.id)
                    else:
                        ledger.take(delivery.id)
                    finished.append((task, answer))
                elif answer.kind == Kind.STARTED:
                    start(task.future)
                    self._ending.started(delivery.id, bytes(answer.payload))
                elif answer.kind == Kind.DEATH:
                    task.deaths += (answer.json(),)
            ledger.settled()
        finished.reverse()
        self.resolving = True
        while finished:
            # Nothing of a task stays referenced while the next one's callbacks run.
            self._resolve_one(*finished.pop())
        self.resolving = False
        self._ending.send()
        return acks

    def _resolve_one(self, task: PendingTask, answer: Answer | str) -> None:
        if isinstance(answer, str):
            future = task.future
            log.error("the answer to task %s is refused: %s", future.task_id, answer)
            error = ResultPayloadError(f"the answer to task {future.task_id} is refused: {answer}")
            settle(future, None, error)
            self._over(task)
        elif task.options.retries:
            self._retries.finish(task, answer)
        else:
            finish(task, answer)
            self.tally.answered(answer)

    def _again(self, task: PendingTask) -> None:
        self.ledger.again(task.future._task_id)

    def _over(self, task: PendingTask) -> None:
        if task.future.done():
            self.tally.ended(task.future)
        self.ledger.forget([task.future._task_id])
        self._nudge()

    def _sign_off(self, consumer: Consumer, acks: list[Verdict]) -> None:
        try:
            consumer.exchange(acks, 0, 0.0)
        except PressureError as exc:
            log.debug("some answers stay until the reply queue's time is over: %s", exc)
        consumer.close()

    # Losses

    def _recover(self, why: BaseException, losses: int) -> None:
        """The server has lost what was sent, or we were away for too long: all that is outstanding
        is sent again, except what may run at most once. `losses` is how many the ledger knew of
        before this one was noticed."""
        with self._recovering:
            if self.ledger.losses != losses:
                return
            # In this order: a worker drops the tasks of a client that has no reply queue.
            self._stored.clear()
            self._reply.ensure()
            self._channel.ensure(self._bound)
            lost = self.ledger.lose_all(losses)
        log.warning("the server lost what was outstanding, which is sent again (%s)", why)
        self._fail_lost(lost or [])

    def _fail_lost(self, tasks: list[PendingTask]) -> None:
        for task in tasks:
            error = TaskLostError(
                f"task {task.future.task_id} was lost with the server's data; it may run at most "
                "once, so it was not sent again"
            )
            settle(task.future, None, error)
            self.tally.failed += 1

    def _check(self) -> None:
        """Ask the server whether it still has what was sent, and whether anybody works on it."""
        losses, there = self.ledger.in_queue()
        if not there:
            self._alone_since, self._alone_said = None, False
            return
        assert self._producer is not None and self._withdrawer is not None
        try:
            standing = self._producer.standing()
            for task in self.ledger.forget(self._withdrawer.settle(time.monotonic() + 1.0)):
                task.future._withdrawn()
        except PressureError as exc:
            log.debug("the server does not say what it has: %s", exc)
            return
        number = standing.number
        if number is None and time.monotonic() - self._sent_at < PRUNED:
            number = 0
        if number == 0:
            self._recover(QueueDoesNotExistError(self._channel.name, "it was made anew"), losses)
        elif number is not None:
            missing = [task_id for task_id, put in there.items() if put > number]
            if missing:
                log.warning("the server lost the end of what was sent: it is sent again")
                self._stored.clear()
                self._fail_lost(self.ledger.lose(missing, losses))
        if self._heed_workers:
            self._look_for_workers(standing.consumers, len(there))

    def _look_for_workers(self, workers: int, tasks: int) -> None:
        now = time.monotonic()
        if workers:
            self._alone_since, self._alone_said = None, False
            return
        self._alone_since = self._alone_since or now
        alone = now - self._alone_since
        name, where = self._channel.name, self._channel.handle.address
        limit = self._no_workers_timeout
        if limit is not None and alone >= limit:
            error = NoWorkersError(
                f"no worker has served queue {name!r} at {where} for {alone:.0f} s: start one with "
                f"pressure-worker {where} --queue {name}"
            )
            self.withdraw_many(list(self.ledger.tasks))
            for task in self.ledger.forget(list(self.ledger.tasks)):
                settle(task.future, None, fresh(error))
        elif alone >= ALONE and not self._alone_said:
            self._alone_said = True
            log.warning(
                "no worker serves queue %r at %s: %d tasks wait for one (pressure-worker)",
                name,
                where,
                tasks,
            )

    # Taking back

    def withdraw(self, task_id: bytes) -> bool:
        """Take a task back if nobody has begun it (`futures.Withdrawer`)."""
        return bool(self.withdraw_many([task_id]))

    def withdraw_many(self, task_ids: Iterable[bytes]) -> list[TaskFuture]:
        """The futures of the tasks that will now never run. The caller cancels them."""
        withdrawn, sent = self.ledger.recall(task_ids, self._unblock_sender, 1.0)
        if sent and self._withdrawer is not None:
            try:
                found = self._withdrawer.withdraw(sent, time.monotonic() + CANCEL_PATIENCE)
            except PressureError as exc:
                # What it did is found out by `_check`.
                log.warning("could not cancel: %s", exc)
                found = []
            withdrawn += self.ledger.forget(found)
        self.tally.cancelled += len(withdrawn)
        self._nudge()
        return [task.future for task in withdrawn]

    def terminate(self, future: TaskFuture, grace: float) -> bool:
        """Cancel a task, or end it where it runs; see `TaskExecutor.terminate`."""
        if future.done():
            return False
        if future.cancel():
            return True
        task_id = future._task_id
        if self._ending.want(task_id, grace):
            self._ending.send()
        if future.done():
            self._ending.over(task_id)
            return False
        return True

    def _unblock_sender(self) -> None:
        try:
            self._channel.unblock()
        except PressureError as exc:
            log.debug("the sender could not be unblocked: %s", exc)

    def cancel_all(self, spare: int = 0) -> None:
        """Cancel what has not begun, but for the oldest `spare`."""
        with self.ledger.condition:
            task_ids = list(itertools.islice(self.ledger.tasks, spare, None))
        for future in self.withdraw_many(task_ids):
            future._withdrawn()

    # The end

    def finish(self) -> None:
        """No more tasks will come. The threads end when all futures are resolved."""
        self.ledger.finish()
        self._nudge()

    def fail(self, exc: BaseException) -> None:
        """Nothing more can be done: every future gets the error."""
        for task in self.ledger.fail(exc):
            settle(task.future, None, fresh(exc))
            self.tally.failed += 1
        self.on_idle()

    def stats(self) -> ExecutorStats:
        """How things are. Asks the server for the queue's depth."""
        ledger, tally = self.ledger, self.tally
        with ledger.condition:
            tasks, sent = len(ledger.tasks), list(ledger.sent)
            tasks_sent = [ledger.tasks[task_id] for task_id in sent if task_id in ledger.tasks]
            running = sum(task.future.running() for task in tasks_sent)
        try:
            depth = self._channel.size()
        except PressureError:
            depth = None
        return ExecutorStats(
            pending=tasks - len(sent),
            queued=len(sent) - running,
            running=running,
            done=tally.done,
            failed=tally.failed + ledger.refused,
            cancelled=tally.cancelled,
            workers=frozenset(worker.decode(errors="replace") for worker in tally.workers),
            queue_depth=depth,
        )

    @property
    def failure(self) -> BaseException | None:
        return self.ledger.failure

    def is_done(self) -> bool:
        """Whether no future is left to be resolved, and none will come."""
        return self.ledger.is_done()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the listener has ended."""
        return self._done.wait(timeout)

    def _nudge(self) -> None:
        if self.ledger.is_done():
            self.on_idle()

    def unblock(self) -> bool:
        """Let the threads see that it is over. False if the server is away."""
        try:
            self._reply.unblock()
            self._channel.unblock()
        except PressureError as exc:
            log.debug("unblock failed: %s", exc)
            return False
        return True

    def close(self) -> None:
        """Remove the reply queue, and disconnect. After `wait`."""
        self._tender.end()
        self._retries.close()
        current = threading.current_thread()
        for thread in self._threads:
            if thread is not current:
                thread.join(CLOSE_PATIENCE)
        if self._withdrawer is not None:
            self._withdrawer.close()
        try:
            self._reply.delete()
        except PressureError as exc:
            log.debug("the reply queue stays until its time is over: %s", exc)
        self._reply.disconnect()
        self._channel.disconnect()


def _read(delivery: Delivery) -> Answer | str:
    """An answer, or why it can't be read."""
    if delivery.error:
        return delivery.error
    try:
        return unpack_answer(delivery.body)
    except ValueError as exc:
        return str(exc)
