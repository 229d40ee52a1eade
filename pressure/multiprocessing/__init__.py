"""Queues and pools that replace `multiprocessing`'s by an import, and reach across machines::

    import pressure.multiprocessing as mp

    queue = mp.Queue(100)
    mp.Process(target=work, args=(queue,)).start()

Everything else is the standard library's own. See `pressure.multiprocessing.queues` and `.pool`.
"""

from __future__ import annotations

import importlib
import multiprocessing as _standard
import typing as _typing
from multiprocessing import (
    Array,
    AuthenticationError,
    Barrier,
    BoundedSemaphore,
    BufferTooShort,
    Condition,
    Event,
    Lock,
    Manager,
    Pipe,
    Process,
    ProcessError,
    RawArray,
    RawValue,
    RLock,
    Semaphore,
    TimeoutError,
    Value,
    active_children,
    allow_connection_pickling,
    cpu_count,
    current_process,
    freeze_support,
    get_all_start_methods,
    get_logger,
    get_start_method,
    log_to_stderr,
    parent_process,
    reducer,
    set_executable,
    set_forkserver_preload,
    set_start_method,
)
from typing import Any

from pressure.multiprocessing.aliases import install_aliases
from pressure.multiprocessing.contexts import get_context
from pressure.multiprocessing.pool import Pool
from pressure.multiprocessing.queues import JoinableQueue, Queue, SimpleQueue

if _typing.TYPE_CHECKING:
    # What `__getattr__` finds, for type checkers. Only `pool` and `queues` are this package's own.
    from multiprocessing import connection as connection
    from multiprocessing import context as context
    from multiprocessing import dummy as dummy
    from multiprocessing import forkserver as forkserver
    from multiprocessing import heap as heap
    from multiprocessing import managers as managers
    from multiprocessing import popen_fork as popen_fork
    from multiprocessing import popen_forkserver as popen_forkserver
    from multiprocessing import popen_spawn_posix as popen_spawn_posix
    from multiprocessing import popen_spawn_win32 as popen_spawn_win32
    from multiprocessing import process as process
    from multiprocessing import reduction as reduction
    from multiprocessing import resource_sharer as resource_sharer
    from multiprocessing import resource_tracker as resource_tracker
    from multiprocessing import shared_memory as shared_memory
    from multiprocessing import sharedctypes as sharedctypes
    from multiprocessing import spawn as spawn
    from multiprocessing import synchronize as synchronize
    from multiprocessing import util as util

__all__ = [
    "Array",
    "AuthenticationError",
    "Barrier",
    "BoundedSemaphore",
    "BufferTooShort",
    "Condition",
    "Event",
    "JoinableQueue",
    "Lock",
    "Manager",
    "Pipe",
    "Pool",
    "Process",
    "ProcessError",
    "Queue",
    "RLock",
    "RawArray",
    "RawValue",
    "Semaphore",
    "SimpleQueue",
    "TimeoutError",
    "Value",
    "active_children",
    "allow_connection_pickling",
    "cpu_count",
    "current_process",
    "freeze_support",
    "get_all_start_methods",
    "get_context",
    "get_logger",
    "get_start_method",
    "log_to_stderr",
    "parent_process",
    "reducer",
    "set_executable",
    "set_forkserver_preload",
    "set_start_method",
]


install_aliases()


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(_standard)})


if not _typing.TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """What else `multiprocessing` has: names, and submodules such as `shared_memory`."""
        if name.startswith("__"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            return getattr(_standard, name)
        except AttributeError:
            pass
        try:
            return importlib.import_module(f"{_standard.__name__}.{name}")
        except ModuleNotFoundError:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
