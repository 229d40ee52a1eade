"""What this process has put and the server has not yet accepted, and how it gets there.

An item goes out at once, from the thread that puts it, without waiting for the reply: the next put
reads that. Until it is there, items gather to a batch; in a quick loop ever larger ones, for to
hand each item over to another thread would cost more than to send it. What is left when the loop
ends is sent by the feeder thread within a few milliseconds. The feeder also sees to replies that no
further put reads, and takes over when the server is away: putting into an unbounded queue does not
wait for a server to come back.

With `exact`, items count before `put` returns: each is accepted by the server, or has a place
reserved there. A quick loop reserves places along with each batch, more and more; those it leaves
unused are freed by the feeder after a few milliseconds.
"""

from __future__ import annotations

import time

from pressure import flows, putting
from pressure.driver import give_up
from pressure.errors import (
    DELETED_MEANWHILE,
    OutcomeUnknownError,
    PressureError,
    QueueDoesNotExistError,
)
from pressure.multiprocessing.feeding import Feeder
from pressure.multiprocessing.outgoing import MOST, REPLY_PATIENCE
from pressure.protocol import Command
from pressure.retry import Broken
from pressure.scripts import SCRIPTS

__all__ = ["Producer"]


PAUSE = 0.00005
"""A put that comes this long (seconds) after the last one is sent at once."""
SHORTEST, LONGEST = 0.00006, 0.001
"""In a quick loop, the time (seconds) between batches doubles from the one to the other."""
QUICK = 0.01
"""Places are reserved for a loop that used up the last ones within this time (seconds)."""


class Producer(Feeder):
    """The sending half of one handle in one process. Thread-safe."""

    def reset(self) -> None:
        """Start over, as in a forked child: what is buffered here is the parent's to send."""
        super().reset()
        self._hold = 0
        self._posted_at = 0.0
        self._reserved_at = 0.0
        self.used = False

    # Putting

    def put(self, body: bytes, until: float | None) -> bool:
        """Take on an item; False if the queue stayed full until `until` (monotonic).

        Raises what made an earlier item impossible to send, once.
        """
        self.used = True
        if self._exact:
            return self._put_exactly(body, until)
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        now = time.monotonic()
        if now - self._last > PAUSE:
            self._interval = 0.0
        self._bodies.append(body)
        if now - self._posted_at >= self._interval:
            self._post_if_free(now)
        self._alert()
        self._last = time.monotonic()
        return True

    def _post_if_free(self, now: float) -> None:
        """`_post`, unless somebody is sending: another thread, or what this one was called from."""
        sending = self._sending
        if sending._is_owned():  # type: ignore[attr-defined]
            return
        # Ctrl-C may come when the lock is there and that isn't known yet (None).
        held: bool | None = None
        try:
            held = sending.acquire(blocking=False)
            if held:
                self._post(now)
        finally:
            if held is not False:
                # Nothing may be called before this: Ctrl-C would come there.
                try:  # noqa: SIM105
                    sending.release()
                except RuntimeError:
                    pass

    def _put_exactly(self, body: bytes, until: float | None) -> bool:
        with self._mutex:
            placed = self._places > 0
            if placed:
                self._places -= 1
                self._bodies.append(body)
        if placed:
            self._alert()
            self._last = time.monotonic()
            return True
        core = self._remote.core
        waited_for = b""
        while True:
            if self._put_through(body, until, waited_for):
                self._last = time.monotonic()
                return True
            if until is not None and time.monotonic() >= until:
                # One patient look: places may be held for a moment only.
                return self._remote.put(body, 0.0)
            waited_for = waited_for or core.generation
            self._remote.wait_for_room(until)

    def _put_through(self, body: bytes, until: float | None, waited_for: bytes) -> bool:
        """Send what is buffered and this item, and reserve places for the next ones. If the caller
        has waited for room in a queue (its generation), the item gets into no other."""
        core = self._remote.core
        self._refuse_reentry()
        with self._sending:
            if waited_for and core.generation != waited_for:
                # Another thread has found out that it was made anew.
                raise QueueDoesNotExistError(core.name, DELETED_MEANWHILE)
            session = self._producer()
            # What was cut short comes first: after a later number, its own would count for nothing.
            while self._cut_short:
                if not (self._posted and self._collect(REPLY_PATIENCE)):
                    self._complete(session, until)
            now = time.monotonic()
            if self._reserves:
                quick = now - self._reserved_at < QUICK
                self._hold = min(max(1, self._hold * 2), MOST) if quick else 0
                self._reserved_at = now
            session.hold = self._hold if self._reserves else -1
            try:
                with self._mutex:
                    # Without a call in between: a signal's handler may raise there, or put.
                    self._under_way = batch = [*self._bodies]
                    self._places = 0
                    self._bodies.clear()
                    self._before = 0
                flow = putting.put_bodies(
                    core, session, [*batch, body], flows.AT_ONCE, waited=bool(waited_for)
                )
                self._cut_short = next(flow), flow
                accepted = self._complete(session, until)
            except BaseException as exc:
                known = isinstance(exc, PressureError) and not isinstance(exc, OutcomeUnknownError)
                if known or self._cut_short is None:
                    self._put_back(exc.accepted if isinstance(exc, PressureError) else 0)
                # Else it may have been carried out, and the feeder sends it once more.
                self._alert()
                raise
        if self._places or self._bodies:
            self._alert()
        return accepted > len(batch)

    def _post(self, now: float) -> None:
        """Send what is there if the last reply came, and don't wait for the next one."""
        if self._posted and not self._collect(0.0):
            # Not yet, or there is trouble: ask again after a while.
            self._posted_at = now
            self._interval = self._interval or SHORTEST
            return
        if self._cut_short is not None or not self._bodies:
            # In the latter case the feeder was quicker.
            return
        session = self._producer()
        link = session.link
        fresh = not link.waiter
        request = self._begin(session)
        if not isinstance(request, Command):
            return
        if request.script is SCRIPTS["announce"] and not fresh:
            # It takes several steps, which can't wait for the next put.
            self._wake_feeder()
            return
        self._posted_at = self._sent_at = now
        # More than one send can carry: the next one follows as soon as there is a reply.
        longer = min(max(2 * self._interval, SHORTEST), LONGEST)
        self._interval = SHORTEST if self._bodies else longer
        try:
            link.send(request)
            self._posted = True
            if fresh:
                # The first one: who can't put at all should hear of it.
                self._collect(REPLY_PATIENCE)
        except Broken as broken:
            if not link.ever_connected:
                self._sent()
                raise give_up(link.address, request, broken) from broken.cause

    def flush(self, until: float) -> None:
        """`settle`, for a process that may be killed any moment. It doesn't raise, and what isn't
        sent by `until` (monotonic), or a little later, is left to the feeder."""
        if not (self._bodies or self._places or self._cut_short):
            return
        if self._sending.acquire(timeout=max(0.0, until - time.monotonic())):
            try:
                if not self._posted or self._producer().link.wait(until):
                    self._attempt(lambda: time.monotonic() >= until, places_keep=0.0)
            except Broken:
                pass
            finally:
                self._sending.release()
        # The next loop of puts is another one: it shall not reserve as many places as this one.
        self._reserved_at = 0.0
