"""What callers pass, checked: the synchronous and the asyncio queue take the same."""

from __future__ import annotations

import operator
import time
from typing import Protocol

from pressure.errors import PressureError

__all__ = [
    "MAX_BOUND",
    "check_settings",
    "checked_bound",
    "checked_count",
    "deadline",
    "lenient_deadline",
    "put_deadline",
    "usable_bound",
]

MAX_BOUND = 2**53
"""Beyond this, numbers in scripts are not exact."""


def deadline(block: bool, timeout: float | None) -> float | None:
    """The monotonic time to stop at; 0: at once, None: never."""
    if not block:
        return 0.0
    if timeout is None:
        return None
    # A NaN is never less than anything, and would never be reached.
    if not timeout >= 0:
        raise ValueError("'timeout' must be a non-negative number")
    return time.monotonic() + timeout


def put_deadline(block: bool, timeout: float | None, bound: int) -> float | None:
    """As `deadline`, but an unbounded queue never looks at the time-out, as `queue.Queue.put`."""
    if block and bound == 0 and timeout is not None and timeout < 0:
        return 0.0
    return deadline(block, timeout)


def lenient_deadline(block: bool, timeout: float | None) -> float | None:
    """As `deadline`, but a negative time-out acts as 0, as in `multiprocessing`."""
    if not block or (timeout is not None and timeout < 0):
        return 0.0
    return deadline(block, timeout)


def checked_bound(bound: int | None) -> int:
    """The bound as a number; 0: none. Raises `TypeError` or `ValueError`."""
    if bound is None:
        return 0
    if not isinstance(bound, int) or isinstance(bound, bool):
        raise TypeError(f"bound must be an int, not {type(bound).__name__}")
    if not 0 <= bound <= MAX_BOUND:
        raise ValueError(f"bound must be 0 (no limit) to {MAX_BOUND}, not {bound}")
    return bound


def checked_count(max_items: int) -> int:
    """How many items to get at most. Raises `TypeError` or `ValueError`."""
    try:
        count = operator.index(max_items)
    except TypeError:
        text = f"max_items must be an int, not {type(max_items).__name__}"
        raise TypeError(text) from None
    if count < 1:
        raise ValueError(f"max_items must be at least 1, not {count}")
    return min(count, MAX_BOUND)


class _Limits(Protocol):
    """Of `pressure.Settings` what has limits."""

    @property
    def lease(self) -> float: ...
    @property
    def max_deliveries(self) -> int: ...
    @property
    def max_item_bytes(self) -> int: ...
    @property
    def reconnect_timeout(self) -> float: ...
    @property
    def ttl(self) -> float | None: ...
    @property
    def min_replicas(self) -> int: ...
    @property
    def replica_timeout(self) -> float: ...


def check_settings(settings: _Limits) -> None:
    """Raise `TypeError` or `ValueError` for what makes no sense."""
    for name in ("max_deliveries", "min_replicas"):
        value = getattr(settings, name)
        try:
            operator.index(value)
        except TypeError:
            raise TypeError(f"{name} must be an int, not {type(value).__name__}") from None
    for name in ("lease", "max_item_bytes", "reconnect_timeout", "ttl", "replica_timeout"):
        value = getattr(settings, name)
        if isinstance(value, str) or (value is None and name != "ttl"):
            raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not settings.lease > 0:
        raise ValueError(f"lease must be positive (seconds), not {settings.lease!r}")
    if not 0 <= settings.max_deliveries <= 65535:
        raise ValueError(f"max_deliveries must be 0 to 65535, not {settings.max_deliveries!r}")
    if settings.max_item_bytes < 1:
        raise ValueError(f"max_item_bytes must be positive, not {settings.max_item_bytes!r}")
    if not settings.reconnect_timeout >= 0:
        raise ValueError(f"reconnect_timeout must be >= 0, not {settings.reconnect_timeout!r}")
    if settings.ttl is not None and not settings.ttl >= 0.001:
        raise ValueError(f"ttl must be positive (seconds) or None, not {settings.ttl!r}")
    if settings.min_replicas < 0:
        raise ValueError(f"min_replicas must be >= 0, not {settings.min_replicas!r}")
    if not settings.replica_timeout > 0:
        raise ValueError(f"replica_timeout must be positive, not {settings.replica_timeout!r}")


def usable_bound(found: int, key: bytes) -> int:
    """The bound that a script has found in a key (-1: it is no number)."""
    if found < 0:
        raise PressureError(
            f"the key {key.decode()} holds no number: something else has written it; set it to the "
            "queue's bound (0: none), or delete it"
        )
    return found
