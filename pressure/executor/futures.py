"""The future of a task: a real `concurrent.futures.Future` that can withdraw what it stands for."""

from __future__ import annotations

from concurrent.futures import Future
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, PENDING
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

    def __init__(self, task_id: bytes, withdrawer: Withdrawer) -> None:
        super().__init__()
        self._task_id = task_id
        self._withdrawer: Withdrawer | None = withdrawer
        self._info: dict[str, Any] = {}

    @property
    def task_id(self) -> str:
        return self._task_id.hex()

    def info(self) -> dict[str, Any]:
        """What is known of the run: `worker`, `started`, `finished` (seconds since the epoch by the
        worker's clock), `deliveries`. Empty while nothing is."""
        return dict(self._info)

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

    def _withdrawn(self) -> bool:
        """The task will never run: wake whoever waits."""
        self._withdrawer = None
        if not super().cancel():
            return False
        self.set_running_or_notify_cancel()
        return True
