"""A worker that dies at a given step of its work, once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

from pressure.channel import Consumer
from pressure.executor.worker import worker
from tests.faults.executing import note

STEPS = ("claimed", "to be unpickled", "begun", "ended", "to be recorded", "recorded")


def die_at(step: str, latch: str) -> None:
    """As an initializer: have this worker die at that step, unless another has done so before."""
    die = _Once(latch)
    if step in ("claimed", "to be recorded", "recorded"):
        _around_exchange(step, die)
    elif step == "to be unpickled":
        _before("_read", die)
    elif step == "ended":
        _after("_handle", die)
    else:
        assert step == "begun"
        global _begun
        _begun = die


def run(path: str, number: int) -> int:
    """The task."""
    note(path, str(number))
    _begun()
    return number * number


def _nothing() -> None:
    pass


_begun: Callable[[], None] = _nothing


class _Once:
    """Kills the process, but only one of those that share the latch."""

    def __init__(self, latch: str) -> None:
        self._latch = latch

    def __call__(self) -> None:
        try:
            os.close(os.open(self._latch, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


def _before(name: str, die: _Once) -> None:
    original = getattr(worker.Worker, name)

    def dying(*args: Any, **named: Any) -> Any:
        die()
        return original(*args, **named)

    setattr(worker.Worker, name, dying)


def _after(name: str, die: _Once) -> None:
    original = getattr(worker.Worker, name)

    def dying(*args: Any, **named: Any) -> Any:
        result = original(*args, **named)
        die()
        return result

    setattr(worker.Worker, name, dying)


def _around_exchange(step: str, die: _Once) -> None:
    original: Any = Consumer.exchange

    def dying(self: Any, verdicts: Sequence[Any], *args: Any, **named: Any) -> Any:
        if verdicts and step == "to be recorded":
            die()
        found = original(self, verdicts, *args, **named)
        if (verdicts and step == "recorded") or (found and step == "claimed"):
            die()
        return found

    setattr(Consumer, "exchange", dying)  # noqa: B010
