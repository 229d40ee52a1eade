"""Faults of a process's surroundings. They strike the process that calls `strike`."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable

from tests.faults.kit.fault import Fault

TEN_MINUTES = 600.0


class NoDescriptors(Fault):
    """No file descriptor can be had any more (EMFILE). What is open stays open."""

    def __init__(self) -> None:
        self._taken: list[int] = []
        self._limits = 0, 0

    def strike(self) -> None:
        self._limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(int(name) for name in os.listdir("/dev/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, self._limits[1]))
        try:
            while True:
                self._taken.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass

    def heal(self) -> None:
        while self._taken:
            os.close(self._taken.pop())
        if self._limits != (0, 0):
            resource.setrlimit(resource.RLIMIT_NOFILE, self._limits)


class WrongClock(Fault):
    """The clock on the wall is wrong by so many seconds, for all that asks `time.time`."""

    def __init__(self, by: float = TEN_MINUTES) -> None:
        self._by = by
        self._right: Callable[[], float] | None = None

    def strike(self) -> None:
        right = self._right = time.time
        by = self._by
        vars(time)["time"] = lambda: right() + by
        vars(time)["time_ns"] = lambda: int((right() + by) * 1e9)

    def heal(self) -> None:
        if self._right is not None:
            vars(time)["time"] = self._right
            vars(time)["time_ns"] = lambda right=self._right: int(right() * 1e9)
            self._right = None
