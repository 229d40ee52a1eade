"""The sessions of a handle in two pools, last used first: those that are consumers, and the others.

A call borrows one for its duration, so calls from many threads run at once and each session has at
most one operation under way. What a consumer has to acknowledge never waits behind a put that
blocks.

Python runs signal handlers after calls, and they may raise, or use the queue: so no session is ever
known to nobody.
"""

from __future__ import annotations

import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from pressure.address import Address
from pressure.core import Core
from pressure.link import Link
from pressure.session import Session, in_doubt

__all__ = ["FAREWELL", "Sessions"]

FAREWELL = 1.0
"""How long signing off may take when the server is away (seconds)."""


class Sessions(ABC):
    """Those of the handle of `core`. Thread-safe."""

    def __init__(self, core: Core[Link], address: Address) -> None:
        self.core = core
        self.address = address
        self._reset()

    def _reset(self) -> None:
        """Start without any."""
        # Reentrant, since a signal's handler may use the queue while this thread holds it.
        self._lock = threading.RLock()
        self._returned = threading.Condition(self._lock)
        # Those that somebody looks after.
        self._borrowed: list[Session[Link]] = []
        self._settling: list[Session[Link]] = []
        self._giving_back = False
        self._consumers: list[Session[Link]] = []
        self._others: list[Session[Link]] = []
        self._reached = False

    def acquire(self, *, taking: bool = False) -> Session[Link]:
        """Borrow a session, for `taking` items or for anything else. The caller's `try` follows at
        once, and ends in `release` or, after whatever exception, in `release_cut_short`."""
        me = threading.get_ident()
        session: Session[Link] | None = None
        try:
            with self._lock:
                if taking and (self._settling or self._giving_back):
                    # What is on its way back is older than what would be taken now.
                    self._returned.wait_for(
                        lambda: not (self._settling or self._giving_back), FAREWELL
                    )
                    self._settling.clear()
                    self._giving_back = False
                pool = self._consumers if taking and self._consumers else self._others
                at = in_doubt(pool) if taking else -1
                if pool:
                    # Known here before it leaves the pool: after each call a signal's handler may
                    # raise, or use the queue.
                    session = (pool[at:] or pool)[0]
                    session.borrower = me
                    pool.remove(session)
                    return session
                session = Session(Link(self.address))
                # A handle that has reached its server once rides out the server's absence.
                session.link.ever_connected = self._reached
                session.borrower = me
                self.core.sessions.append(session)
                return session
        except BaseException:
            if session is not None and session in self.core.sessions:
                self.release_cut_short(session)
            raise

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

    @abstractmethod
    def keep_up(self) -> None:
        """Have somebody look after the sessions soon."""

    def _for_each(
        self, wanted: Callable[[Session[Link]], bool], use: Callable[[Session[Link]], None]
    ) -> None:
        """Do this with those of the idle sessions that are `wanted`, and return them all."""
        sessions = self._borrow(wanted)
        try:
            for session in sessions:
                use(session)
            self._return(sessions)
        except BaseException:
            self._return(sessions)
            raise

    def _borrow(self, wanted: Callable[[Session[Link]], bool]) -> list[Session[Link]]:
        due: list[Session[Link]] = []
        try:
            with self._lock:
                while not due:
                    idle = [*self._consumers]
                    chosen = [session for session in idle if wanted(session)]
                    if not chosen:
                        break
                    left = [session for session in idle if session not in chosen]
                    settling = [session for session in chosen if session.stale]
                    # Without a call, after which a signal's handler may raise or use the queue.
                    if self._consumers == idle:
                        due = chosen
                        self._consumers[:] = left
                        self._borrowed = [*self._borrowed, *chosen]
                        self._settling = [*self._settling, *settling]
            return due
        except BaseException:
            self._return(due)
            raise

    def _return(self, sessions: list[Session[Link]]) -> None:
        """May be said again, if it was cut short."""
        with self._lock:
            for session in sessions:
                if session in self._borrowed:
                    pool = self._pool_of(session)
                    if session not in pool:
                        # At the far end: sessions in use stay the same few.
                        pool.insert(0, session)
                    self._borrowed.remove(session)
                if session in self._settling:
                    self._settling.remove(session)
            self._returned.notify_all()

    def _take_idle(self) -> list[Session[Link]]:
        with self._lock:
            sessions = [*self._consumers, *self._others]
            self._consumers.clear()
            self._others.clear()
        for session in sessions:
            self.core.sessions.remove(session)
        return sessions
