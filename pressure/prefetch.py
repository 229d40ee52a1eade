"""Items that are asked for while the caller is still busy with those before.

A consumer in a hot loop fetches a batch at a time. Without this it would stand still while the
server puts the next batch together, and the server while the consumer works. Here the request for
the next batch, which acknowledges what was handed out so far, is sent in the middle of one, and its
reply is read when that is used up. All that comes this way counts as fetched ahead, and goes back
like everything else that is not used: the keeper reads what nobody else does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from pressure.bundles import is_bundle
from pressure.core import Core
from pressure.errors import PressureError
from pressure.link import Link
from pressure.protocol import Acks, Status
from pressure.retry import Broken
from pressure.session import Session

__all__ = ["Prefetch"]

LEAST = 16
"""Smaller batches are not worth two requests under way."""
LAST_TRY = 1.0
"""How long a reply is waited for at least, even if the caller's deadline has passed."""


def _is_fit(session: Session[Link]) -> bool:
    """Whether a session is in order, and connected: nobody shall wait for that."""
    return session.known and not (session.stale or session.waiting) and bool(session.link.waiter)


class _Sessions(Protocol):
    """Where sessions are borrowed (`pressure.handle.Handle`)."""

    def acquire(self, *, taking: bool = ...) -> Session[Link]: ...

    def release(self, session: Session[Link]) -> None: ...

    def release_cut_short(self, session: Session[Link]) -> None: ...


class _Asked(NamedTuple):
    """A request that is under way, over a session that is borrowed until the reply is read."""

    session: Session[Link]
    life: int
    number: int
    acks: Acks
    at: float


class Prefetch:
    """At most one request of a handle for items before they are needed. Thread-safe."""

    def __init__(self, core: Core[Link], sessions: _Sessions) -> None:
        self._core = core
        self._sessions = sessions
        # Reentrant, so that a thread can tell whether it has it, which Ctrl-C may keep it from
        # noting; it is never taken twice.
        self._lock = threading.RLock()
        self._asked: _Asked | None = None
        self.at = -1
        """With so few items left in the buffer, it is time to ask for more; -1: never."""

    @property
    def under_way(self) -> bool:
        return self._asked is not None

    def stored(self) -> None:
        """A batch has come, of which nothing was handed out yet."""
        buffer = self._core.buffer
        left = len(buffer)
        if left and is_bundle(buffer[-1].item):
            # Each of them is as good as many items.
            self.at = left - 1 - left // 4
        else:
            self.at = left - left // 4 if left >= LEAST else -1

    def ask(self, count: int, *, in_order: bool) -> None:
        """Ask for up to `count` items, unless that is under way, or no session is fit for it.
        `in_order`: all that was handed out was so by one thread, in the order of taking."""
        lock = self._lock
        if self._asked is not None or lock._is_owned():  # type: ignore[attr-defined]
            return
        # Ctrl-C may come when the lock is there and that isn't known yet (None).
        held: bool | None = None
        try:
            held = lock.acquire(blocking=False)
            if held and self._asked is None:
                self._ask(count, in_order)
        finally:
            if held is not False:
                # Nothing may be called before this: Ctrl-C would come there.
                try:  # noqa: SIM105
                    lock.release()
                except RuntimeError:
                    pass

    def _ask(self, count: int, in_order: bool) -> None:
        self.at = -1
        session = self._sessions.acquire(taking=True)
        try:
            if _is_fit(session):
                self._send(session, count, in_order)
            if self._asked is None:
                self._sessions.release(session)
        except BaseException:
            if self._asked is None:
                self._sessions.release_cut_short(session)
            raise

    def _send(self, session: Session[Link], count: int, in_order: bool) -> None:
        core = self._core
        acks, number = session.collect_for_take(raw=core.raw)
        in_a_row = in_order and not core.raw and session.may_shorten(acks)
        life, now = session.life, time.monotonic()
        try:
            command = core.protocol.take(
                core.generation,
                session.consumer,
                core.client,
                lease_ms=core.lease_ms,
                known=True,
                blocked=False,
                count=count,
                early=True,
                ttl_ms=core.ttl_ms,
                number=number,
                acks=acks,
                in_a_row=in_a_row,
            )
            session.link.send(command)
            self._asked = _Asked(session, life, number, acks, now)
        except (Broken, PressureError):
            session.doubt(number, acks)
        except BaseException:
            session.link.close()
            session.doubt(number, acks)
            raise

    def finish(self, until: float | None = None) -> bool:
        """Read the reply, if one is under way. Returns whether items have come, which are in the
        core's buffer then. Trouble is left to the session's next use.

        `until` (monotonic; None: the connection's time-out) is stretched to a second from now.
        """
        if not self.under_way:
            return False
        if self._lock._is_owned():  # type: ignore[attr-defined]
            # By what this was called from: a signal's handler, or a finalizer, came in its midst.
            raise RuntimeError("a queue was used from within its own get, which isn't over")
        with self._lock:
            if self._asked is None:
                # Another thread was quicker.
                return bool(self._core.buffer)
            return self._receive(self._asked, until)

    @contextmanager
    def suspended(self, until: float) -> Iterator[None]:
        """`finish`, and let nothing be under way for the duration of the block."""
        lock = self._lock
        if lock._is_owned():  # type: ignore[attr-defined]
            # The garbage collector has come in the midst of it.
            yield
            return
        # As in `ask`.
        held: bool | None = None
        try:
            # Bounded, since the garbage collector may come here at any time.
            held = lock.acquire(timeout=LAST_TRY)
            if held and self._asked is not None:
                self._receive(self._asked, until)
            yield
        finally:
            if held is not False:
                try:  # noqa: SIM105
                    lock.release()
                except RuntimeError:
                    pass

    def _receive(self, asked: _Asked, until: float | None) -> bool:
        """Read the reply; the caller holds the lock."""
        patience = None if until is None else max(until, time.monotonic() + LAST_TRY)
        session = asked.session
        session.borrower = threading.get_ident()
        try:
            return self._accept(asked, session.link.receive(patience))
        except (Broken, TimeoutError, PressureError):
            session.link.close()
            session.doubt(asked.number, asked.acks)
            return False
        except BaseException:
            session.link.close()
            session.doubt(asked.number, asked.acks)
            raise
        finally:
            self._asked = None
            try:
                self._sessions.release(session)
            except BaseException:
                self._sessions.release_cut_short(session)
                raise

    def finish_late(self, now: float, patience: float) -> None:
        """`finish` what nobody has wanted for so long (seconds)."""
        asked = self._asked
        if asked is not None and now - asked.at >= patience:
            self.finish(now)

    def _accept(self, asked: _Asked, reply: Any) -> bool:
        core, session = self._core, asked.session
        session.acknowledging = None
        status = reply[0]
        late = time.monotonic() - asked.at > core.settings.lease / 2
        refused = status == Status.EMPTY and len(reply) == 1
        if (status == Status.OK or refused) and (late or session.life != asked.life):
            # This process stood still, or has heard already that the lease is lost: the items may
            # be another's by now. The session looks.
            session.doubt(asked.number, asked.acks)
            return False
        if refused:
            session.scattered(asked.acks)
            return False
        if status == Status.OK:
            core.store_ahead(session, "a", reply[1:], asked.at)
            self.stored()
            return True
        if status == Status.LOST:
            core.lost_lease(session)
        if status in (Status.LOST, Status.AGAIN, Status.ABSENT):
            session.reset()
        # If the queue is empty, closed, or in use, who asks next hears of it.
        return False
