"""The synchronous side of a handle: its connections, and what happens while nobody calls.

Sessions are kept in two pools, last used first: those that are consumers, and the others. A call
borrows one for its duration, so calls from many threads run at once and each session has at most
one operation under way. What a consumer has to acknowledge never waits behind a put that blocks.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from pressure import flows, keeper, upkeep
from pressure.address import Address
from pressure.core import Core
from pressure.driver import resumed, run
from pressure.errors import PressureError, ServerRefusedError
from pressure.link import Link
from pressure.prefetch import Prefetch
from pressure.protocol import Command
from pressure.requests import Flow
from pressure.retry import Broken
from pressure.session import Session, in_doubt

__all__ = ["LAST_TRY", "Handle"]

T = TypeVar("T")
LAST_TRY = 1.0
"""How long an operation looks for a lost server at least, even if its deadline has passed."""
FAREWELL = 1.0
"""How long signing off may take when the server is away (seconds)."""


class Handle:
    """The connections of one handle. Thread-safe; starts over in a forked child."""

    def __init__(self, core: Core[Link], address: Address) -> None:
        self.core = core
        self.address = address.for_queue(core.protocol.keys.base)
        self._reset()
        keeper.keep(self, self.address.identity)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._returned = threading.Condition(self._lock)
        self._borrowed = 0
        self._settling: list[Session[Link]] = []
        self._giving_back = False
        self._aside = threading.Lock()
        self._consumers: list[Session[Link]] = []
        self._others: list[Session[Link]] = []
        self._control = _Control(self.address)
        self.prefetch = Prefetch(self.core, self)
        self._renew_at = 0.0
        self._reached = False

    def after_fork(self) -> None:
        self.core.forget_processes()
        self._reset()

    # Sessions

    def acquire(self, *, taking: bool = False) -> Session[Link]:
        """Borrow a session, for `taking` items or for anything else."""
        with self._lock:
            if taking and (self._settling or self._giving_back):
                # What is on its way back is older than what would be taken now. (Once is enough.)
                self._returned.wait_for(lambda: not (self._settling or self._giving_back), FAREWELL)
                self._settling.clear()
                self._giving_back = False
            if taking and self._consumers:
                session = self._consumers.pop(in_doubt(self._consumers))
            elif self._others:
                session = self._others.pop()
            else:
                session = Session(Link(self.address))
                # A handle that has reached its server once rides out the server's absence.
                session.link.ever_connected = self._reached
                self.core.sessions.append(session)
            session.borrower = threading.get_ident()
            return session

    def release(self, session: Session[Link]) -> None:
        if session.process != os.getpid():
            # Forked in the middle of a call: the session is the parent's.
            return
        session.used = time.monotonic()
        self._reached = self._reached or session.link.ever_connected
        with self._lock:
            pool = self._pool_of(session)
            # Python runs signal handlers after calls: both is done then, or neither.
            session.borrower = 0
            pool.append(session)
        if session.known or session.stale:
            self.keep_up()

    def release_cut_short(self, session: Session[Link]) -> None:
        """Release it after its use was cut short (by Ctrl-C, say), perhaps in `release`."""
        if session.borrower == threading.get_ident():
            self.release(session)
        else:
            self.keep_up()

    def _pool_of(self, session: Session[Link]) -> list[Session[Link]]:
        return self._consumers if session.known or session.stale else self._others

    def owe(self, session: Session[Link], *marks: tuple[str, bytes]) -> None:
        """Items were handed out that the session holds, which was not borrowed for that: they are
        to be acknowledged."""
        with self._lock:
            if session in self._consumers:
                session.pending.extend(marks)
            else:
                # Who is using it may have sent what was pending, and be blocked now.
                session.aside.extend(marks)

    def keep_up(self) -> None:
        """Have the keeper look at this handle soon."""
        keeper.wake(time.monotonic() + keeper.TICK / 2, self, owing=True)

    def run(
        self,
        flow: Flow[T],
        session: Session[Link],
        until: float | None = None,
        *,
        patience: float | None = None,
    ) -> T:
        """Run a flow over a session. `patience` stands in for the setting `reconnect_timeout`."""
        if patience is None:
            patience = self.core.settings.reconnect_timeout
        return run(
            flow,
            session.link,
            self._control,
            reconnect_timeout=patience,
            # At its deadline an operation still gets one try.
            deadline=None if until is None else max(until, time.monotonic() + LAST_TRY),
        )

    def call(self, flow: Flow[T], until: float | None = None) -> T:
        """Run a flow that needs no particular session."""
        session = self.acquire()
        try:
            return self.run(flow, session, until)
        finally:
            self.release(session)

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
        return self.call(_one(command))

    def ask_aside(self, command: Command) -> Any:
        """Send one command on behalf of a session whose own connection is blocked. Tried once."""
        return self._control.execute(command)

    def unblock_aside(self, waiter: str) -> None:
        """End what a connection to this server blocks in that registers as `waiter`. Tried once;
        raises `Broken`, or a final error."""
        self._control.unblock(waiter)

    # What the keeper calls

    def maintain(self, now: float) -> float:
        """Do what is due, and say when to be called again (`pressure.keeper.Kept`)."""
        core = self.core
        self.prefetch.finish_late(now, keeper.TICK / 2)
        # Nor may a slow consumer sit on a batch, however steadily it draws on it.
        kept, handed = now - core.kept_since(), now - core.opened.since()
        if kept >= keeper.TICK or handed >= keeper.TICK / 2:
            self.give_back_ahead(now + FAREWELL)
        self._look_after(self._idle(now), now + FAREWELL)
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
                self.call(flows.reap_due(self.core), now + FAREWELL)
        elif not active:
            return float("inf")
        return now + keeper.LOOK if active else max(self._renew_at, now + keeper.LOOK)

    def _idle(self, now: float) -> list[Session[Link]]:
        """Take the sessions out of the pool that have something to send and nobody to do it."""
        return self._borrow(
            lambda session: (
                (bool(session.pending) or session.stale) and now - session.used >= keeper.TICK / 2
            )
        )

    def _borrow(self, wanted: Callable[[Session[Link]], bool]) -> list[Session[Link]]:
        with self._lock:
            due = [session for session in self._consumers if wanted(session)]
            for session in due:
                self._consumers.remove(session)
            self._borrowed += len(due)
            self._settling += [session for session in due if session.stale]
        return due

    def _return(self, sessions: list[Session[Link]]) -> None:
        with self._lock:
            for session in sessions:
                # At the far end: sessions in use stay the same few.
                self._pool_of(session).insert(0, session)
                if session in self._settling:
                    self._settling.remove(session)
            self._borrowed -= len(sessions)
            self._returned.notify_all()

    def _look_after(self, sessions: list[Session[Link]], until: float | None) -> None:
        """Bring the borrowed sessions in order, and return them all whatever happens."""
        try:
            for session in sessions:
                self._settle(session, until)
        finally:
            self._return(sessions)

    def _settle(self, session: Session[Link], until: float | None = None) -> None:
        self.run(upkeep.settle(self.core, session), session, until)

    def flush_idle(self, until: float | None = None) -> None:
        """Send what waits in all sessions that nobody is using, also after a lost reply, and what
        does not wait for those that are in use."""
        self.prefetch.finish()
        due = self._borrow(lambda session: bool(session.pending) or session.stale)
        self._look_after(due, until)
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
            if self.core.has_ahead:
                self.give_back_ahead(time.monotonic() + FAREWELL)

    def forget_queue(self) -> None:
        """The queue was deleted: nothing of it is left at the server."""
        self.prefetch.finish(0.0)
        self.core.forget_deleted()
        sessions = self._borrow(self.core.outlives)
        for session in sessions:
            session.reset()
        self._return(sessions)

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
        session = self.acquire()
        try:
            self.run(_unblock(session.link, waiters), session, time.monotonic() + FAREWELL)
        finally:
            self.release(session)

    def ride_out(self) -> None:
        """From the first operation on, seek a server that is away as one that was there before."""
        self._reached = True

    def abandon(self) -> None:
        """Close all idle connections without a word: the server is away, and there is no time to
        wait for it. What was held comes back when the leases end."""
        with self._lock:
            sessions = [*self._consumers, *self._others]
            self._consumers.clear()
            self._others.clear()
        for session in sessions:
            self.core.sessions.remove(session)
            session.link.close()

    def disconnect(self) -> None:
        """Acknowledge, give back and sign off, then close all idle connections."""
        away = False
        self.prefetch.finish(0.0)
        self._acknowledge_aside()
        if self.core.has_ahead:
            try:
                until = time.monotonic() + FAREWELL
                self._look_after(self._borrow(lambda session: session.stale), until)
                self.give_back_ahead(until)
            except PressureError:
                away = True
        with self._lock:
            # What the keeper is about to send would be lost with its thread, if the process ends.
            self._returned.wait_for(lambda: not self._borrowed, FAREWELL)
            sessions = [*self._consumers, *self._others]
            self._consumers.clear()
            self._others.clear()
        for session in sessions:
            self.core.sessions.remove(session)
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


class _Control:
    """The handle's second connection, over which any thread may unblock the others."""

    def __init__(self, address: Address) -> None:
        self._link = Link(address)
        self._lock = threading.Lock()

    def execute(self, command: Command) -> object:
        with self._lock:
            return self._link.execute(command)

    def unblock(self, waiter: str) -> None:
        with self._lock:
            self._link.unblock(waiter)

    def close(self) -> None:
        with self._lock:
            self._link.close()


def _unblock(link: Link, waiters: list[str]) -> Flow[None]:
    if not link.waiter:
        yield Command(("CLIENT", "ID"))
    for client_id, _, server in (waiter.partition("@") for waiter in waiters):
        # On another server, or after its restart, that number is somebody else's.
        if server == link.waiter.partition("@")[2]:
            # Where it is not permitted, the command ends by itself before long.
            with contextlib.suppress(ServerRefusedError):
                yield Command(("CLIENT", "UNBLOCK", client_id, "TIMEOUT"))


def _one(command: Command) -> Flow[object]:
    reply: object = yield command
    return reply
