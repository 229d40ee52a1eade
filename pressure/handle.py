"""The synchronous side of a handle: its connections, and what happens while nobody calls."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from pressure import keeper, recovering, upkeep
from pressure.address import Address
from pressure.control import Control, one, unblocking
from pressure.core import Core
from pressure.driver import resumed, run
from pressure.errors import PressureError
from pressure.link import Link
from pressure.prefetch import Prefetch
from pressure.protocol import Command
from pressure.requests import Flow
from pressure.retry import Broken
from pressure.session import Session
from pressure.sessions import FAREWELL, Sessions

__all__ = ["LAST_TRY", "Handle"]

T = TypeVar("T")
LAST_TRY = 1.0
"""How long an operation looks for a lost server at least, even if its deadline has passed."""


class Handle(Sessions):
    """The connections of one handle. Thread-safe; starts over in a forked child."""

    def __init__(self, core: Core[Link], address: Address) -> None:
        super().__init__(core, address.for_queue(core.protocol.keys.base))
        keeper.keep(self, self.address.identity)

    def _reset(self) -> None:
        super()._reset()
        self._aside = threading.Lock()
        self._control = Control(self.address)
        self.prefetch = Prefetch(self.core, self)
        self._renew_at = 0.0

    def after_fork(self) -> None:
        self.core.forget_processes()
        self._reset()

    # Flows

    def run(
        self,
        flow: Flow[T],
        session: Session[Link],
        until: float | None = None,
        *,
        patience: float | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> T:
        """Run a flow over a session. `patience` stands in for the setting `reconnect_timeout`;
        `meanwhile`: see `pressure.driver.run`."""
        if patience is None:
            patience = self.core.settings.reconnect_timeout
        return run(
            flow,
            session.link,
            self._control,
            reconnect_timeout=patience,
            # At its deadline an operation still gets one try.
            deadline=None if until is None else max(until, time.monotonic() + LAST_TRY),
            meanwhile=meanwhile,
        )

    def call(self, flow: Flow[T], until: float | None = None) -> T:
        """Run a flow that needs no particular session."""
        return self.call_over(lambda _: flow, until)

    def call_over(self, make: Callable[[Session[Link]], Flow[T]], until: float | None = None) -> T:
        """Run the flow that is made for the session that it is run over."""
        session = self.acquire()
        try:
            result = self.run(make(session), session, until)
            # Not in a `finally`: Ctrl-C may come on the way into it.
            self.release(session)
            return result
        except BaseException:
            self.release_cut_short(session)
            raise

    def call_if_needed(self, flow: Flow[T]) -> T:
        """Run a flow that mostly ends without asking the server anything."""
        try:
            request = next(flow)
        except StopIteration as stop:
            result: T = stop.value
            return result
        return self.call(resumed(request, flow))

    def ask(self, command: Command) -> object:
        """Send one command."""
        return self.call(one(command))

    def ask_aside(self, command: Command) -> Any:
        """Send one command on behalf of a session whose own connection is blocked. Tried once."""
        return self._control.execute(command)

    def unblock_aside(self, waiter: str) -> None:
        """End what a connection to this server blocks in that registers as `waiter`. Tried once;
        raises `Broken`, or a final error."""
        self._control.unblock(waiter)

    # What the keeper calls

    def keep_up(self) -> None:
        keeper.wake(time.monotonic() + keeper.TICK / 2, self, owing=True)

    def maintain(self, now: float) -> float:
        """Do what is due, and say when to be called again (`pressure.keeper.Kept`)."""
        core = self.core
        self.prefetch.finish_late(now, keeper.TICK / 2)
        # Nor may a slow consumer sit on a batch, however steadily it draws on it.
        kept, handed = now - core.kept_since(), now - core.opened.since()
        if kept >= keeper.TICK or handed >= keeper.TICK / 2:
            self.give_back_ahead(now + FAREWELL)
        self._look_after(
            lambda session: (
                (bool(session.pending) or session.stale) and now - session.used >= keeper.TICK / 2
            ),
            now + FAREWELL,
        )
        self._acknowledge_aside()
        with self._lock:
            active = (
                core.has_ahead
                or self.prefetch.under_way
                or any(session.pending or session.stale for session in self._consumers)
                or any(session.aside for session in core.sessions)
            )
            # Sessions in use may leave something behind when they are released, which wakes us.
        if self.core.consumers():
            if now >= self._renew_at:
                self._renew_at = now + self.core.settings.lease / 3
                self.call(recovering.reap_due(self.core), now + FAREWELL)
        elif not active:
            return float("inf")
        return now + keeper.LOOK if active else max(self._renew_at, now + keeper.LOOK)

    def _look_after(self, wanted: Callable[[Session[Link]], bool], until: float | None) -> None:
        """Bring those of the idle sessions in order that are `wanted`."""
        self._for_each(wanted, lambda session: self._settle(session, until))

    def _settle(self, session: Session[Link], until: float | None = None) -> None:
        self.run(upkeep.settle(self.core, session), session, until)

    def flush_idle(self, until: float | None = None) -> None:
        """Send what waits in all sessions that nobody is using, also after a lost reply, and what
        does not wait for those that are in use."""
        self.prefetch.finish()
        self._look_after(lambda session: bool(session.pending) or session.stale, until)
        self._acknowledge_aside()

    def _acknowledge_aside(self) -> None:
        """Acknowledge what was handed out of sessions that were in use. What can't be is left for
        the next time."""
        # Bounded, since the garbage collector may come here at any time.
        if not any(session.aside for session in list(self.core.sessions)) or not (
            self._aside.acquire(timeout=FAREWELL)
        ):
            return
        try:
            for session in list(self.core.sessions):
                marks = list(session.aside)
                # One that is stale takes a new name first, or finds that all is lost.
                if marks and not session.stale:
                    upkeep.acknowledge_aside(self.core, session, marks, self.ask_aside)
        except (Broken, PressureError):
            pass
        finally:
            self._aside.release()

    def give_back_ahead(self, until: float | None = None) -> None:
        """Give back what was fetched ahead. A server that is away is sought as by any operation."""
        # What is under way comes after what is here, and must not be handed out before it.
        with self.prefetch.suspended(time.monotonic() + FAREWELL):
            self._giving_back = True
            try:
                self.call(upkeep.give_back_ahead(self.core), until)
            finally:
                with self._lock:
                    self._giving_back = False
                    self._returned.notify_all()

    def give_back_unused(self) -> None:
        """As `give_back_ahead`, if there is anything. While the server is away it is put off."""
        with contextlib.suppress(PressureError):
            if self.core.has_ahead or self.prefetch.under_way:
                self.give_back_ahead(time.monotonic() + FAREWELL)

    def forget_queue(self) -> None:
        """The queue was deleted: nothing of it is left at the server."""
        self.prefetch.finish(0.0)
        self.core.forget_deleted()
        self._for_each(self.core.outlives, lambda session: session.reset())

    # The end

    def unblock(self) -> None:
        """End what is blocked in other threads."""
        self.core.unblocked += 1
        with self._lock:
            idle = [*self._consumers, *self._others]
        blocked = [session.link.waiter for session in self.core.sessions if session not in idle]
        self.unblock_all([waiter for waiter in blocked if waiter])

    def unblock_all(self, waiters: list[str]) -> None:
        """End what some connections block in, which register under these names."""
        if not waiters:
            return
        until = time.monotonic() + FAREWELL
        self.call_over(lambda session: unblocking(session.link, waiters), until)

    def ride_out(self) -> None:
        """From the first operation on, seek a server that is away as one that was there before."""
        self._reached = True

    def abandon(self) -> None:
        """Close all idle connections without a word: the server is away, and there is no time to
        wait for it. What was held comes back when the leases end."""
        for session in self._take_idle():
            session.link.close()

    def disconnect(self) -> None:
        """Acknowledge, give back and sign off, then close all idle connections."""
        away = False
        self.prefetch.finish(0.0)
        self._acknowledge_aside()
        if self.core.has_ahead:
            try:
                until = time.monotonic() + FAREWELL
                self._look_after(lambda session: session.stale, until)
                self.give_back_ahead(until)
            except PressureError:
                away = True
        with self._lock:
            # What the keeper is about to send would be lost with its thread, if the process ends.
            self._returned.wait_for(lambda: not self._borrowed, FAREWELL)
            sessions = self._take_idle()
        for session in sessions:
            known = session.known or session.stale or session.sequence
            if known and session.link.ever_connected and not away:
                flow = upkeep.sign_off(self.core, session)
                try:
                    self.run(flow, session, time.monotonic() + FAREWELL)
                except PressureError:
                    # The leases run out, and the items come back. The others would fare no better.
                    away = True
            session.link.close()
        self._control.close()
