"""Futures that run on workers anywhere."""

from pressure.executor.base import OptionsView
from pressure.executor.by_value import register_by_value
from pressure.executor.client import RedisExecutor
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
from pressure.executor.futures import TaskFuture
from pressure.executor.nested import current_executor
from pressure.executor.options import Options
from pressure.executor.sharing import Shared
from pressure.executor.statistics import ExecutorStats

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
