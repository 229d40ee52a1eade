"""The errors that asyncio code knows how to catch, besides those of `pressure.errors`.

Each is also what `asyncio.Queue` raises in its place; `QueueClosedError` is an
`asyncio.QueueShutDown` where there is such a thing (Python 3.13).
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pressure import errors

__all__ = ["QueueClosedError", "QueueEmptyError", "QueueFullError", "QueueShutDown", "for_asyncio"]

if TYPE_CHECKING or sys.version_info < (3, 13):

    class QueueShutDown(Exception):
        """The queue was shut down; on Python 3.13 and later this is `asyncio.QueueShutDown`."""

else:
    QueueShutDown = asyncio.QueueShutDown


class QueueFullError(errors.QueueFullError, asyncio.QueueFull):
    """The bound is reached, and stayed so for the whole time-out."""


class QueueEmptyError(errors.QueueEmptyError, asyncio.QueueEmpty):
    """There was nothing to get, for the whole time-out."""


class QueueClosedError(errors.QueueClosedError, QueueShutDown):
    """The queue is closed: nothing more can be put, and (for `get`) nothing is left in it."""

    @classmethod
    def of(cls, error: errors.QueueClosedError) -> QueueClosedError:
        """The same error, for asyncio."""
        closed = cls(error.queue, error.detail)
        closed.accepted = error.accepted
        return closed


@contextlib.contextmanager
def for_asyncio() -> Iterator[None]:
    """Turn the error of a closed queue into one that asyncio code knows."""
    try:
        yield
    except errors.QueueClosedError as exc:
        raise QueueClosedError.of(exc) from None
