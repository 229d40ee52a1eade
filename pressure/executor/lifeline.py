"""A worker process ends when its supervisor does, whatever it is doing at the time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
from multiprocessing.connection import wait

__all__ = ["end_with"]

_F_SETSIG = 10


def end_with(sentinel: int) -> None:
    """Have the kernel kill this process when the pipe `sentinel` ends: no thread of this process
    can do that while a task holds the interpreter lock.

    Works on Linux. Elsewhere the watchdog sees to it, as soon as it gets the lock.
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError):
        fcntl.fcntl(sentinel, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(sentinel, _F_SETSIG, signal.SIGKILL)
        flags = fcntl.fcntl(sentinel, fcntl.F_GETFL)
        fcntl.fcntl(sentinel, fcntl.F_SETFL, flags | os.O_ASYNC)
    if wait([sentinel], 0):
        # It ended before there was anything to tell of it.
        os._exit(0)
