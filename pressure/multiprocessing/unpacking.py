"""Handing out the items of bundles (`pressure.bundles`) one by one.

A consumer in a hot loop is done with a bundle in no time. One that is slower keeps an opened one no
longer than an acknowledgement may wait, and at once gives back what it doesn't need if there are
other consumers, who may be waiting for just that.
"""

from __future__ import annotations

import contextlib
import pickle
import time
from typing import Any

from pressure import bundles, items, keeper
from pressure.core import Ahead, Core
from pressure.errors import PressureError, ServerUnavailableError
from pressure.handle import LAST_TRY, Handle
from pressure.link import Link
from pressure.opened import Bundle, Part
from pressure.protocol import Command
from pressure.requests import Flow
from pressure.session import Session

__all__ = ["Unpacker", "owe"]

PAUSE = 0.01
GRACE = 0.1
"""For so long (seconds) at least is waited for a session of another thread to be in order."""
LOOK = 0.1
"""For so long (seconds) it is taken for true whether there are other consumers."""


def owe(
    handle: Handle, session: Session[Link], mark: tuple[str, bytes], *, lone_thread: bool
) -> None:
    """Note that what was handed out is to be acknowledged. `lone_thread`: no other gets items."""
    if lone_thread:
        session.pending.append(mark)
    else:
        # Another thread may be blocked with the session.
        handle.owe(session, mark)


def _consumers(core: Core[Link]) -> Flow[int]:
    count: int = yield Command(("ZCARD", core.protocol.keys.leases))
    return count


class Unpacker:
    """Of one handle; thread-safe."""

    def __init__(self, core: Core[Link], handle: Handle) -> None:
        self._core = core
        self._handle = handle
        self.used = False
        """Whether bundles have come."""
        self.is_slow = False
        """Whether the next bundle comes to a consumer that waits for each item."""
        self._shares = False
        self._alone = False
        self._looked = 0.0

    def open(self, ahead: Ahead[Link]) -> bool:
        """Begin to hand out a bundle, whose mark stays in its session's `opening`; False if it is
        none, or unsound."""
        if len(ahead.item) > self._core.most_bytes:
            return False
        bodies = bundles.unpacked(self._core, ahead.item)
        if not bodies:
            return False
        self.used = True
        self._shares = self.is_slow and not self._is_alone()
        self.is_slow = False
        self._core.opened.add(
            Bundle(ahead.session, ahead.life, ahead.mark, bodies, time.monotonic())
        )
        self._handle.keep_up()
        return True

    def _is_alone(self) -> bool:
        """Whether there is no other consumer."""
        now = time.monotonic()
        if now - self._looked > LOOK:
            self._alone = False
            with contextlib.suppress(PressureError):
                self._alone = self._handle.call(_consumers(self._core), now) <= 1
            self._looked = now
        return self._alone

    def unpack(self, part: Part, *, lone_thread: bool) -> Any:
        """The object of an item; `SKIPPED` if it was put back, and is to be fetched anew. If this
        is cut short, the caller takes the item back. `lone_thread` as for `owe`."""
        core, handle, opened = self._core, self._handle, self._core.opened
        bundle = part.bundle
        assert part.body is not None
        try:
            obj = pickle.loads(part.body)
        except Exception:
            # By itself it can be buried.
            opened.take_back(part)
            bundle.doubtful = True
            return items.SKIPPED
        core.popped = time.monotonic()
        if opened.handed(part):
            owe(handle, bundle.session, bundle.mark, lone_thread=lone_thread)
            opened.over(bundle)
            if not core.buffer:
                handle.keep_up()
        elif part.revoked:
            # It took so long that it is in the queue again.
            return items.SKIPPED
        elif self._shares:
            # Soon, and not in this call: if it was cut short, nobody would know about this item.
            self._shares = False
            bundle.at = float("-inf")
            keeper.wake(time.monotonic(), handle, owing=True)
        return obj

    def cut(self, until: float | None) -> bool:
        """Cut the bundles that are being handed out; False if one is still doubtful at `until`
        (monotonic; None: wait for ever). A server that is away is waited for as by any operation.
        """
        handle = self._handle
        began = time.monotonic()
        patience = began + self._core.settings.reconnect_timeout
        if until is not None:
            patience = min(patience, max(until, began + LAST_TRY))
        while True:
            try:
                # For a moment at a time: what another thread is at may change all.
                handle.flush_idle(began)
                handle.give_back_ahead(began)
            except ServerUnavailableError:
                if time.monotonic() >= patience or handle.address.has_ended:
                    raise
            bundles = self._core.opened.bundles
            if not bundles or not bundles[0].doubtful:
                return True
            # A session isn't in order yet.
            if until is not None and time.monotonic() >= max(until, began + GRACE):
                return False
            time.sleep(PAUSE)
