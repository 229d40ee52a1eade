"""What becomes of a future when something other than its task went wrong.

::

    concurrent.futures.process.BrokenProcessPool
    └── TaskError                    about one task; the executor goes on
        ├── WorkerLostError          its workers died, as often as it may be delivered
        ├── TaskLostError            at-most-once, and the server lost it
        ├── TaskPayloadError         the worker could not read the task
        └── ResultPayloadError       the result could not be sent, or not be read here
    InitializerError                 a worker's initializer failed; the executor is broken

They are subclasses of what `ProcessPoolExecutor` raises, so code written for it catches them.
"""

from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool
from typing import Any

from pressure.errors import PressureError

__all__ = [
    "InitializerError",
    "ResultPayloadError",
    "TaskError",
    "TaskLostError",
    "TaskPayloadError",
    "WorkerLostError",
]


class TaskError(PressureError, BrokenProcessPool):
    """An error about one task."""


class WorkerLostError(TaskError):
    """The worker that ran the task died, each time it was delivered.

    Attributes:
        deaths: one dict per death, as far as they were seen: `host`, `pid`, `exit_code`, `signal`
            (its name), and the last lines of `stderr`.
        deliveries: how often the task was started and its worker died.
    """

    def __init__(
        self, message: str, deaths: tuple[dict[str, Any], ...] = (), deliveries: int = 0
    ) -> None:
        super().__init__(message, deaths, deliveries)
        self.deaths = deaths
        self.deliveries = deliveries

    def __str__(self) -> str:
        return str(self.args[0])


class TaskLostError(TaskError):
    """The server lost the task, which may run at most once: it may have run or not."""


class TaskPayloadError(TaskError):
    """The worker could not read the task: its function, its arguments, or its signature."""


class ResultPayloadError(TaskError):
    """The task ran, but its result or exception could not be sent or read."""


class InitializerError(PressureError, BrokenProcessPool):
    """The initializer failed in a worker process, so no task can run."""
