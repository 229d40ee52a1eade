"""Ends tasks that must not run on: those whose time is over, and those that their client ended.

The warden belongs to a supervisor. It listens for orders at a reply queue of its own, whose id
workers send along with the notice that a task has started. An order is passed on to the worker by
its notes; the worker then raises an exception inside the task. If that doesn't help, the warden
kills the process, also when the task holds the interpreter lock, and gives the future its error.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pressure.channel import Channel, Delivery, Verdict
from pressure.errors import PressureError, QueueClosedError, QueueDoesNotExistError
from pressure.estate import conclude, give_back
from pressure.executor.notes import Notes, Snapshot
from pressure.executor.records import Kind, pack_answer

__all__ = ["Warden", "pack_order"]

log = logging.getLogger("pressure.worker")

_ORDER = struct.Struct(">16sd")
PAUSE = 0.2
STUCK = 0.2
"""A worker whose task runs for so long (seconds) has given back what is behind it, unless the task
holds the interpreter lock."""
CLOSE_PATIENCE = 2.0


def pack_order(client_id: bytes, grace: float) -> bytes:
    """The body of a client's order to end the task that has the message's id."""
    return _ORDER.pack(client_id, grace)


@dataclass(slots=True)
class _Order:
    task: bytes
    client: bytes
    grace: float
    kill_at: float = 0.0


class Warden:
    """`wake` is called when an order has come; `look` carries it out."""

    def __init__(self, channel: Channel, wake: Callable[[], None]) -> None:
        self._channel = channel
        self._replies = channel.reply_channel()
        self._wake = wake
        self._orders: dict[bytes, _Order] = {}
        self._lock = threading.Lock()
        self._killed: dict[int, tuple[bytes, str]] = {}
        self._thread: threading.Thread | None = None
        self._closing = False

    @property
    def id(self) -> bytes:
        """Under which it receives orders."""
        return self._replies.client_id

    def start(self) -> None:
        """Listen for orders. Once; not before the first workers were forked."""
        if self._thread is None:
            thread = threading.Thread(target=self._listen, name="pressure warden", daemon=True)
            try:
                thread.start()
            except RuntimeError as exc:
                log.warning("no order to end a task can be received for now: %s", exc)
                return
            self._thread = thread

    def _listen(self) -> None:
        acks: list[Verdict] = []
        consumer = None
        while not self._closing:
            try:
                if consumer is None:
                    self._replies.ensure()
                    consumer = self._replies.consumer()
                deliveries = consumer.exchange(acks, 16)
                acks = [Verdict(delivery, None) for delivery in deliveries]
                for delivery in deliveries:
                    self._take(delivery)
            except (QueueDoesNotExistError, QueueClosedError):
                acks = []
                with contextlib.suppress(PressureError):
                    self._replies.ensure()
            except PressureError as exc:
                log.warning("no order to end a task can be received: %s", exc)
                time.sleep(PAUSE)
        if consumer is not None:
            consumer.close()

    def _take(self, delivery: Delivery) -> None:
        if delivery.error or len(delivery.body) != _ORDER.size:
            log.error("an order is ignored: %s", delivery.error or "it is none")
            return
        client_id, grace = _ORDER.unpack(delivery.body)
        with self._lock:
            self._orders[delivery.id] = _Order(delivery.id, client_id, grace)
        self._wake()

    def look(self, workers: Iterable[tuple[int, Notes]]) -> float:
        """Pass on orders, and kill whom time has run out for. Returns how long that may wait for
        (seconds)."""
        now = time.monotonic()
        running = [(pid, notes, notes.read()) for pid, notes in workers]
        with self._lock:
            orders = dict(self._orders)
        due = []
        for pid, notes, snapshot in running:
            if snapshot.task is None or pid in self._killed:
                continue
            if now - snapshot.started > STUCK:
                self._stand_in(pid, notes, snapshot)
            if snapshot.kill_at:
                due.append((snapshot.kill_at, pid, notes, snapshot, "timeout"))
            order = orders.pop(snapshot.task, None)
            if order is not None and order.client == snapshot.client:
                if not order.kill_at:
                    notes.order(order.task)
                    order.kill_at = now + order.grace
                due.append((order.kill_at, pid, notes, snapshot, "terminated"))
        with self._lock:
            # What doesn't run here (any more) can't be ended here.
            for task in orders:
                self._orders.pop(task, None)
        for kill_at, pid, notes, snapshot, why in due:
            if now >= kill_at:
                self._kill(pid, notes, snapshot, why)
        if any(snapshot.task is not None for _, _, snapshot in running):
            due_again = now + STUCK
        else:
            due_again = now + 1e9
        return max(0.0, min([kill_at for kill_at, *_ in due if kill_at > now] + [due_again]) - now)

    def _stand_in(self, pid: int, notes: Notes, snapshot: Snapshot) -> None:
        """Do what a worker does while a task runs long, if that task keeps it from doing so."""
        try:
            if notes.announced != snapshot.task:
                self._announce(pid, notes, snapshot)
            self._recall(notes, snapshot)
        except PressureError as exc:
            log.warning("while a task ran in worker %d: %s", pid, exc)

    def _announce(self, pid: int, notes: Notes, snapshot: Snapshot) -> None:
        assert snapshot.task is not None
        notes.announced = snapshot.task
        body = pack_answer(
            Kind.STARTED,
            self.id,
            worker=f"{socket.gethostname()}:{pid}".encode()[:255],
            deliveries=0,
            started=time.time() - (time.monotonic() - snapshot.started),
            finished=0.0,
        )
        self._channel.notify(snapshot.client, snapshot.task, body)

    def _recall(self, notes: Notes, snapshot: Snapshot) -> None:
        """Give back what waits behind the task."""
        assert snapshot.task is not None
        if notes.recalled or not notes.behind(snapshot.task):
            return
        notes.recalled = True
        again = notes.read()
        behind = notes.behind(snapshot.task)
        if (again.task, again.done) != (snapshot.task, snapshot.done) or not behind:
            notes.recalled = False
            return
        try:
            give_back(self._channel, snapshot.consumer, behind)
        except PressureError:
            notes.recalled = False
            raise

    def _kill(self, pid: int, notes: Notes, snapshot: Snapshot, why: str) -> None:
        again = notes.read()
        if (again.task, again.done) != (snapshot.task, snapshot.done) or pid in self._killed:
            return
        assert snapshot.task is not None
        self._killed[pid] = snapshot.task, why
        log.info("worker %d is killed: its task %s is over (%s)", pid, snapshot.task.hex(), why)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def settle(self, pid: int, snapshot: Snapshot) -> bool:
        """The worker `pid` is dead. If it was killed for the task that it ran, then that task's
        future gets the error, and True is returned: it must not be blamed on the worker."""
        task, why = self._killed.pop(pid, (None, ""))
        if task is None or snapshot.task != task:
            return False
        said = {"why": why, "host": socket.gethostname(), "pid": pid}
        body = pack_answer(
            Kind.ENDED,
            json.dumps(said).encode(),
            worker=f"{socket.gethostname()}:{pid}".encode()[:255],
            deliveries=0,
            started=time.time() - (time.monotonic() - snapshot.started),
            finished=time.time(),
        )
        consumer, client = snapshot.consumer, snapshot.client
        try:
            return conclude(self._channel, consumer, client, task, bytes(body))
        except PressureError as exc:
            log.warning("task %s's end could not be told: %s", task.hex(), exc)
            return False

    def close(self) -> None:
        """Stop listening, and leave nothing at the server."""
        self._closing = True
        thread, self._thread = self._thread, None
        if thread is None:
            return
        until = time.monotonic() + CLOSE_PATIENCE
        try:
            while thread.is_alive() and time.monotonic() < until:
                self._replies.unblock()
                thread.join(0.05)
            # Sign off first: the deletion would try to wake this consumer for a while.
            self._replies.disconnect()
            self._replies.delete()
        except PressureError as exc:
            log.debug("the orders' queue stays until its time is over: %s", exc)
        self._replies.disconnect()
