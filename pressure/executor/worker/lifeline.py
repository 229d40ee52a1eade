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


def end_with(sentinel: int, *, group: bool = False) -> None:
    """Have the kernel kill this process when the pipe `sentinel` ends: no thread of this process
    can do that while a task holds the interpreter lock.

    With `group`, this process leads a process group from now on, and all of that is killed: what
    tasks have started, too. It gets no Ctrl-C from the terminal any more.

    The kernel does it on Linux. Elsewhere the watchdog sees to it, as soon as it gets the lock.
    """
    if group:
        os.setpgid(0, 0)
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError):
        fcntl.fcntl(sentinel, fcntl.F_SETOWN, -os.getpid() if group else os.getpid())
        fcntl.fcntl(sentinel, _F_SETSIG, signal.SIGKILL)
        flags = fcntl.fcntl(sentinel, fcntl.F_GETFL)
        fcntl.fcntl(sentinel, fcntl.F_SETFL, flags | os.O_ASYNC)
    if wait([sentinel], 0):
        # It ended before there was anything to tell of it.
        os._exit(0)
