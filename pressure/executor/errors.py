"""What becomes of a future when something other than its task went wrong.

::

    concurrent.futures.process.BrokenProcessPool
    └── TaskError                    about one task; the executor goes on
        ├── WorkerLostError          its workers died, as often as it may be delivered
        ├── TaskLostError            at-most-once, and the server lost it
        ├── TaskPayloadError         the worker could not read the task
        ├── ResultPayloadError       the result could not be sent, or the answer not be read here
        └── NoWorkersError           no worker was there to run it
    InitializerError                 a worker's initializer failed; the executor is broken
    PressureError
    ├── TaskTimeoutError             is a TimeoutError: it ran longer than it may
    ├── TaskTerminatedError          is a CancelledError: `terminate` ended it
    └── NestingError                 is a RecursionError: tasks wait for tasks too deeply

The first tree is of what `ProcessPoolExecutor` raises, so code written for it catches that.
"""

from __future__ import annotations

from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from pressure.errors import PressureError

__all__ = [
    "InitializerError",
    "NestingError",
    "NoWorkersError",
    "ResultPayloadError",
    "TaskError",
    "TaskLostError",
    "TaskPayloadError",
    "TaskTerminatedError",
    "TaskTimeoutError",
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
    """The server lost the task, or what became of it, and it may run at most once: it may have run
    or not."""


class TaskPayloadError(TaskError):
    """The worker could not read the task: its function, its arguments, or its signature."""


class ResultPayloadError(TaskError):
    """The task ran, but its result or exception could not be sent or read. Or what came instead of
    them was refused, since it is signed with another key: then it is unknown whether it ran."""


class NoWorkersError(TaskError):
    """No worker was there to run the task, for as long as `no_workers_timeout` says; or no local
    worker process could be started, or all died before they were ready."""


class InitializerError(PressureError, BrokenProcessPool):
    """The initializer failed in a worker process (or ended several), so no task can run."""


class TaskTimeoutError(PressureError, TimeoutError):
    """The task ran longer than its `timeout`. Raised inside it first, then (if that didn't end it
    within its `grace`) given to its future when its worker process was killed."""


class TaskTerminatedError(PressureError, CancelledError):
    """`terminate` ended the task while it ran. Raised inside it first, as `TaskTimeoutError` is."""


class NestingError(PressureError, RecursionError):
    """A task waits for a task that waits for a task, and so on, more than 100 deep in one worker
    process. The innermost never ran."""
