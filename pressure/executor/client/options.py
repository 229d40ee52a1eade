"""Settings of single tasks."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["UNCHANGED", "USUAL", "Options"]

MOST_DELIVERIES = 65_535
LONGEST_BACKOFF = 60.0


class _Unchanged:
    """Stands for a setting that isn't given."""

    def __repr__(self) -> str:
        return "unchanged"


UNCHANGED: Any = _Unchanged()


@dataclass(frozen=True, slots=True)
class Options:
    """Settings of one task.

    Attributes:
        max_deliveries: how many workers may die of it; 1: it runs at most once, and fails if the
            server may have lost that it was begun (`docs/reliability.md`).
        timeout: seconds that one run may take (None: any time). Then `TaskTimeoutError` is raised
            inside the task; what that makes of it, is its outcome.
        grace: seconds that a task gets to end after it was told to, by `timeout` or `terminate`.
            Then its worker process is killed, and the future has the error.
        retries: how often it is run again after one of the errors `retry_for`.
        retry_for: exception classes. An error of its own or `TaskTimeoutError` or
            `WorkerLostError`; what was terminated or could not travel is never tried again.
        backoff: seconds until the first retry, twice as many until each further one (60 at most,
            each shortened at random by up to a quarter so that not all come at once); or a
            function from the number of the retry (1, 2, ...) to seconds.
        capture_output: what the task writes to `sys.stdout` and `sys.stderr`, and its log records,
            go to `future.output()` instead of the worker's output (256 KiB of them).

    Raises `TypeError` and `ValueError` for what makes no sense.
    """

    max_deliveries: int = 3
    timeout: float | None = None
    grace: float = 5.0
    retries: int = 0
    retry_for: tuple[type[BaseException], ...] = (Exception,)
    backoff: float | Callable[[int], float] = 0.1
    capture_output: bool = False

    def __post_init__(self) -> None:
        _whole("max_deliveries", self.max_deliveries, 1, MOST_DELIVERIES)
        _whole("retries", self.retries, 0, None)
        if self.timeout is not None:
            _seconds("timeout", self.timeout, zero=False)
        _seconds("grace", self.grace, zero=True)
        if not callable(self.backoff):
            _seconds("backoff", self.backoff, zero=True)
        object.__setattr__(self, "retry_for", _classes("retry_for", self.retry_for))

    def but(self, **settings: Any) -> Options:
        """These with those settings changed that are not `UNCHANGED`."""
        changed = {name: value for name, value in settings.items() if value is not UNCHANGED}
        return replace(self, **changed)

    def delay(self, retry: int) -> float:
        """Seconds to wait before retry number `retry` (from 1)."""
        if callable(self.backoff):
            return max(0.0, float(self.backoff(retry)))
        seconds = min(self.backoff * 2.0 ** min(retry - 1, 60), LONGEST_BACKOFF)
        return seconds * random.uniform(0.75, 1.0)


def _whole(name: str, value: Any, least: int, most: int | None) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if value < least or (most is not None and value > most):
        limits = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be {limits}, not {value!r}")


def _classes(name: str, value: Any) -> tuple[type[BaseException], ...]:
    """A tuple of exception classes, also from a single one or a list."""
    classes = (value,) if isinstance(value, type) else value
    if not isinstance(classes, tuple | list | set | frozenset) or not all(
        isinstance(one, type) and issubclass(one, BaseException) for one in classes
    ):
        raise TypeError(f"{name} must be exception classes in a tuple, not {value!r}")
    return tuple(classes)


def _seconds(name: str, value: Any, *, zero: bool) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise ValueError(f"{name} must be {'0 or more' if zero else 'more than 0'}, not {value!r}")


USUAL = Options()
