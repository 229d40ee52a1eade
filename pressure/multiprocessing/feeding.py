"""The thread that sends what the putting thread leaves, and the end of a handle's sending half.

It sends what is left of a quick loop within a few milliseconds, sees to replies that no further put
reads, frees the places that are not used, and takes over when the server is away.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from multiprocessing import util

from pressure.errors import (
    OutcomeUnknownError,
    ServerOutOfMemoryError,
    ServerUnavailableError,
)
from pressure.multiprocessing.outgoing import Outgoing
from pressure.multiprocessing.remote import Remote

__all__ = ["Feeder"]

log = logging.getLogger("pressure")

TICK = 0.0005
"""How long (seconds) the feeder gives the putting thread to send a batch itself."""
LINGER = 0.001
"""How long (seconds) the feeder stays awake after a send: it need not be woken meanwhile."""
STUCK = 0.1
"""If nothing was sent for so long (seconds), the feeder doesn't leave it to the putting thread."""
DOZE = 0.05
"""How often (seconds) the feeder looks after a reply that the putting thread should read."""
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


class Feeder(Outgoing):
    """What sends without a caller. `exact`: nothing counts before the server has it, or a place for
    it."""

    def __init__(self, remote: Remote, *, exact: bool, reserves: bool) -> None:
        self._exact = exact
        super().__init__(remote, reserves=reserves)

    def reset(self) -> None:
        """Start over, as in a forked child: what is buffered here is the parent's to send."""
        super().reset()
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
        # When a loop has sent last, how long it waits until it sends again, and the last put.
        self._sent_at = 0.0
        self._interval = 0.0
        self._last = 0.0

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
