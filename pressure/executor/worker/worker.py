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
import socket
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import parent_process
from typing import Any

from pressure.channel import Delivery, Verdict
from pressure.content import Content
from pressure.errors import (
    PressureError,
    QueueClosedError,
    QueueDoesNotExistError,
    ServerUnavailableError,
)
from pressure.executor import context
from pressure.executor.by_value import explain
from pressure.executor.coroutines import CoroutineType, completed
from pressure.executor.descriptors import await_fetched
from pressure.executor.interrupts import SIGNAL, Guard, Unguarded, left
from pressure.executor.notes import MOST_CLAIMED, Notes
from pressure.executor.outcomes import pack_exception, pack_result
from pressure.executor.payloads import loads
from pressure.executor.post import Post
from pressure.executor.records import CAPTURE, NO_ARGUMENTS, Kind, unpack_task
from pressure.executor.worker.capture import Captured
from pressure.executor.worker.claims import Claims, next_count
from pressure.executor.worker.heirs import Kept, heed, prepare_signals, vanish
from pressure.executor.worker.library import Library
from pressure.executor.worker.lifeline import end_with
from pressure.executor.worker.one_queue import QUIET, Claimant, OneQueue, settle
from pressure.executor.worker.sealing import seal
from pressure.executor.worker.verdicts import not_to_run, refused, verdict
from pressure.executor.worker.watchdog import Desk, Watchdog

__all__ = ["Worker", "work"]

log = logging.getLogger("pressure.worker")

FAREWELL = 3.0
PAUSE = 0.02


def work(post: Post) -> None:
    """The main function of a worker process."""
    if post.stderr is not None:
        os.dup2(post.stderr.fileno(), 2)
        post.stderr.close()
    parent = parent_process()
    daemon = bool(post.name)
    if parent is not None:
        end_with(parent.sentinel, group=daemon)
    # `sys.stderr` may be anything, or nothing.
    faulthandler.enable(2)
    prepare_signals(daemon=daemon)
    notes = Notes(post.notes.fileno())
    post.notes.close()
    asked_to_stop = post.initialize()
    worker = Worker(post, notes)
    heed(worker.stop, daemon=daemon)
    if asked_to_stop:
        worker.stop()
    try:
        worker.run()
    except PressureError as exc:
        # In one line: that the server is away is no surprise that needs a traceback. A daemon's
        # supervisor says so itself.
        quiet = daemon and isinstance(exc, ServerUnavailableError)
        log.log(logging.DEBUG if quiet else logging.WARNING, "worker %d ends: %s", os.getpid(), exc)
        sys.exit(1)
    except Exception:
        worker.blame()
        raise


class Worker:
    """The loop of one worker process."""

    def __init__(self, post: Post, notes: Notes) -> None:
        self._channels = [post.channel(queue) for queue in post.queues]
        self._claimant: OneQueue | Claims
        if len(self._channels) == 1:
            self._claimant = OneQueue(self._channels[0], self._tell)
        else:
            self._claimant = Claims(self._channels, notes, self._tell, burst=post.burst)
        self._post = post
        self._notes = notes
        self._measures = notes.measures if notes.measures.wanted else None
        self._guard = Guard(notes)
        self._max_tasks = post.max_tasks
        self._name = f"{socket.gethostname()}:{os.getpid()}".encode()[:255]
        self._library = Library(self._channels, lambda: self._claimant.channel)
        self._done = 0
        self._last = b"", b""
        self._desk = Desk()
        self._watchdog = Watchdog(
            self._desk,
            self._claimant,
            notes,
            self._guard,
            self._name,
            daemon=bool(post.name),
        )
        self._ready = False

    def stop(self) -> None:
        """Finish the task that runs, give back the others, and end. For signal handlers."""
        self._desk.stopping = True
        if not self._ready:
            # Nothing is held yet, and nobody else would end the search for a server that is away.
            # No exception: raised while a finalizer runs, it would end there.
            vanish()
        self._watchdog.ring()

    def _tell(self, text: str, queue: int = 0) -> None:
        """Say why a queue can't be served, or (empty) that it can: a daemon's supervisor says it,
        once for all of its workers."""
        self._notes.trouble(text, queue)
        if text and not self._post.name:
            log.warning("queue %r can't be served for now: %s", self._post.queues[queue], text)

    def blame(self) -> None:
        """This process is broken. If no task runs, the last one may have done it, and is charged
        for that unless its outcome is recorded: or it would break one process after another."""
        if self._desk.current is None:
            self._notes.running(*self._last, time.monotonic(), self._done)

    def run(self) -> None:
        claimant = self._claimant
        if isinstance(claimant, Claims):
            claimant.open()
        else:
            self._notes.consumer(claimant.id, ready=False)
            claimant.open()
            self._notes.consumer(claimant.id)
        self._guard.install()
        self._kept = Kept(SIGNAL, daemon=not self._post.local)
        context.enter(
            context.Here(
                self._post,
                self._notes,
                self._guard,
                self.run_here,
                queue=lambda: claimant.channel.name,
            )
        )
        self._watchdog.start()
        self._ready = True
        if isinstance(claimant, Claims):
            self._serve_all(claimant)
        else:
            self._serve(claimant)
        self._finish(claimant)

    def _serve(self, consumer: OneQueue) -> None:
        desk = self._desk
        until = 0.0 if self._post.burst else None
        count = 1
        while not desk.stopping:
            if self._max_tasks is not None:
                count = min(count, self._max_tasks - self._done)
                if count <= 0:
                    break
            if consumer.trouble and consumer.rest():
                continue
            life = consumer.life
            try:
                with consumer.lock:
                    # Asked now, and not before the watchdog let go of the lock: it may have tried
                    # in vain to send these, and to give those back, while the last task ended.
                    verdicts, left = desk.take_verdicts(), desk.take_pending()
                    deliveries = consumer.claim(verdicts, left, count, until)
            except QueueDoesNotExistError:
                consumer.ensure()
                continue
            except QueueClosedError:
                if self._retires():
                    break
                time.sleep(QUIET)
                continue
            self._notes.consumer(consumer.id)
            if not deliveries:
                if self._retires():
                    break
                continue
            if life != consumer.life:
                desk.verdicts.clear()
            count = next_count(count, *self._take_up(consumer, deliveries))

    def _serve_all(self, claims: Claims) -> None:
        desk = self._desk
        most = MOST_CLAIMED
        while not desk.stopping:
            if self._max_tasks is not None:
                most = self._max_tasks - self._done
                if most <= 0:
                    break
            deliveries = claims.next(desk.take_verdicts, desk.take_pending, most)
            if deliveries:
                claims.ran(*self._take_up(claims, deliveries))
            elif self._retires():
                break

    def _retires(self) -> bool:
        """Nothing was claimed: whether that is the end."""
        if not self._post.burst or self._desk.stopping:
            return False
        if context.outstanding():
            # They may not have got into the queue yet.
            time.sleep(PAUSE)
            return False
        self._notes.retired()
        return True

    def _take_up(self, claimant: Claimant, deliveries: list[Delivery]) -> tuple[int, float]:
        """Run what was claimed. Returns how many were run, and how long that took (seconds)."""
        desk = self._desk
        begun, done = time.monotonic(), self._done
        if self._measures is not None:
            self._measures.leases_lost(sum(one.core.forfeited for one in self._channels))
        with desk.lock:
            desk.begun = begun
            desk.pending.extend(deliveries)
            self._notes.claimed([delivery.id for delivery in deliveries])
        if desk.asleep:
            desk.asleep = False
            self._watchdog.ring()
        self._run_pending(claimant)
        return self._done - done, time.monotonic() - begun

    def _run_pending(self, consumer: Claimant) -> None:
        desk, notes = self._desk, self._notes
        outcome: Verdict | None = None
        while True:
            with desk.lock:
                if outcome is not None:
                    desk.verdicts.append(outcome)
                if not desk.pending or desk.stopping:
                    desk.current = None
                    break
                delivery = desk.current = desk.pending.popleft()
                desk.started, desk.announced = time.monotonic(), False
            outcome = None
            once = delivery.max_deliveries == 1
            if once:
                notes.idle(self._done)
                if not self._isolate(consumer, delivery):
                    continue
            # In place of the task before: who dies in between is charged for that one, which has no
            # outcome yet.
            notes.running(delivery.id, delivery.client_id, desk.started, self._done)
            if notes.recalled:
                self._return(consumer, delivery)
                return
            outcome = self._handle(delivery)
            self._kept.restore()
            self._done += 1
            self._last = delivery.id, delivery.client_id
            if self._measures is not None:
                self._measures.ran(time.monotonic() - desk.started, delivery.deliveries)
            if once:
                with desk.lock:
                    desk.current = None
                    if outcome is not None:
                        desk.verdicts.append(outcome)
                outcome = None
                # It is noted as running until that is recorded: who dies before is charged.
                settle(consumer, desk.take_verdicts())
                notes.idle(self._done)
        notes.idle(self._done)
        self._kept.let_in()

    def _return(self, consumer: Claimant, delivery: Delivery) -> None:
        """The supervisor has recalled what was not begun, since this process did not do so itself:
        the last task held the interpreter lock."""
        with self._desk.lock:
            self._desk.current = None
            tasks = [delivery.id, *(behind.id for behind in self._desk.pending)]
            self._desk.pending.clear()
            self._notes.idle(self._done)
            self._notes.claimed([])
        consumer.give_back(tasks)

    def _isolate(self, consumer: Claimant, delivery: Delivery) -> bool:
        """Hold nothing but the current task: should this machine die, then that one is charged, and
        so does not run again. False if it is no longer held here, and so is another's."""
        behind = self._desk.take_pending()
        if behind:
            consumer.give_back(behind)
        settle(consumer, self._desk.take_verdicts())
        return consumer.holds(delivery.id)

    def _handle(self, delivery: Delivery) -> Verdict | None:
        unrun = not_to_run(delivery, self._claimant.server, self._name)
        if unrun is not None:
            return self._failed(unrun)
        if not self._library.client_lives(delivery.client_id, self._desk.started):
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
            return self._failed(refused(delivery, explain(exc), self._name))
        result: Any = None
        try:
            guard.stack.append(delivery)
            result = function(*args, **kwargs)
            if type(result) is CoroutineType:
                result = completed(result)
            # This, too, is the task's: it may run code of the user's.
            kind, payload = pack_result(result, local=self._post.local)
            guard.leave(depth)
        except BaseException as exc:
            kind, payload = pack_exception(left(guard, depth, exc), local=self._post.local)
        del result
        if sealed and kind is not Kind.RESULT:
            self._notes.failed()
        output = function.output if type(function) is Captured else b""
        outcome = verdict(delivery, kind, payload, self._name, started, output)
        answer = outcome.answer
        too_large = type(answer) is bytes and len(answer) > self._post.settings.max_item_bytes
        if sealed and (too_large or type(answer) is Content):
            # At once: what is large in it is still the task's, and what runs next might change it.
            outcome = seal(
                self._claimant.channel,
                outcome,
                self._name,
                started,
                stopping=lambda: self._desk.stopping,
            )
        del function, args, kwargs
        return outcome

    def _read(
        self, delivery: Delivery, guard: Guard | Unguarded
    ) -> tuple[Callable[..., Any], Any, Any]:
        task = unpack_task(delivery.body)
        if task.limits is not None:
            guard.limit(*task.limits)
        function = self._library.function(delivery.client_id, task)
        if task.flags & CAPTURE:
            function = Captured(function)
        if task.arguments == NO_ARGUMENTS:
            return function, (), {}
        args, kwargs = loads(task.arguments)
        return function, args, kwargs

    def _failed(self, outcome: Verdict) -> Verdict:
        self._notes.failed()
        return outcome

    def _finish(self, consumer: Claimant) -> None:
        rest = self._desk.take_pending()
        try:
            settle(consumer, self._desk.take_verdicts(), time.monotonic() + FAREWELL)
            context.leave()
            if rest:
                consumer.give_back(rest)
            await_fetched(FAREWELL if self._post.local else 0)
            consumer.close()
            for channel in self._channels:
                channel.disconnect()
        except PressureError as exc:
            log.warning("could not sign off: %s", exc)
            # The supervisor takes care of what is still held.
            sys.exit(1)
        finally:
            self._desk.finished = True
