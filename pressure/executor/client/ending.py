"""The client's side of `terminate`: who has to be told that a task is to end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Container
from concurrent.futures import wait
from typing import Any

from pressure.channel import Channel
from pressure.errors import PressureError, ServerRefusedError
from pressure.executor.client.futures import TaskFuture
from pressure.executor.errors import TaskTerminatedError
from pressure.executor.orders import Order, OrderKind, pack_order

__all__ = ["Ending"]

log = logging.getLogger("pressure.executor")

PATIENCE = (0.03, 0.05, 0.1, 0.2, 0.0)
"""How long (seconds) to look again for a task that is neither in the queue nor known to run."""
DEADLINE = 1.0
"""After so long (seconds) it is not looked for again."""


class Ending:
    """Knows which supervisors look after the tasks that run, and sends them orders.

    A task that is wanted before it is known to run is ended when it starts. One whose worker died
    is withdrawn once it is in the queue again, or ended when it starts once more.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._supervisors: dict[bytes, bytes] = {}
        self._wanted: dict[bytes, float] = {}
        self._due: list[bytes] = []

    def started(self, task_id: bytes, supervisor: bytes) -> None:
        """A worker of this supervisor runs the task. Quick: it only notes what `send` is to do."""
        with self._lock:
            self._supervisors[task_id] = supervisor
            if task_id in self._wanted:
                self._due.append(task_id)

    def want(self, task_id: bytes, grace: float) -> bool:
        """The task is to end, within `grace` seconds. Returns whether it is known to run."""
        with self._lock:
            self._wanted[task_id] = grace
            if task_id not in self._supervisors:
                return False
            self._due.append(task_id)
            return True

    def end(self, future: TaskFuture[Any], grace: float) -> bool:
        """See `TaskExecutor.terminate`."""
        if future.done():
            return False
        task_id = future._task_id
        until = time.monotonic() + DEADLINE
        for patience in PATIENCE:
            # A server that is away is told when it is back: see `unended`.
            away = future.running() and not self._reap()
            if not away and future._take_back():
                self.over(task_id)
                return True
            if self.want(task_id, grace):
                if not away:
                    self.send()
                return True
            # A worker has just taken it: it starts there soon, or will be given back.
            if wait([future], timeout=patience).done:
                self.over(task_id)
                return future.cancelled() or isinstance(future.exception(), TaskTerminatedError)
            if away or time.monotonic() > until:
                break
        return True

    def _reap(self) -> bool:
        """Have what dead workers held put back into the queue, should nobody else be there. Returns
        whether the server is."""
        try:
            self._channel.renew(())
        except PressureError as exc:
            log.debug("nobody looked for dead workers: %s", exc)
            return False
        return True

    def unended(self, outstanding: Container[bytes]) -> list[bytes]:
        """What was to end, and is still outstanding: it may be in the queue again."""
        if not self._wanted:
            return []
        with self._lock:
            for task_id in [id for id in self._wanted if id not in outstanding]:
                self._supervisors.pop(task_id, None)
                del self._wanted[task_id]
            task_ids = list(self._wanted)
        if task_ids and self._reap():
            self.send()
        return task_ids

    @property
    def heeds(self) -> bool:
        """Whether it is to be told of the ends of tasks."""
        return bool(self._supervisors or self._wanted)

    def over(self, task_id: bytes) -> None:
        """The task is done."""
        with self._lock:
            self._supervisors.pop(task_id, None)
            self._wanted.pop(task_id, None)

    def send(self) -> None:
        """Send the orders that are due."""
        while self._due:
            with self._lock:
                if not self._due:
                    return
                task_id = self._due.pop()
                supervisor = self._supervisors.get(task_id, b"")
                grace = self._wanted.get(task_id, 0.0)
            if not supervisor:
                continue
            try:
                order = pack_order(Order(OrderKind.TERMINATE, self._channel.client_id, grace))
                self._channel.notify(supervisor, task_id, order)
            except PressureError as exc:
                log.warning("task %s can't be ended for now: %s", task_id.hex(), exc)
                with self._lock:
                    # What isn't permitted will not be later.
                    if task_id in self._wanted and not isinstance(exc, ServerRefusedError):
                        self._due.append(task_id)
                return
