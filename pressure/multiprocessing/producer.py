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

import logging
import threading
import time
from collections.abc import Callable
from multiprocessing import util

from pressure import flows, putting
from pressure.driver import give_up
from pressure.errors import (
    DELETED_MEANWHILE,
    OutcomeUnknownError,
    PressureError,
    QueueDoesNotExistError,
    ServerOutOfMemoryError,
    ServerUnavailableError,
)
from pressure.multiprocessing.outgoing import MOST, REPLY_PATIENCE, Outgoing
from pressure.multiprocessing.remote import Remote
from pressure.protocol import Command
from pressure.retry import Broken

__all__ = ["Producer"]

log = logging.getLogger("pressure")

PAUSE = 0.00005
"""A put that comes this long (seconds) after the last one is sent at once."""
SHORTEST, LONGEST = 0.00006, 0.001
"""In a quick loop, the time (seconds) between batches doubles from the one to the other."""
TICK = 0.0005
"""How long (seconds) the feeder gives the putting thread to send a batch itself."""
LINGER = 0.001
"""How long (seconds) the feeder stays awake after a send: it need not be woken meanwhile."""
STUCK = 0.1
"""If nothing was sent for so long (seconds), the feeder doesn't leave it to the putting thread."""
DOZE = 0.05
"""How often (seconds) the feeder looks after a reply that the putting thread should read."""
QUICK = 0.01
"""Places are reserved for a loop that used up the last ones within this time (seconds)."""
FLUSH_PRIORITY = -5
"""At exit after the children were joined, as the standard library's feeders."""
RETRY = 0.05
GRACE = 10.0
"""At exit, how much longer (seconds) than for a lost server a feeder that sends nothing is waited
for: it gives up between two attempts, which have their own time-outs."""
LOOK = 1.0
"""How often (seconds) is looked meanwhile whether it gets on."""
PLACES_KEEP = 0.005
"""After this long (seconds) without a put, the places that are left are freed."""


class Producer(Outgoing):
    """The sending half of one handle in one process. Thread-safe."""

    def __init__(self, remote: Remote, *, exact: bool, reserves: bool) -> None:
        self._exact = exact
        super().__init__(remote, reserves=reserves)

    def reset(self) -> None:
        """Start over, as in a forked child: what is buffered here is the parent's to send."""
        super().reset()
        self._hold = 0
        # Reentrant, since the garbage collector may come here at any time. Callers take the lock
        # itself: the condition's `with` is Python, and Ctrl-C in it would leave the lock held.
        self._work_lock = threading.RLock()
        self._work = threading.Condition(self._work_lock)
        self._asleep = False
        self._dozing = False
        self._closing = False
        self._deadline: float | None = None
        self._thread: threading.Thread | None = None
        self._finalizer: util.Finalize | None = None
        self._posted_at = self._sent_at = 0.0
        self._interval = 0.0
        self._last = 0.0
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
                    self._more = 1
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
                self._attempt(lambda: time.monotonic() >= until, places_keep=0.0)
            finally:
                self._sending.release()
        # The next loop of puts is another one: it shall not reserve as many places as this one.
        self._reserved_at = 0.0

    # The feeder

    def _alert(self) -> None:
        """Have the feeder look, unless it does so soon anyway."""
        if (
            self._thread is None
            or self._asleep
            or (self._dozing and (self._bodies or self._places))
        ):
            self._wake_feeder()

    def _wake_feeder(self) -> None:
        with self._work_lock:
            if self._thread is None:
                self._start()
            self._work.notify()

    def _start(self) -> None:
        if self._finalizer is None and not self._may_lose:
            self._finalizer = util.Finalize(None, self._finish, exitpriority=FLUSH_PRIORITY)
        thread = threading.Thread(target=self._feed, name="QueueFeederThread", daemon=True)
        thread.start()
        self._thread = thread

    def _feed(self) -> None:
        with self._work_lock:
            if self._thread is None:
                # Who started this thread was cut short before it could say so.
                self._thread = threading.current_thread()
            elif self._thread is not threading.current_thread():
                return
        while self._await_work():
            self._sent_at = time.monotonic()
            if not self._attempt(self._is_seen_to, PLACES_KEEP):
                time.sleep(RETRY)
        self._release()

    def _attempt(self, seen_to: Callable[[], bool], places_keep: float) -> bool:
        """`_send_all`, and free the places that no put has used for so long (seconds). False if
        that is to be tried again after a while."""
        try:
            with self._sending:
                self._send_all(seen_to)
                if self._closing or time.monotonic() - self._last >= places_keep:
                    self._free_places()
            return True
        except ServerOutOfMemoryError as exc:
            self._put_back(exc.accepted)
        except (ServerUnavailableError, OutcomeUnknownError) as exc:
            late = self._deadline is not None and time.monotonic() >= self._deadline
            if late or self._remote.handle.address.has_ended:
                self._drop(exc)
        except Exception as exc:
            self._drop(exc)
            return True
        return False

    def _await_work(self) -> bool:
        """Wait until there is something to do that the putting thread doesn't do. False once the
        handle is closed and all is sent."""
        lingered = -1
        with self._work_lock:
            while True:
                before = self._sends
                if self._bodies or self._places:
                    if self._closing:
                        return True
                    self._work.wait(TICK + 2 * self._interval)
                    if before == self._sends and not self._is_seen_to():
                        return True
                elif self._cut_short:
                    if self._closing or not self._posted:
                        return True
                    self._dozing = True
                    if not self._bodies:
                        self._work.wait(DOZE)
                    self._dozing = False
                    if before == self._sends and not self._bodies:
                        return True
                elif self._closing:
                    return False
                elif before != lingered:
                    # In a loop that goes on there is something again in a moment, and whoever puts
                    # that needs the processor for better things than to wake this thread.
                    lingered = before
                    self._work.wait(LINGER)
                else:
                    self._asleep = True
                    # Looked at once more, since the putting thread doesn't take the lock.
                    if not (self._bodies or self._places or self._cut_short or self._closing):
                        self._work.wait()
                    self._asleep = False

    def _is_seen_to(self) -> bool:
        """Whether a thread puts in a loop, and so sends what is there. It does so in no time; this
        one gets the interpreter's lock from it only after some milliseconds, each time anew."""
        if self._exact or self._closing or (self._cut_short and not self._posted):
            return False
        now = time.monotonic()
        return now - self._last < TICK and now - self._sent_at < STUCK

    # The end

    def close(self) -> None:
        """Let the feeder end once everything is sent."""
        self._closing = True
        if self._thread is None:
            self._release()
        else:
            self._wake_feeder()

    def abandon(self) -> None:
        """`close`, called by the garbage collector."""
        self._closing = True
        if self._thread is not None:
            self._wake_feeder()
        elif self._session is not None and self._cut_short is None:
            session, self._session = self._session, None
            session.hold = -1
            self._remote.caretaker.take_over(session)

    def join(self) -> None:
        """Wait until the feeder has ended."""
        if self._thread is not None:
            self._thread.join()
        self.forget_exit()

    def forget_exit(self) -> None:
        """Don't wait for the feeder when the process ends."""
        finalizer, self._finalizer = self._finalizer, None
        if finalizer is not None:
            finalizer.cancel()

    def accept_loss(self) -> None:
        """`forget_exit`, and what is lost by that is as its owner wants it."""
        self._may_lose = True
        self.forget_exit()

    def _finish(self) -> None:
        """The process ends: wait for the feeder, for as long as it gets on. If the server is away
        it gives up by itself."""
        self._finalizer = None
        patience = self._remote.core.settings.reconnect_timeout
        self._deadline = time.monotonic() + patience
        self.abandon()
        thread, sends = self._thread, self._sends
        until = self._deadline + GRACE
        while thread is not None and thread.is_alive():
            thread.join(min(LOOK, max(0.0, until - time.monotonic())))
            if self._sends != sends:
                sends, until = self._sends, time.monotonic() + patience + GRACE
            elif time.monotonic() >= until:
                left = len(self._bodies) + len(self._under_way)
                log.warning("queue %s: %d items are perhaps lost", self._remote.core.name, left)
                return

    def _release(self) -> None:
        self.forget_exit()
        session, self._session = self._session, None
        if session is not None:
            session.hold = -1
            self._remote.handle.release(session)
