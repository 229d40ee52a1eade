"""A worker process: claim tasks, run them, answer.

    task queue ──exchange──> pending ──run in the main thread──> verdicts ──exchange──> reply queues

User code runs in the main thread. A second thread, the watchdog, looks after what the main thread
can't while a task runs long: it returns the tasks behind that one to the queue, sends the answers
that are finished, tells the client that the task is running, and ends the process when its
supervisor is gone.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from multiprocessing import parent_process
from multiprocessing.connection import wait as wait_for_any
from typing import Any

from pressure.channel import Consumer, Delivery, Verdict
from pressure.content import Content
from pressure.core import reason
from pressure.errors import (
    PressureError,
    QueueClosedError,
    QueueDoesNotExistError,
    QueueError,
    ServerOutOfMemoryError,
)
from pressure.executor import context
from pressure.executor.by_value import explain
from pressure.executor.capture import Captured
from pressure.executor.coroutines import CoroutineType, completed
from pressure.executor.interrupts import Guard, Unguarded
from pressure.executor.library import Library
from pressure.executor.lifeline import end_with
from pressure.executor.notes import Notes
from pressure.executor.outcomes import broken, pack_exception, pack_result, say
from pressure.executor.payloads import Packed, loads
from pressure.executor.post import BROKEN_EXIT, DEFAULT_BOUND, Post
from pressure.executor.records import CAPTURE, Kind, pack_answer, unpack_task

__all__ = ["Worker", "work"]

log = logging.getLogger("pressure.worker")

BATCH_SECONDS = 0.010
"""How much work a worker claims at once."""
MOST = 128
OVERDUE = 0.020
"""After this long on one task, the tasks behind it are given back."""
TICK = 0.010
QUIET = 1.0
HASTEN = 0.05
SIGN_OFF = 8.0
"""How long (seconds) an idle worker that is to stop tries to sign off at a server that is away."""


def work(post: Post) -> None:
    """The main function of a worker process."""
    if post.stderr is not None:
        os.dup2(post.stderr.fileno(), 2)
        post.stderr.close()
    parent = parent_process()
    if parent is not None:
        end_with(parent.sentinel)
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
    notes = Notes(post.notes)
    asked_to_stop: list[int] = []
    if post.initializer is not None:
        # It runs to its end: it may have more to do than to prepare for tasks.
        signal.signal(signal.SIGTERM, lambda number, _: asked_to_stop.append(number))
        try:
            post.initializer(*post.initargs)
        except BaseException:
            logging.getLogger("concurrent.futures").critical(
                "Exception in initializer:", exc_info=True
            )
            sys.exit(BROKEN_EXIT)
    worker = Worker(post, notes)
    signal.signal(signal.SIGTERM, lambda *_: worker.stop())
    if asked_to_stop:
        worker.stop()
    worker.run()


class Worker:
    """The loop of one worker process."""

    def __init__(self, post: Post, notes: Notes) -> None:
        self._channel = post.channel()
        self._post = post
        self._notes = notes
        self._guard = Guard(notes)
        self._max_tasks = post.max_tasks
        self._name = f"{socket.gethostname()}:{os.getpid()}".encode()[:255]
        self._library = Library(self._channel)
        self._clients: dict[bytes, float] = {}
        self._stopping = False
        self._finished = False
        self._life = 0
        self._done = 0
        self._lock = threading.Lock()
        """Guards what main thread and watchdog share: the next four."""
        self._pending: deque[Delivery] = deque()
        self._verdicts: list[Verdict] = []
        self._current: Delivery | None = None
        self._started = 0.0
        self._announced = False
        self._bell_read, self._bell_write = os.pipe()
        self._asleep = False
        """Whether the watchdog must be woken when a task begins."""

    def stop(self) -> None:
        """Finish the task that runs, give back the others, and end. For signal handlers."""
        self._stopping = True
        os.write(self._bell_write, b"\0")

    def run(self) -> None:
        consumer = self._open()
        self._guard.install()
        context.enter(context.Here(self._post, self._notes, self._guard, self.run_here))
        watchdog = threading.Thread(target=self._watch, args=(consumer,), daemon=True)
        watchdog.start()
        count = 1
        while not self._stopping:
            if self._max_tasks is not None:
                count = min(count, self._max_tasks - self._done)
                if count <= 0:
                    break
            life = consumer.life
            try:
                deliveries = consumer.exchange(self._take_verdicts(), count)
            except QueueDoesNotExistError:
                # Deleted, or lost with the server's data.
                self._channel.ensure(DEFAULT_BOUND)
                continue
            except QueueClosedError:
                time.sleep(QUIET)
                continue
            self._note_consumer(consumer)
            if not deliveries:
                continue
            if life != consumer.life:
                self._verdicts.clear()
            self._life = consumer.life
            begun = time.monotonic()
            done = self._done
            with self._lock:
                self._pending.extend(deliveries)
            self._wake_watchdog()
            self._run_pending(consumer)
            count = self._next_count(count, self._done - done, time.monotonic() - begun)
        self._finish(consumer)

    def _open(self) -> Consumer:
        self._channel.ensure(DEFAULT_BOUND)
        consumer = self._channel.consumer()
        consumer.exchange((), 0)
        self._note_consumer(consumer)
        return consumer

    def _note_consumer(self, consumer: Consumer) -> None:
        self._notes.consumer(consumer.id)

    @staticmethod
    def _next_count(count: int, ran: int, seconds: float) -> int:
        """Twice as many if that was quick; as many as fit into the time if it was not."""
        if seconds < BATCH_SECONDS / 2 and ran >= count:
            return min(count * 2, MOST)
        if seconds > BATCH_SECONDS:
            return max(1, min(count, int(ran * BATCH_SECONDS / seconds)))
        return count

    def _take_verdicts(self) -> list[Verdict]:
        with self._lock:
            verdicts, self._verdicts = self._verdicts, []
        return verdicts

    def _run_pending(self, consumer: Consumer) -> None:
        while True:
            with self._lock:
                if not self._pending:
                    return
                if self._stopping:
                    return
                delivery = self._pending.popleft()
                self._current, self._started, self._announced = delivery, time.monotonic(), False
            if delivery.max_deliveries == 1 and not self._isolate(consumer):
                self._current = None
                continue
            self._notes.running(delivery.id, delivery.client_id, self._started, self._done)
            verdict = self._handle(delivery)
            self._done += 1
            self._notes.idle(self._done)
            with self._lock:
                self._current = None
                if verdict is not None:
                    self._verdicts.append(verdict)
            if delivery.max_deliveries == 1:
                consumer.exchange(self._take_verdicts(), 0)
            # A worker that now waits for its next task keeps nothing of the last one alive.
            del delivery, verdict

    def _isolate(self, consumer: Consumer) -> bool:
        """Hold nothing but the current task: should this machine die, then that one is charged, and
        so does not run again. False if the lease was lost, so that it is another's by now."""
        with self._lock:
            behind = [delivery.id for delivery in self._pending]
            self._pending.clear()
        if behind:
            consumer.give_back(behind)
        consumer.exchange(self._take_verdicts(), 0)
        return consumer.life == self._life

    def _handle(self, delivery: Delivery) -> Verdict | None:
        if delivery.error:
            return self._refuse(delivery, delivery.error)
        if 0 < delivery.max_deliveries <= delivery.deliveries:
            return self._lost(delivery)
        if not self._client_lives(delivery.client_id):
            return Verdict(delivery, None)
        return self._run(delivery, self._guard)

    def run_here(self, delivery: Delivery) -> Verdict:
        """Run a task that was not claimed, in the thread that calls (`context.Here`)."""
        mine = threading.current_thread() is threading.main_thread()
        return self._run(delivery, self._guard if mine else Unguarded(), sealed=False)

    def _run(self, delivery: Delivery, guard: Guard | Unguarded, *, sealed: bool = True) -> Verdict:
        started = time.time()
        depth = len(guard.stack)
        try:
            function, args, kwargs = self._read(delivery, guard)
        except BaseException as exc:
            guard.leave(depth)
            return self._refuse(delivery, explain(exc))
        try:
            guard.stack.append(delivery)
            result = function(*args, **kwargs)
            if type(result) is CoroutineType:
                result = completed(result)
            guard.leave(depth)
        except BaseException as exc:
            guard.leave(depth)
            kind, payload = pack_exception(exc)
        else:
            kind, payload = pack_result(result)
            del result
        output = function.output if type(function) is Captured else b""
        verdict = self._answer(delivery, kind, payload, started, output)
        if sealed and type(verdict.answer) is Content:
            # At once: what is large in it is still the task's, and what runs next might change it.
            verdict = self._seal(verdict, started)
        del function, args, kwargs
        return verdict

    def _seal(self, verdict: Verdict, started: float) -> Verdict:
        delivery, answer, _ = verdict
        assert isinstance(answer, Content)
        try:
            sealed = self._channel.seal(delivery.client_id, delivery.id, answer)
            return verdict._replace(answer=sealed)
        except (QueueError, ServerOutOfMemoryError) as exc:
            kind, payload = broken(f"the result, {len(answer):,} bytes, cannot travel: {say(exc)}")
            return self._answer(delivery, kind, payload, started)

    def _read(
        self, delivery: Delivery, guard: Guard | Unguarded
    ) -> tuple[Callable[..., Any], Any, Any]:
        task = unpack_task(delivery.body)
        if task.limits is not None:
            guard.limit(*task.limits)
        function = self._library.function(delivery.client_id, task)
        if task.flags & CAPTURE:
            function = Captured(function)
        args, kwargs = loads(task.arguments)
        return function, args, kwargs

    def _client_lives(self, client_id: bytes) -> bool:
        """Whether anybody waits for the answer. Looked up at most every few seconds."""
        now = time.monotonic()
        if now - self._clients.get(client_id, -1e9) < 5.0:
            return True
        if not self._channel.reply_exists(client_id):
            self._clients.pop(client_id, None)
            return False
        if len(self._clients) > 1000:
            self._clients.clear()
        self._clients[client_id] = now
        return True

    def _answer(
        self,
        delivery: Delivery,
        kind: Kind,
        payload: bytes | Packed,
        started: float = 0.0,
        output: bytes = b"",
    ) -> Verdict:
        body = pack_answer(
            kind,
            payload,
            worker=self._name,
            deliveries=delivery.deliveries,
            started=started,
            finished=time.time(),
            output=output,
        )
        return Verdict(delivery, body)

    def _refuse(self, delivery: Delivery, why: str) -> Verdict:
        """Answer for a task that cannot be read; it goes to the dead letters."""
        verdict = self._answer(delivery, Kind.UNREADABLE, why.encode())
        if not delivery.client_id:
            verdict = verdict._replace(answer=None)
        return verdict._replace(dead_letter=reason("unreadable", why))

    def _lost(self, delivery: Delivery) -> Verdict:
        """Answer for a task whose workers died as often as it may be delivered."""
        verdict = self._answer(delivery, Kind.LOST, b"")
        why = f"{delivery.deliveries} workers died while they ran it"
        return verdict._replace(dead_letter=reason("worker_lost", why))

    def _finish(self, consumer: Consumer) -> None:
        with self._lock:
            rest = list(self._pending)
            self._pending.clear()
        try:
            consumer.exchange(self._take_verdicts(), 0, time.monotonic() + 5.0)
            context.leave()
            if rest:
                consumer.give_back([delivery.id for delivery in rest])
            consumer.close()
            self._channel.disconnect()
        except PressureError as exc:
            log.warning("could not sign off: %s", exc)
        self._finished = True

    # The watchdog

    def _wake_watchdog(self) -> None:
        if self._asleep:
            self._asleep = False
            os.write(self._bell_write, b"\0")

    def _watch(self, consumer: Consumer) -> None:
        parent = parent_process()
        sentinels = [parent.sentinel] if parent is not None else []
        idle_since = hastened = time.monotonic()
        while True:
            now = time.monotonic()
            if self._current is not None:
                idle_since = now
                self._guard.check()
            elif now - idle_since > QUIET and not self._stopping:
                self._asleep = True
                # Looked at after that was set, or the beginning of a task might be missed.
                while self._asleep and self._current is None and not self._stopping:
                    self._doze(sentinels, QUIET)
                self._asleep = False
                idle_since = time.monotonic()
            self._doze(sentinels, TICK)
            try:
                self._relieve(consumer)
                if self._stopping and now - hastened > HASTEN:
                    hastened = now
                    self._hasten(idle_since)
            except PressureError as exc:
                log.warning("while a task ran: %s", exc)

    def _doze(self, sentinels: list[int], seconds: float) -> None:
        ready = wait_for_any([self._bell_read, *sentinels], seconds)
        if self._bell_read in ready:
            os.read(self._bell_read, 4096)
        if len(ready) > (self._bell_read in ready):
            # The supervisor is gone; whoever replaces it starts its own workers.
            os._exit(0)

    def _hasten(self, idle_since: float) -> None:
        """End the main thread's wait for a task, or the process if its server is away."""
        if self._finished or self._current is not None:
            return
        if time.monotonic() - idle_since > SIGN_OFF:
            log.warning("could not sign off: what this worker held comes back when its lease ends")
            os._exit(1)
        self._channel.unblock()

    def _relieve(self, consumer: Consumer) -> None:
        """Do what must not wait for a task that runs long."""
        if not consumer.lock.acquire(blocking=False):
            # The main thread is between tasks, and does all of this itself.
            return
        try:
            with self._lock:
                current = self._current
                if current is None or time.monotonic() - self._started < OVERDUE:
                    return
                behind = [delivery.id for delivery in self._pending]
                self._pending.clear()
                verdicts, self._verdicts = self._verdicts, []
                announce, self._announced = not self._announced, True
            if behind:
                consumer.give_back(behind)
            if verdicts or consumer.unsettled:
                consumer.exchange(verdicts, 0)
            if announce and current.client_id:
                notice = pack_answer(
                    Kind.STARTED,
                    self._notes.supervisor,
                    worker=self._name,
                    deliveries=current.deliveries,
                    started=time.time(),
                    finished=0.0,
                )
                self._channel.notify(current.client_id, current.id, notice)
        finally:
            consumer.lock.release()
