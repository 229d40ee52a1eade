"""The owner's duty to a queue with a time to live: to renew it, while everything else goes on."""

from __future__ import annotations

import logging
import time

from pressure import keeper
from pressure.errors import PressureError
from pressure.handle import Handle
from pressure.protocol import Command
from pressure.requests import Flow

__all__ = ["Tender"]

log = logging.getLogger("pressure")

PATIENCE = 1.0


class Tender:
    """Renews the time to live of a handle's queue, from `begin` to `end` (`pressure.keeper.Kept`).

    When its process dies, or stands still for too long, the queue vanishes.
    """

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._next = float("inf")

    def begin(self) -> None:
        self._next = time.monotonic() + self._interval
        keeper.keep(self, self._handle.address.identity)
        keeper.wake(self._next, self)

    def end(self) -> None:
        self._next = float("inf")

    @property
    def _interval(self) -> float:
        return self._handle.core.ttl_ms / 3000

    def maintain(self, now: float) -> float:
        if now >= self._next:
            self._next = now + self._interval
            core = self._handle.core
            try:
                self._handle.call(
                    _one(core.protocol.keep(core.ttl_ms, core.consumers())), now + PATIENCE
                )
            except PressureError as exc:
                log.debug("the time to live of %s was not renewed: %s", core.name, exc)
                self._next = time.monotonic() + min(PATIENCE, self._interval)
        return self._next

    def disconnect(self) -> None:
        """Part of `Kept`; the handle itself is kept, too."""

    def after_fork(self) -> None:
        """The queue is the parent's."""
        self.end()


def _one(command: Command) -> Flow[object]:
    reply: object = yield command
    return reply
