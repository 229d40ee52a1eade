"""Objects that fail where they should only be carried: one for each side and way to fail.

    Crash(when, how)    `when`: "pickled" or "unpickled"; `how`: one of `WAYS`
    Crash(when, how, only_in=pid)   only in that process
    run(how)            a task that fails while it runs
    give(when, how)     a task whose result is such an object

A process that is not meant to die of it never does: see `only_in` and `not_in`.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any, Literal

How = Literal["error", "exit", "segfault"]
When = Literal["pickled", "unpickled"]
WAYS: tuple[How, ...] = ("error", "exit", "segfault")
EXIT_CODE = 7
SAID = "this object does not want to travel"


class CrashError(Exception):
    """What the objects raise."""


def fail(how: How, only_in: int | None = None, not_in: int | None = None) -> Any:
    """Fail in that way, but neither outside of the process `only_in` nor in the process `not_in`,
    where it returns who it is."""
    if os.getpid() == not_in or only_in not in (None, os.getpid()):
        return os.getpid()
    if how == "exit":
        os._exit(EXIT_CODE)
    if how == "segfault":
        ctypes.string_at(0)
    raise CrashError(SAID)


class Crash:
    """An object that fails when it is pickled or unpickled."""

    def __init__(
        self, when: When, how: How, *, only_in: int | None = None, not_in: int | None = None
    ) -> None:
        self.when = when
        self.how: How = how
        self.only_in = only_in
        self.not_in = not_in

    def __reduce__(self) -> tuple[Any, ...]:
        if self.when == "pickled":
            fail(self.how, self.only_in, self.not_in)
            return int, (0,)
        return fail, (self.how, self.only_in, self.not_in)


class CrashingError(Exception):
    """An exception that fails likewise."""

    def __init__(self, crash: Crash) -> None:
        super().__init__(crash)


def run(how: How) -> None:
    """A task that fails while it runs."""
    print("last words", file=sys.stderr, flush=True)
    fail(how)


def give(crash: Crash) -> Crash:
    """A task whose result is a crash, made there of what it is told."""
    return crash


def give_made(when: When, how: How, only_in: int | None = None, not_in: int | None = None) -> Crash:
    return Crash(when, how, only_in=only_in, not_in=not_in)


def raise_made(when: When, how: How) -> None:
    raise CrashingError(Crash(when, how))
