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
from collections.abc import Callable
from multiprocessing import parent_process
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
from pressure.executor.heirs import Heirs
from pressure.executor.interrupts import Guard, Unguarded
from pressure.executor.library import Library
from pressure.executor.lifeline import end_with
from pressure.executor.notes import MOST_CLAIMED, Notes
from pressure.executor.outcomes import broken, pack_exception, pack_result, say
from pressure.executor.payloads import Packed, loads
from pressure.executor.post import BROKEN_EXIT, DEFAULT_BOUND, Post
from pressure.executor.records import CAPTURE, Kind, pack_answer, unpack_task
from pressure.executor.watchdog import QUIET, Desk, Watchdog, settle

__all__ = ["Worker", "work"]

log = logging.getLogger("pressure.worker")

BATCH_SECONDS = 0.010
"""How much work a worker claims at once."""
MOST = MOST_CLAIMED
FAREWELL = 3.0


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
    heirs = Heirs()
    os.register_at_fork(
        before=heirs.before, after_in_parent=heirs.in_parent, after_in_child=heirs.in_child
    )
    notes = Notes(post.notes)
    os.unlink(post.notes)
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
    try:
        worker.run()
    except PressureError as exc:
        # In one line: that the server is away is no surprise that needs a traceback.
        log.warning("worker %d ends: %s", os.getpid(), exc)
        sys.exit(1)


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
        self._done = 0
        self._desk = Desk()
        self._watchdog = Watchdog(self._desk, self._channel, notes, self._guard, self._name)
        self._ready = False

    def stop(self) -> None:
        """Finish the task that runs, give back the others, and end. For signal handlers."""
        self._desk.stopping = True
        if not self._ready:
            # Nothing is held yet, and nobody else would end the search for a server that is away.
            sys.exit(0)
        self._watchdog.ring()

    def run(self) -> None:
        consumer = self._open()
        self._guard.install()
        context.enter(context.Here(self._post, self._notes, self._guard, self.run_here))
        self._watchdog.start(consumer)
        self._ready = True
        desk = self._desk
        count = 1
        while not desk.stopping:
            if self._max_tasks is not None:
                count = min(count, self._max_tasks - self._done)
                if count <= 0:
                    break
            life = consumer.life
            try:
                deliveries = consumer.exchange(desk.take_verdicts(), count)
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
                desk.verdicts.clear()
            begun = time.monotonic()
            done = self._done
            with desk.lock:
                desk.pending.extend(deliveries)
                self._notes.claimed([delivery.id for delivery in deliveries])
            if desk.asleep:
                desk.asleep = False
                self._watchdog.ring()
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

    def _run_pending(self, consumer: Consumer) -> None:
        desk = self._desk
        while True:
            with desk.lock:
                if not desk.pending or desk.stopping:
                    return
                delivery = desk.pending.popleft()
                desk.current, desk.started, desk.announced = delivery, time.monotonic(), False
            if delivery.max_deliveries == 1 and not self._isolate(consumer, delivery):
                desk.current = None
                continue
            self._notes.running(delivery.id, delivery.client_id, desk.started, self._done)
            if self._notes.recalled:
                self._return(consumer, delivery)
                return
            verdict = self._handle(delivery)
            self._done += 1
            if delivery.max_deliveries != 1:
                self._notes.idle(self._done)
            with desk.lock:
                desk.current = None
                if verdict is not None:
                    desk.verdicts.append(verdict)
            if delivery.max_deliveries == 1:
                # It is noted as running until that is recorded: who dies before is charged.
                settle(consumer, desk.take_verdicts())
                self._notes.idle(self._done)
            # A worker that now waits for its next task keeps nothing of the last one alive.
            del delivery, verdict

    def _return(self, consumer: Consumer, delivery: Delivery) -> None:
        """The supervisor has recalled what was not begun, since this process did not do so itself:
        the last task held the interpreter lock."""
        with self._desk.lock:
            self._desk.current = None
            tasks = [delivery.id, *(behind.id for behind in self._desk.pending)]
            self._desk.pending.clear()
            self._notes.idle(self._done)
            self._notes.claimed([])
        consumer.give_back(tasks)

    def _isolate(self, consumer: Consumer, delivery: Delivery) -> bool:
        """Hold nothing but the current task: should this machine die, then that one is charged, and
        so does not run again. False if it is no longer held here, and so is another's."""
        behind = self._desk.take_pending()
        if behind:
            consumer.give_back(behind)
        settle(consumer, self._desk.take_verdicts())
        return consumer.holds(delivery.id)

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
        rest = self._desk.take_pending()
        try:
            settle(consumer, self._desk.take_verdicts(), time.monotonic() + FAREWELL)
            context.leave()
            if rest:
                consumer.give_back(rest)
            consumer.close()
            self._channel.disconnect()
        except PressureError as exc:
            log.warning("could not sign off: %s", exc)
            # The supervisor takes care of what is still held.
            sys.exit(1)
        finally:
            self._desk.finished = True
