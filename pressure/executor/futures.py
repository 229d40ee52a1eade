"""The future of a task: a real `concurrent.futures.Future` that can withdraw what it stands for."""

from __future__ import annotations

from concurrent.futures import Future
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, PENDING, RUNNING
from typing import Any, Protocol

__all__ = ["TaskFuture", "Withdrawer"]


class Withdrawer(Protocol):
    """What a future needs of its executor."""

    def withdraw(self, task_id: bytes) -> bool:
        """Take a task back, if nobody has begun it."""


class TaskFuture(Future[Any]):
    """As `concurrent.futures.Future`.

    `cancel()` returns True only if the task was withdrawn and will never run; it asks the server
    where the task waits there, and then takes a round trip.

    Attributes:
        task_id: names the task in logs and dead letters (hex).
    """

    _attempts = 1

    _output = b""

    def __init__(self, task_id: bytes, withdrawer: Withdrawer) -> None:
        super().__init__()
        self._task_id = task_id
        self._withdrawer: Withdrawer | None = withdrawer
        self._answered: tuple[int, float, float, bytes] | None = None

    @property
    def task_id(self) -> str:
        return self._task_id.hex()

    def info(self) -> dict[str, Any]:
        """What is known of the run: `worker`, `started`, `finished` (seconds since the epoch by the
        worker's clock), `deliveries`, `attempts` (with its retries). Empty while nothing is."""
        if self._answered is None:
            return {}
        deliveries, started, finished, worker = self._answered
        return {
            "worker": worker.decode(errors="replace"),
            "started": started,
            "finished": finished,
            "deliveries": deliveries,
            "attempts": self._attempts,
        }

    def output(self) -> str:
        """What the task printed and logged, with the option `capture_output`; else empty. Empty
        until it is done, and if its worker died."""
        return self._output.decode(errors="replace")

    def cancel(self) -> bool:
        with self._condition:
            if self._state in (CANCELLED, CANCELLED_AND_NOTIFIED):
                return True
            if self._state != PENDING:
                return False
            withdrawer = self._withdrawer
        if withdrawer is None or not withdrawer.withdraw(self._task_id):
            return False
        return self._withdrawn()

    def _retried(self) -> bool:
        """The task waits for another try. False if it is not wanted any more."""
        with self._condition:
            if self._state not in (PENDING, RUNNING):
                return False
            self._state = PENDING
            self._attempts += 1
            return True

    def _withdrawn(self) -> bool:
        """The task will never run: wake whoever waits."""
        self._withdrawer = None
        with self._condition:
            if self._state == RUNNING:
                # It did run, but its worker died, and it was taken back from the queue.
                self._state = PENDING
        if not super().cancel():
            return False
        self.set_running_or_notify_cancel()
        return True

    def _Future__get_result(self) -> Any:
        # Before Python 3.14 the base class takes an error that is false for none.
        try:
            if self._exception is not None:
                raise self._exception
            return self._result
        finally:
            # A traceback's frames must not refer back to the future.
            self = None  # type: ignore[assignment]
