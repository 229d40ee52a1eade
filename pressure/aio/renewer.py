"""Leases of an asyncio handle, renewed apart from its event loop."""

from __future__ import annotations

import time
from typing import Any

from pressure import recovering, upkeep
from pressure.address import Address
from pressure.aio.link import AsyncLink
from pressure.core import Core
from pressure.driver import run
from pressure.link import Link
from pressure.requests import Flow
from pressure.session import Session

__all__ = ["FAREWELL", "Renewer"]

FAREWELL = 1.0
"""How long concluding and signing off may take when the server is away (seconds)."""


class Renewer:
    """Renews a handle's leases from the keeper's thread, over a connection of its own.

    User code may hold up the event loop for longer than a lease lasts, and must not lose it.
    """

    def __init__(
        self, core: Core[AsyncLink], address: Address, idle: list[Session[AsyncLink]]
    ) -> None:
        self.forked = False
        self._core = core
        self._address = address
        self._idle = idle
        self._link = Link(address)
        self._renew_at = 0.0

    def maintain(self, now: float) -> float:
        """Do what is due, and say when to be called again (`pressure.keeper.Kept`)."""
        if self.forked or not self._core.consumers():
            self._link.close()
            return float("inf")
        if now >= self._renew_at:
            self._renew_at = now + self._core.settings.lease / 3
            self._run(recovering.reap_due(self._core))
        return self._renew_at

    def disconnect(self) -> None:
        """At the interpreter's exit: sign off what no event loop did."""
        while self._idle and not self.forked:
            session = self._idle.pop()
            if session.known:
                self._run(upkeep.sign_off(self._core, session))
        self._link.close()

    def after_fork(self) -> None:
        self.forked = True
        self._link = Link(self._address)

    def _run(self, flow: Flow[Any]) -> None:
        timeout = self._core.settings.reconnect_timeout
        until = time.monotonic() + FAREWELL
        run(flow, self._link, self._link, reconnect_timeout=timeout, deadline=until)
