"""The client's engine: tasks out, answers in.

    submit ──> unsent ──sender──> task queue ──> workers ──> reply queue ──listener──> futures

It lives as long as there is work, also when the executor that it works for is gone. What was sent
and not answered is kept in the `Ledger`, so that it can be sent again if the server loses it; see
`Recovery`.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pressure.channel import Channel, Consumer, Delivery
from pressure.errors import (
    PressureError,
    QueueClosedError,
    QueueDoesNotExistError,
    ServerUnavailableError,
)
from pressure.executor.client.answers import explained, finish, fresh, read_all, settle, start
from pressure.executor.client.ending import Ending
from pressure.executor.client.futures import TaskFuture
from pressure.executor.client.ledger import Ledger
from pressure.executor.client.options import Options
from pressure.executor.client.packer import TaskPacker
from pressure.executor.client.recall import Recall
from pressure.executor.client.recovery import Recovery
from pressure.executor.client.retries import Retries
from pressure.executor.client.sending import Sender
from pressure.executor.client.statistics import ExecutorStats, Tally, gather
from pressure.executor.errors import ResultPayloadError
from pressure.executor.records import Answer, Kind
from pressure.executor.sharing import Shelf
from pressure.tending import Tender

__all__ = ["Dispatcher"]

log = logging.getLogger("pressure.executor")

BATCH = 500
BURST = 16
"""With more tasks than this outstanding, answers are fetched many at a time."""
HEAVY = 64 * 1024
_STARTED = int(Kind.STARTED)
CLOSE_PATIENCE = 2.0
GIVE_WAY = 1e-6


class Dispatcher:
    """Two threads, which end when `finish` was called and all is done.

    `on_idle` is called, by any thread, when the listener may have to be told of the end: somebody
    else then calls `unblock` until `wait` says that it has ended.
    """

    _future_type: type[TaskFuture[Any]] = TaskFuture

    def __init__(
        self,
        channel: Channel,
        *,
        bound: int,
        window: int,
        max_pending: int | None = None,
        no_workers_timeout: float | None = None,
        heed_workers: bool = True,
        same_main: bool = False,
        local: bool = False,
    ) -> None:
        self._channel = channel
        self._reply = channel.reply_channel()
        self._tender = Tender(self._reply.handle)
        self._stored: set[bytes] = set()
        self.shelf = Shelf(self._reply, self._stored, same_main=same_main, local=local)
        self._packer = TaskPacker(self.shelf, same_main=same_main)
        self.tally = Tally()
        self._prefix = os.urandom(8)
        self._numbers = itertools.count()
        self.ledger = Ledger(window, BATCH, max_pending)
        self._retries = Retries(self.ledger, self._over)
        self._ending = Ending(channel)
        self._recall = Recall(
            channel,
            self.ledger,
            self.tally,
            lambda: self._sender.conclude(insist=True),
            self._nudge,
            lambda: self.away_since is not None,
        )
        self._recovery = Recovery(
            channel,
            self._reply,
            self.ledger,
            self._recall,
            self.tally,
            self._stored,
            bound=bound,
            heed_workers=heed_workers,
            no_workers_timeout=no_workers_timeout,
        )
        self._sender = Sender(
            channel, self._reply, self.ledger, self._recovery, self._stored, self.fail
        )
        self.away_since: float | None = None
        """Since when the server is known to be away (monotonic)."""
        # Whether something large is to be acknowledged, which takes up memory until then.
        self._heavy = False
        self._done = threading.Event()
        self.resolving = False
        """Whether futures are being resolved, and their callbacks called, at the moment."""
        self.threads: list[threading.Thread] = []
        self.idents: set[int | None] = set()
        """Of the threads. Once one has ended, its ident may be another's."""
        self.on_idle: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Make the queues, and start the threads. Once; if it raises, all is over."""
        self._sender.begin(self._recovery.start())
        self._tender.begin()
        try:
            for target, name in (
                (self._listen, "pressure listener"),
                (self._sender.run, "pressure sender"),
            ):
                thread = threading.Thread(target=target, name=name, daemon=True)
                thread.start()
                self.threads.append(thread)
                self.idents.add(thread.ident)
        except RuntimeError as exc:
            # No thread can be started any more.
            self.fail(exc)
            raise

    # Tasks out

    def submit(
        self, function: Callable[..., Any], args: Any, kwargs: dict[str, Any], options: Options
    ) -> TaskFuture[Any]:
        """Pickle a task now and send it soon. What can't be pickled is the future's exception."""
        task_id = self._prefix + next(self._numbers).to_bytes(8, "big")
        future = self._future_type(task_id, self, options)
        try:
            future._record, future._needs = self._packer.pack(function, args, kwargs, options)
            self._channel.core.check_size(future._record)
        except KeyboardInterrupt:
            raise
        except BaseException as exc:
            self.ledger.refused += 1
            settle(future, None, explained(exc))
            return future
        ledger = self.ledger
        if ledger.idle and self._sender.submit(task_id, future):
            return future
        # A callback of a future must not wait for what only its own thread can bring about.
        may_wait = threading.get_ident() not in self.idents
        if not ledger.add(task_id, future, may_wait=may_wait):
            if ledger.failure is not None:
                raise fresh(ledger.failure)
            raise RuntimeError("cannot schedule new futures after shutdown")
        return future

    # Answers in

    def _listen(self) -> None:
        try:
            consumer = self._reply.consumer()
            acks: list[bytes] = []
            deliveries: list[Delivery] = []
            sent = self.ledger.sent
            while not self.ledger.is_done():
                if len(acks) > BURST or len(sent) > BURST or self._heavy or not consumer.known:
                    self._heavy = False
                    deliveries = self._exchange(consumer, acks)
                else:
                    deliveries = []
                if not deliveries:
                    one = self._next(consumer)
                    if one is None:
                        self._sender.conclude(insist=False)
                        deliveries = self._exchange(consumer, acks)
                    else:
                        deliveries = [one]
                deliveries = self._held(consumer, deliveries)
                acks += self._resolve(deliveries)
                # While this thread waits it keeps no result alive.
                one, deliveries = None, []
                if self._recall.unwanted or time.monotonic() >= self._recovery.check_at:
                    self._look_after()
            self._sign_off(consumer, acks)
        except BaseException as exc:
            self.fail(exc)
        finally:
            self._recall.cancel_leaving()
            self._done.set()
            self.on_idle()

    def _look_after(self) -> None:
        self._recall.cancel_unwanted(self._ending.unended(self.ledger.tasks))
        try:
            self._recovery.check()
            self.shelf.tidy()
        except PressureError as exc:
            log.warning("the server could not be asked whether all is there: %s", exc)

    def _next(self, consumer: Consumer) -> Delivery | None:
        return None if self.away_since is not None else consumer.next(self._recovery.look_by)

    def _held(self, consumer: Consumer, deliveries: list[Delivery]) -> list[Delivery]:
        """Without those whose large parts are gone since the server has lost everything: that is
        noticed soon, and then they are sent for again."""
        gone = [delivery.id for delivery in deliveries if delivery.gone]
        if not gone:
            return deliveries
        lost = {id for id in gone if not consumer.holds(id)}
        return [delivery for delivery in deliveries if delivery.id not in lost]

    def _exchange(self, consumer: Consumer, acks: list[bytes]) -> list[Delivery]:
        """Acknowledge `acks`, which is empty then unless the server is away, and claim answers."""
        losses = self.ledger.losses
        try:
            found = consumer.exchange((), BATCH, 0.0, done=acks)
        except (QueueDoesNotExistError, QueueClosedError) as exc:
            self._recovery.recover(exc, losses)
            acks.clear()
            return []
        except ServerUnavailableError:
            # One try has a short patience, all together have that of the settings.
            now = time.monotonic()
            self.away_since = self.away_since or now
            patience = self._channel.core.settings.reconnect_timeout
            if now - self.away_since > patience or self._channel.handle.address.has_ended:
                raise
            return []
        self.away_since = None
        acks.clear()
        return found

    def _resolve(self, deliveries: Sequence[Delivery]) -> list[bytes]:
        """Resolve futures by what has come; returns the ids of that, for its acknowledgement."""
        answers = read_all(deliveries, self._channel.core.settings.max_item_bytes)
        self._heavy = self._heavy or any([len(delivery[2]) > HEAVY for delivery in deliveries])
        acks = [delivery[0] for delivery in deliveries]
        begun: list[TaskFuture[Any]] = []
        finished: list[tuple[TaskFuture[Any], Answer | str]] = []
        ledger, ending = self.ledger, self._ending
        tasks, sent = ledger.tasks, ledger.sent
        with ledger.lock:
            for task_id, answer in answers:
                task = tasks.get(task_id)
                if task is None:
                    continue
                if isinstance(answer, str) or answer[0] < _STARTED:
                    if ending.heeds:
                        ending.over(task_id)
                    sent.discard(task_id)
                    if not task._options.retries:
                        del tasks[task_id]
                    finished.append((task, answer))
                elif answer.kind == _STARTED:
                    begun.append(task)
                    self._ending.started(task_id, bytes(answer.payload))
                elif answer.kind == Kind.DEATH:
                    with contextlib.suppress(ValueError):
                        task._deaths += (answer.json(),)
            if answers:
                ledger.heard_at = time.monotonic()
            ledger.settled()
        # Not under the ledger's lock: the garbage collector may want that in a thread that holds a
        # future's.
        for future in begun:
            start(future)
        lone = len(answers) == 1
        del answers, begun
        finished.reverse()
        self.resolving = True
        while finished:
            # Nothing of a task stays referenced while the next one's callbacks run.
            self._resolve_one(*finished.pop())
        self.resolving = False
        self._ending.send()
        if lone and not tasks:
            # Who waits for the only task runs now, and not after this thread's next request.
            time.sleep(GIVE_WAY)
        return acks

    def _resolve_one(self, task: TaskFuture[Any], answer: Answer | str) -> None:
        try:
            if isinstance(answer, str):
                raise ResultPayloadError(f"the answer to task {task.task_id}: {answer}")
            if task._options.retries:
                self._retries.finish(task, answer)
            else:
                finish(task, answer)
                self.tally.answered(answer)
        except Exception as exc:
            said = answer if isinstance(answer, str) else exc
            log.error("task %s: %s", task.task_id, said)
            self.ledger.forget([task._task_id])
            settle(task, None, exc)
            self._over(task)

    def _over(self, task: TaskFuture[Any]) -> None:
        if task.done():
            self.tally.ended(task)
        self._nudge()

    def _sign_off(self, consumer: Consumer, acks: list[bytes]) -> None:
        try:
            consumer.exchange((), 0, 0.0, done=acks)
            self.away_since = None
        except PressureError as exc:
            log.debug("some answers stay until the reply queue's time is over: %s", exc)
        consumer.close()

    # Ending tasks

    def withdraw(self, task_id: bytes) -> bool:
        return self._recall.withdraw(task_id)

    def withdraw_many(self, task_ids: Iterable[bytes]) -> list[TaskFuture[Any]]:
        return self._recall.withdraw_many(task_ids)

    def terminate(self, future: TaskFuture[Any], grace: float) -> bool:
        """Cancel a task, or end it where it runs; see `TaskExecutor.terminate`."""
        return self._ending.end(future, grace)

    def cancel_all(self, spare: int = 0) -> None:
        """Cancel what has not begun, but for the oldest `spare` of those that are about to."""
        self._recall.cancel_all(spare)

    # The end

    def finish(self) -> None:
        """No more tasks will come. The threads end when all futures are resolved."""
        self.ledger.finish()
        self._nudge()

    def fail(self, exc: BaseException) -> None:
        """Nothing more can be done: every future gets the error."""
        for task in self.ledger.fail(exc):
            settle(task, None, fresh(exc))
            self.tally.failed += 1
        self.on_idle()

    def stats(self) -> ExecutorStats:
        """How things are. Asks the server for the queue's depth."""
        return gather(self.ledger, self.tally, self._channel)

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
        for thread in self.threads:
            if thread is not current:
                thread.join(CLOSE_PATIENCE)
        self._recall.close()
        try:
            # Sign off first: the deletion would try to wake this consumer for a while.
            self._reply.disconnect()
            if self.away_since is None:
                self._reply.delete()
        except PressureError as exc:
            log.debug("the reply queue stays until its time is over: %s", exc)
        self._reply.disconnect()
        self._channel.disconnect()
