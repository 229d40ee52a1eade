"""Futures that run on workers anywhere."""

from pressure.executor.by_value import register_by_value
from pressure.executor.client.base import OptionsView
from pressure.executor.client.futures import TaskFuture
from pressure.executor.client.nested import current_executor
from pressure.executor.client.options import Options
from pressure.executor.client.redis_executor import RedisExecutor
from pressure.executor.client.statistics import ExecutorStats
from pressure.executor.errors import (
    InitializerError,
    NestingError,
    NoWorkersError,
    ResultPayloadError,
    TaskError,
    TaskLostError,
    TaskPayloadError,
    TaskTerminatedError,
    TaskTimeoutError,
    WorkerLostError,
)
from pressure.executor.sharing import Shared

__all__ = [
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
]
