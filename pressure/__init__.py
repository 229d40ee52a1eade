"""Python's bounded, blocking queue on Redis or Valkey, and executors on top of it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pressure._version import __version__
from pressure.errors import (
    ItemTooLargeError,
    LeaseLostError,
    NotReplicatedError,
    OperationUnblocked,
    OutcomeUnknownError,
    PayloadError,
    PressureError,
    QueueAlreadyExistsError,
    QueueClosedError,
    QueueDoesNotExistError,
    QueueEmptyError,
    QueueError,
    QueueFullError,
    QueueInUseError,
    ServerError,
    ServerNotFoundError,
    ServerOutOfMemoryError,
    ServerRefusedError,
    ServerStartError,
    ServerUnavailableError,
    ShutDown,
    SignatureError,
)
from pressure.lease import Lease
from pressure.letters import DeadLetter
from pressure.queue import PressureQueue
from pressure.server import LocalServer, local_server
from pressure.settings import Settings
from pressure.stats import QueueStats

if TYPE_CHECKING:
    from pressure.executor import (
        ExecutorStats,
        InitializerError,
        NestingError,
        NoWorkersError,
        Options,
        OptionsView,
        RedisExecutor,
        ResultPayloadError,
        Shared,
        TaskError,
        TaskFuture,
        TaskLostError,
        TaskPayloadError,
        TaskTerminatedError,
        TaskTimeoutError,
        WorkerLostError,
        current_executor,
        register_by_value,
    )

__all__ = [
    "DeadLetter",
    "ExecutorStats",
    "InitializerError",
    "ItemTooLargeError",
    "Lease",
    "LeaseLostError",
    "LocalServer",
    "NestingError",
    "NoWorkersError",
    "NotReplicatedError",
    "OperationUnblocked",
    "Options",
    "OptionsView",
    "OutcomeUnknownError",
    "PayloadError",
    "PressureError",
    "PressureQueue",
    "QueueAlreadyExistsError",
    "QueueClosedError",
    "QueueDoesNotExistError",
    "QueueEmptyError",
    "QueueError",
    "QueueFullError",
    "QueueInUseError",
    "QueueStats",
    "RedisExecutor",
    "ResultPayloadError",
    "ServerError",
    "ServerNotFoundError",
    "ServerOutOfMemoryError",
    "ServerRefusedError",
    "ServerStartError",
    "ServerUnavailableError",
    "Settings",
    "Shared",
    "ShutDown",
    "SignatureError",
    "TaskError",
    "TaskFuture",
    "TaskLostError",
    "TaskPayloadError",
    "TaskTerminatedError",
    "TaskTimeoutError",
    "WorkerLostError",
    "__version__",
    "current_executor",
    "local_server",
    "register_by_value",
]

_EXECUTOR = frozenset(
    {
        "ExecutorStats",
        "InitializerError",
        "NestingError",
        "NoWorkersError",
        "Options",
        "OptionsView",
        "RedisExecutor",
        "ResultPayloadError",
        "Shared",
        "TaskError",
        "TaskFuture",
        "TaskLostError",
        "TaskPayloadError",
        "TaskTerminatedError",
        "TaskTimeoutError",
        "WorkerLostError",
        "current_executor",
        "register_by_value",
    }
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# Type checkers find all names above, and the names that aren't there.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        # Executors need multiprocessing; who only wants a queue doesn't pay for importing that.
        if name in _EXECUTOR:
            return getattr(importlib.import_module("pressure.executor"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
