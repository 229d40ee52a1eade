"""Batches for `put_many`, of which the next is made while the last is on its way."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from pressure import putting
from pressure.core import Core

__all__ = ["Encoded", "Encoder"]

HURRY = 1.0
"""So long before its end (seconds) a call makes nothing early."""


class Encoded(NamedTuple):
    """Serialized items; the error, if any, that ended what they come from; and what travels of
    them, if that is made already."""

    bodies: list[bytes]
    failure: Exception | None
    prepared: putting.Prepared | None


class Encoder:
    """An iterator over batches.

    Args:
        batches: what `Pace.batches` gives.
        ahead: whether `encode_next` may ask for the next one early. Not if that may wait for
            something, or else a refused put would wait for it, too.
        until: when all is to be put (monotonic). Towards the end nothing is made early, so that
            this is noticed in time.
    """

    def __init__(
        self,
        core: Core[Any],
        batches: Iterator[tuple[list[bytes], Exception | None]],
        *,
        ahead: bool,
        until: float | None = None,
    ) -> None:
        self._core = core
        self._batches = batches
        self._ahead = ahead
        self._until = math.inf if until is None else until - HURRY
        self._next: Encoded | None = None

    def __iter__(self) -> Iterator[Encoded]:
        return self

    def __next__(self) -> Encoded:
        encoded, self._next = self._next, None
        return encoded or Encoded(*next(self._batches), None)

    def encode_next(self) -> None:
        """Make the next batch, unless it is made."""
        if not self._ahead or self._next is not None or time.monotonic() > self._until:
            return
        try:
            bodies, failure = next(self._batches)
        except StopIteration:
            self._ahead = False
            return
        self._next = Encoded(bodies, failure, putting.prepare(self._core, bodies))
