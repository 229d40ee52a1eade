"""Ends tasks that must not run on: those whose time is over, and those that their client ended.

The warden belongs to a supervisor. It listens for orders (`pressure.executor.orders`), whose queue
workers name in the notice that a task has started. An order is passed on to the worker by its
notes; the worker then raises an exception inside the task. If that doesn't help, the warden kills
the process, also when the task holds the interpreter lock, and its future gets an error.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pressure.channel import Channel, Delivery, Verdict
from pressure.channel.estate import give_back
from pressure.errors import PressureError, QueueClosedError, QueueDoesNotExistError
from pressure.executor.notes import Notes, Snapshot
from pressure.executor.orders import Order, OrderKind, pack_answer_to_order, read_order
from pressure.executor.records import Kind, pack_answer

__all__ = ["Warden"]

log = logging.getLogger("pressure.worker")

PAUSE = 0.2
STUCK = 0.2
"""A worker whose task runs for so long (seconds) has given back what is behind it, unless the task
holds the interpreter lock."""
CLOSE_PATIENCE = 2.0


@dataclass(slots=True)
class _Order:
    task: bytes
    client: bytes
    grace: float
    kill_at: float = 0.0


class Warden:
    """Listens beside the queue of each channel; all of them have the same client id.

    `wake` is called when an order to end a task has come, which `look` then carries out; `obey`
    with any other, and returns what is to be answered (None: nothing). `do` has something done in
    another thread, in order.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        wake: Callable[[], None],
        do: Callable[[Callable[[], None]], None],
        obey: Callable[[Order], dict[str, Any] | None],
    ) -> None:
        self._channels = channels
        self._replies = [channel.reply_channel() for channel in channels]
        self._wake = wake
        self._do = do
        self._obey = obey
        self._orders: dict[bytes, _Order] = {}
        self._lock = threading.Lock()
        self._killed: dict[int, tuple[bytes, str]] = {}
        self._stood_in: set[int] = set()
        self._threads: list[threading.Thread] = []
        self._listening: set[int] = set()
        self._closing = False

    @property
    def id(self) -> bytes:
        """Under which it receives orders."""
        return self._replies[0].client_id

    @property
    def listens(self) -> bool:
        """Whether orders are received, of every queue."""
        return len(self._listening) == len(self._channels)

    def start(self) -> None:
        """Listen for orders. Once; not before the first workers were forked."""
        for number in range(len(self._threads), len(self._channels)):
            thread = threading.Thread(
                target=self._listen, args=(number,), name="pressure warden", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as exc:
                # The interpreter's end is no trouble: nobody is left to give orders.
                level = logging.DEBUG if "interpreter shutdown" in str(exc) else logging.WARNING
                log.log(level, "no order to end a task can be received for now: %s", exc)
                return
            self._threads.append(thread)

    def _listen(self, number: int) -> None:
        channel, replies = self._channels[number], self._replies[number]
        acks: list[Verdict] = []
        consumer = None
        while not self._closing:
            try:
                if consumer is None:
                    replies.ensure()
                    consumer = replies.consumer()
                    self._listening.add(number)
                    self._wake()
                deliveries = consumer.exchange(acks, 16)
                acks = [Verdict(delivery, None) for delivery in deliveries]
                for delivery in deliveries:
                    self._take(delivery, channel)
            except (QueueDoesNotExistError, QueueClosedError):
                acks = []
                with contextlib.suppress(PressureError):
                    replies.ensure()
            except PressureError as exc:
                log.debug("no order can be received: %s", exc)
                time.sleep(PAUSE)
        if consumer is not None:
            consumer.close()

    def _take(self, delivery: Delivery, channel: Channel) -> None:
        try:
            if delivery.error:
                raise ValueError(delivery.error)
            order = read_order(delivery.body)
        except ValueError as exc:
            log.error("an order is ignored: %s", exc)
            return
        if order.kind == OrderKind.TERMINATE:
            with self._lock:
                self._orders[delivery.id] = _Order(delivery.id, order.client, order.grace or 0.0)
            self._wake()
            return
        said = self._obey(order)
        if said is not None:
            channel.notify(order.client, delivery.id, pack_answer_to_order(said))

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
            if now - snapshot.started > STUCK and self._is_stuck(pid, notes, snapshot.task):
                self._stood_in.add(pid)
                self._do(partial(self._stand_in, pid, notes, snapshot))
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

    def _is_stuck(self, pid: int, notes: Notes, task: bytes) -> bool:
        """Whether a worker has not done what it does while a task runs long."""
        undone = notes.announced != task or (not notes.recalled and bool(notes.behind(task)))
        return undone and pid not in self._stood_in

    def _stand_in(self, pid: int, notes: Notes, snapshot: Snapshot) -> None:
        """Do what the task keeps its worker from doing."""
        try:
            if notes.read().task != snapshot.task:
                return
            if notes.announced != snapshot.task:
                self._announce(pid, notes, snapshot)
            self._recall(notes, snapshot)
        except PressureError as exc:
            # It is tried again for as long as the task runs.
            log.debug("could not stand in for worker %d: %s", pid, exc)
        finally:
            self._stood_in.discard(pid)

    def _announce(self, pid: int, notes: Notes, snapshot: Snapshot) -> None:
        assert snapshot.task is not None
        body = pack_answer(
            Kind.STARTED,
            self.id,
            worker=f"{socket.gethostname()}:{pid}".encode()[:255],
            deliveries=0,
            started=time.time() - (time.monotonic() - snapshot.started),
            finished=0.0,
        )
        self._channels[snapshot.queue].notify(snapshot.client, snapshot.task, body)
        notes.announced = snapshot.task

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
            give_back(self._channels[snapshot.queue], snapshot.consumer, behind)
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

    def ended(self, pid: int, snapshot: Snapshot) -> str:
        """The worker `pid` is dead. For which reason the task that it ran was to end, if the
        process was killed for that; else an empty text."""
        task, why = self._killed.pop(pid, (None, ""))
        return why if task is not None and snapshot.task == task else ""

    def close(self) -> None:
        """Stop listening, and leave nothing at the server."""
        self._closing = True
        until = time.monotonic() + CLOSE_PATIENCE
        threads, self._threads = self._threads, []
        for thread, replies in zip(threads, self._replies, strict=False):
            try:
                while thread.is_alive() and time.monotonic() < until:
                    replies.unblock()
                    thread.join(0.05)
                # Sign off first: the deletion would try to wake this consumer for a while.
                replies.disconnect()
                replies.delete()
            except PressureError as exc:
                log.debug("the orders' queue stays until its time is over: %s", exc)
            replies.disconnect()

    def abandon(self) -> None:
        """Stop listening, and leave what is at the server to the end of the leases."""
        self._closing = True
        for replies in self._replies:
            replies.handle.abandon()
