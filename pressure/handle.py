"""The synchronous side of a handle: its connections, and what happens while nobody calls.

Sessions are kept in a pool, last used first. A call borrows one for its duration, so calls from
many threads run at once and each session has at most one operation under way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import TypeVar

from pressure import flows, keeper
from pressure.address import Address
from pressure.core import Ahead, Core
from pressure.errors import PressureError
from pressure.link import Flow, Link, Request, run
from pressure.protocol import Command
from pressure.retry import Disconnected
from pressure.session import Session

__all__ = ["Handle"]

T = TypeVar("T")
FAREWELL = 1.0
"""How long signing off may take when the server is away (seconds)."""


class Handle:
    """The connections of one handle. Thread-safe; starts over in a forked child."""

    def __init__(self, core: Core[Link], address: Address) -> None:
        self.core = core
        self.address = address
        self._free: list[Session[Link]] = []
        self._reset()
        keeper.keep(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._free = []
        self._control = _Control(self.address)
        self._renew_at = 0.0
        self._popped = self._stored = 0.0
        self._reached = False

    def after_fork(self) -> None:
        self.core.forget_processes()
        self._reset()

    # Sessions

    def acquire(self) -> Session[Link]:
        with self._lock:
            if self._free:
                return self._free.pop()
            session = Session(Link(self.address))
            # A handle that has reached its server once rides out the server's absence.
            session.link.ever_connected = self._reached
            self.core.sessions.append(session)
            return session

    def release(self, session: Session[Link]) -> None:
        session.used = time.monotonic()
        self._reached = self._reached or session.link.ever_connected
        with self._lock:
            self._free.append(session)
        if session.known or session.stale:
            self._keep_up(session.used)

    def _keep_up(self, now: float) -> None:
        """Have the keeper look at this handle soon."""
        keeper.wake(now + keeper.TICK)

    def run(self, flow: Flow[T], session: Session[Link], until: float | None = None) -> T:
        return run(
            flow,
            session.link,
            self._control,
            reconnect_timeout=self.core.settings.reconnect_timeout,
            # At its deadline an operation still gets one try.
            deadline=None if until is None else max(until, time.monotonic() + 0.1),
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
        return self.call(_resume(request, flow))

    def ask(self, command: Command) -> object:
        """Send one command."""
        return self.call(_one(command))

    # Items fetched ahead

    def pop_ahead(self) -> Ahead[Link] | None:
        """The next item that was fetched ahead and not handed out."""
        now = time.monotonic()
        while True:
            try:
                ahead = self.core.buffer.popleft()
            except IndexError:
                return None
            if now - self._stored > self.core.settings.lease / 2:
                # This process stood still; the item may be another's by now. Look again.
                ahead.session.stale, ahead.session.stale_ahead = True, True
            elif ahead.life == ahead.session.life:
                self._popped = now
                return ahead

    def store_ahead(self, session: Session[Link], kind: str, items: Iterable[bytes]) -> None:
        core = self.core
        life = session.life
        core.buffer.extend(Ahead(session, life, kind, core.tag_of(item), item) for item in items)
        self._popped = self._stored = time.monotonic()
        self._keep_up(self._popped)

    # What the keeper calls

    def maintain(self, now: float) -> float:
        """Do what is due, and say when to be called again (`pressure.keeper.Kept`)."""
        if self.core.buffer and now - self._popped >= keeper.TICK:
            self.give_back_ahead()
        active = bool(self.core.buffer)
        for session in self._idle(now):
            try:
                self._settle(session)
            finally:
                self.release_quietly(session)
        with self._lock:
            active = active or any(session.pending or session.stale for session in self._free)
            # Sessions in use may leave something behind when they are released, which wakes us.
        if self.core.consumers():
            if now >= self._renew_at:
                self._renew_at = now + self.core.settings.lease / 3
                self._farewell_call(flows.reap_due(self.core))
        elif not active:
            return float("inf")
        return now + keeper.TICK if active else max(self._renew_at, now + keeper.TICK)

    def _idle(self, now: float) -> list[Session[Link]]:
        """Take the sessions out of the pool that have something to send and nobody to do it."""
        with self._lock:
            due = [
                session
                for session in self._free
                if (session.pending or session.stale) and now - session.used >= keeper.TICK / 2
            ]
            for session in due:
                self._free.remove(session)
        return due

    def release_quietly(self, session: Session[Link]) -> None:
        with self._lock:
            # At the far end: sessions in use stay the same few.
            self._free.insert(0, session)

    def _settle(self, session: Session[Link]) -> None:
        until = time.monotonic() + FAREWELL
        if session.stale:
            self.run(flows.retire(self.core, session), session, until)
        self.flush(session)

    def flush(self, session: Session[Link]) -> None:
        """Send the acknowledgements that wait in a session."""
        acks = session.collect()
        if not acks.tags:
            return
        try:
            self.run(
                _one(self.core.protocol.ack(session.consumer, acks)),
                session,
                time.monotonic() + FAREWELL,
            )
        except BaseException:
            session.restore(acks)
            raise

    def flush_idle(self) -> None:
        """Send what waits in all sessions that nobody is using."""
        with self._lock:
            due = [session for session in self._free if session.pending and not session.stale]
            for session in due:
                self._free.remove(session)
        for session in due:
            try:
                self.flush(session)
            finally:
                self.release_quietly(session)

    def give_back_ahead(self) -> None:
        groups: dict[tuple[int, str], list[Ahead[Link]]] = {}
        while (ahead := self.pop_ahead()) is not None:
            groups.setdefault((id(ahead.session), ahead.kind), []).append(ahead)
        # The newest first, so that the oldest end up at the very head.
        for (_, kind), items in reversed(groups.items()):
            command = self.core.protocol.give_back(
                items[0].session.consumer,
                [ahead.tag for ahead in items],
                charge=False,
                ahead=kind == "a",
            )
            self._farewell_call(_one(command))

    def _farewell_call(self, flow: Flow[T]) -> T:
        return self.call(flow, time.monotonic() + FAREWELL)

    def forget_queue(self) -> None:
        """The queue was deleted: nothing of it is left at the server."""
        self.core.generation = b""
        self.core.buffer.clear()
        with self._lock:
            for session in self._free:
                session.reset()

    # The end

    def unblock(self) -> None:
        """End what is blocked in other threads."""
        self.core.unblocked += 1
        with self._lock:
            busy = [session for session in self.core.sessions if session not in self._free]
        for session in busy:
            if session.link.client_id:
                self._control.execute(Command(("CLIENT", "UNBLOCK", session.link.client_id, "TIMEOUT")))

    def disconnect(self) -> None:
        """Acknowledge, give back and sign off, then close all idle connections."""
        if self.core.buffer:
            try:
                self.give_back_ahead()
            except PressureError:
                self.core.buffer.clear()
        with self._lock:
            sessions, self._free = self._free, []
        for session in sessions:
            self.core.sessions.remove(session)
            if (session.known or session.sequence) and session.link.ever_connected:
                command = self.core.protocol.leave(
                    session.consumer, session.producer, session.collect()
                )
                try:
                    self.run(_one(command), session, time.monotonic() + FAREWELL)
                except PressureError:
                    # The server is away: its lease runs out, and the items come back.
                    pass
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

    def close(self) -> None:
        with self._lock:
            self._link.close()


def _resume(request: Request, flow: Flow[T]) -> Flow[T]:
    """A started flow, from its first request on."""
    while True:
        try:
            reply = yield request
        except Disconnected as exc:
            request = flow.throw(exc)
            continue
        try:
            request = flow.send(reply)
        except StopIteration as stop:
            result: T = stop.value
            return result


def _one(command: Command) -> Flow[object]:
    reply: object = yield command
    return reply
