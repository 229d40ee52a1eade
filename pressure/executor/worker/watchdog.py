"""What a worker process has in hand, and the thread that looks after it while a task runs long."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from multiprocessing import parent_process
from multiprocessing.connection import wait as wait_for_any

from pressure.channel import Delivery, Verdict
from pressure.errors import PressureError, ServerUnavailableError
from pressure.executor.interrupts import Guard
from pressure.executor.notes import Notes
from pressure.executor.records import Kind, pack_answer
from pressure.executor.worker.one_queue import QUIET, Claimant, settle
from pressure.retry import is_about_one_queue

__all__ = ["Desk", "Watchdog"]

log = logging.getLogger("pressure.worker")

OVERDUE = 0.020
"""After this long on one task, the tasks behind it are given back."""
BATCH_OVERDUE = 0.060
"""After this long on what was claimed at once, what is left of it is."""
TICK = 0.010
HASTEN = 0.05
SIGN_OFF = 4.0
"""How long (seconds) an idle worker that is to stop tries to sign off at a server that is away."""


class Desk:
    """What is claimed and not begun, what runs, and what is done and not sent. The main thread and
    the watchdog share it; `lock` guards all but the last three."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.pending: deque[Delivery] = deque()
        self.verdicts: list[Verdict] = []
        self.current: Delivery | None = None
        self.started = 0.0
        self.begun = 0.0
        """When what was claimed at once was begun (monotonic), as `started` for one task."""
        self.announced = False
        self.stopping = False
        """No task is begun any more."""
        self.finished = False
        """The worker has signed off."""
        self.asleep = False
        """The watchdog must be woken when a task begins."""

    def take_verdicts(self) -> list[Verdict]:
        with self.lock:
            verdicts, self.verdicts = self.verdicts, []
        return verdicts

    def take_pending(self) -> list[bytes]:
        """The ids of what was claimed and not begun; it is somebody else's from now on."""
        with self.lock:
            ids = [delivery.id for delivery in self.pending]
            self.pending.clear()
        return ids


class Watchdog:
    """The second thread of a worker process.

    It returns the tasks behind one that runs long to the queue, and what is left of a claim that
    takes long; it sends the answers that are finished, tells the client that the task runs, has
    tasks ended whose time is over, and ends the process when its supervisor is gone.
    """

    def __init__(
        self,
        desk: Desk,
        consumer: Claimant,
        notes: Notes,
        guard: Guard,
        name: bytes,
        *,
        daemon: bool,
    ) -> None:
        self._desk = desk
        self._daemon = daemon
        self._consumer = consumer
        self._notes = notes
        self._guard = guard
        self._name = name
        self._bell_read, self._bell_write = os.pipe()

    def start(self) -> None:
        threading.Thread(target=self._watch, daemon=True).start()

    def ring(self) -> None:
        """Wake it. May be called by a signal handler."""
        os.write(self._bell_write, b"\0")

    def _watch(self) -> None:
        desk, consumer = self._desk, self._consumer
        parent = parent_process()
        sentinels = [parent.sentinel] if parent is not None else []
        idle_since = hastened = time.monotonic()
        later = 0.0
        while True:
            now = time.monotonic()
            self._look(consumer)
            if desk.current is not None:
                idle_since = now
                self._guard.check()
            elif now - idle_since > QUIET and not desk.stopping:
                desk.asleep = True
                # Looked at after that was set, or the beginning of a task might be missed.
                while desk.asleep and desk.current is None and not desk.stopping:
                    self._doze(sentinels, QUIET)
                    self._look(consumer)
                desk.asleep = False
                idle_since = time.monotonic()
            self._doze(sentinels, TICK)
            try:
                if now >= later:
                    self._relieve()
                if desk.stopping and now - hastened > HASTEN:
                    hastened = now
                    self._hasten(idle_since)
            except PressureError as exc:
                # That the server is away is for a daemon's supervisor to say, once.
                quiet = self._daemon and isinstance(exc, ServerUnavailableError)
                if is_about_one_queue(exc):
                    # It stays so for a while, and is said when the task is done.
                    quiet, later = True, now + QUIET
                log.log(logging.DEBUG if quiet else logging.WARNING, "while a task ran: %s", exc)

    def _look(self, consumer: Claimant) -> None:
        self._notes.looped(consumer.looked)
        if self._notes.asked:
            self._desk.stopping = True

    def _doze(self, sentinels: list[int], seconds: float) -> None:
        try:
            ready = wait_for_any([self._bell_read, *sentinels], seconds)
            if self._bell_read in ready:
                os.read(self._bell_read, 4096)
        except OSError as exc:
            if not self._desk.stopping:
                log.warning("a task has closed what its worker needs, which ends: %s", exc)
            self._desk.stopping = True
            time.sleep(seconds)
            return
        if len(ready) > (self._bell_read in ready):
            # The supervisor is gone; whoever replaces it starts its own workers.
            os._exit(0)

    def _hasten(self, idle_since: float) -> None:
        """End the main thread's wait for a task, or the process if its server is away."""
        if self._desk.finished or self._desk.current is not None:
            return
        if time.monotonic() - idle_since > SIGN_OFF:
            log.warning("could not sign off: what this worker held comes back when its lease ends")
            os._exit(1)
        self._consumer.unblock()

    def _relieve(self) -> None:
        """Do what must not wait for a task that runs long."""
        consumer = self._consumer
        if not consumer.lock.acquire(blocking=False):
            # The main thread is between tasks, and does all of this itself.
            return
        desk = self._desk
        try:
            with desk.lock:
                current = desk.current
                if current is None:
                    return
                now = time.monotonic()
                overdue = now - desk.started >= OVERDUE
                if not overdue and (not desk.pending or now - desk.begun < BATCH_OVERDUE):
                    return
                behind = list(desk.pending)
                desk.pending.clear()
                verdicts, desk.verdicts = desk.verdicts, []
                announce = overdue and not desk.announced
                desk.announced = desk.announced or overdue
            try:
                if behind:
                    consumer.give_back([delivery.id for delivery in behind])
                    self._notes.claimed([])
                if verdicts or consumer.unsettled:
                    settle(consumer, verdicts)
            except BaseException:
                # It is unknown what was done. Nothing of it does harm when it is done again.
                with desk.lock:
                    desk.pending.extendleft(reversed(behind))
                    desk.verdicts[:0] = verdicts
                raise
            if announce and current.client_id:
                self._announce(current)
        finally:
            consumer.lock.release()

    def _announce(self, current: Delivery) -> None:
        notice = pack_answer(
            Kind.STARTED,
            self._notes.supervisor,
            worker=self._name,
            deliveries=current.deliveries,
            started=time.time(),
            finished=0.0,
        )
        self._consumer.channel.notify(current.client_id, current.id, notice)
        # Only now: this thread may have lost the interpreter to the task for good.
        self._notes.announced = current.id
