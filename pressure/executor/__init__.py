"""Futures that run on workers anywhere."""

from pressure.executor.client import RedisExecutor
from pressure.executor.errors import (
    InitializerError,
    ResultPayloadError,
    TaskError,
    TaskLostError,
    TaskPayloadError,
    WorkerLostError,
)
from pressure.executor.futures import TaskFuture
from pressure.executor.options import Options

__all__ = [
    "InitializerError",
    "Options",
    "RedisExecutor",
    "ResultPayloadError",
    "TaskError",
    "TaskFuture",
    "TaskLostError",
    "TaskPayloadError",
    "WorkerLostError",
]
