"""Who looks after a shared queue while nobody calls, and when its users are gone.

The creator of an anonymous queue keeps it alive: its keys at the server run out a while after the
last heartbeat, so a creator that is killed leaves nothing behind. One that is done deletes it, at
its exit, or once the last handle is gone if no other process can have one.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from multiprocessing import util

from pressure import keeper, lifecycle
from pressure.core import Core
from pressure.errors import PressureError
from pressure.handle import Handle
from pressure.link import Link
from pressure.protocol import Status
from pressure.requests import Flow
from pressure.session import Session

__all__ = ["Caretaker", "on_duty"]

log = logging.getLogger("pressure")

ABANDONED_KEEP = 600.0
"""How long (seconds) a queue is kept that its creator holds no handle of, that others may use, and
that no other process reads."""
LEFT_BEHIND = 60.0
"""How long (seconds) at most a queue outlives its creator's exit, for others who still read."""
FAREWELL = 2.0
EXIT_PRIORITY = -50
"""After the feeder threads, and after the children were joined."""
MOST_DROPPED, PATIENCE, LOOK = 16, 0.1, 0.001
"""While more queues than this were dropped and wait for the keeper, each with its connections, who
opens another one gives it some time (seconds), and looks so often."""

on_duty: set[Caretaker] = set()
"""Those of all queues that this process uses. The keeper refers to them weakly; and each outlives
its queue's last handle."""
_dropped: set[Caretaker] = set()


class Caretaker:
    """A queue's duties of one process (`pressure.keeper.Kept`). `shared` says that another process
    may know the queue."""

    def __init__(self, core: Core[Link], handle: Handle, *, owner: bool) -> None:
        self.shared = False
        self._core = core
        self._handle = handle
        self._owner = owner
        self._abandoned = False
        self._alone_since = 0.0
        self._next = 0.0
        self._consumers: Sequence[bytes] = ()
        self._left: deque[Session[Link]] = deque()
        self._finalizer: util.Finalize | None = None
        # Held while signing off, which the exit of the process has to wait for.
        self._retiring = threading.Lock()
        self._retired = False

    def begin(self) -> None:
        if len(_dropped) > MOST_DROPPED:
            until = time.monotonic() + PATIENCE
            while len(_dropped) > MOST_DROPPED and time.monotonic() < until:
                time.sleep(LOOK)
        on_duty.add(self)
        keeper.keep(self, self._handle.address.identity)
        self._await_exit()
        # A child of multiprocessing forgets the hooks of its parent before it calls this.
        util.register_after_fork(self, Caretaker._await_exit)
        if self._owner:
            self._next = time.monotonic() + self._interval
            keeper.wake(self._next, self)

    def _await_exit(self) -> None:
        if not self._retired:
            self._finalizer = util.Finalize(None, self._exit, exitpriority=EXIT_PRIORITY)

    @property
    def _interval(self) -> float:
        return self._core.ttl_ms / 3000

    def after_fork(self) -> None:
        """In the child: the parent goes on keeping the queue."""
        self._owner = False
        self.shared = True
        self._retiring = threading.Lock()
        self._left.clear()
        _dropped.discard(self)
        self._await_exit()

    def disconnect(self) -> None:
        """Part of `Kept`; the handle itself is kept, too."""

    def flush(self, until: float) -> None:
        """Acknowledge what was got, and give back what was fetched ahead, by `until` (monotonic) or
        a little later. What can't be done is left to the keeper."""
        core, handle = self._core, self._handle
        if core.has_ahead or handle.prefetch.under_way or core.owes():
            try:
                handle.prefetch.finish(until)
                if core.has_ahead:
                    handle.give_back_ahead(until)
                handle.flush_idle(until)
            except PressureError as exc:
                log.debug("queue %s: not everything is acknowledged: %s", core.name, exc)

    def abandon(self) -> None:
        """The last handle is gone. May be called by the garbage collector, so the rest is left to
        the keeper's thread."""
        self._abandoned = True
        _dropped.add(self)
        keeper.wake(time.monotonic(), self)

    def take_over(self, session: Session[Link]) -> None:
        """A producer is gone that had borrowed this. May be called by the garbage collector, which
        must not wait for the handle."""
        self._left.append(session)

    def left_session(self) -> Session[Link] | None:
        """What a producer has left behind, for the next one."""
        try:
            session = self._left.pop()
        except IndexError:
            return None
        session.borrower = threading.get_ident()
        return session

    def maintain(self, now: float) -> float:
        if self._retired:
            return float("inf")
        if self._abandoned:
            if not (self._owner and self.shared):
                self._retire(self._owner)
            _dropped.discard(self)
        if not self._owner:
            return float("inf")
        if now >= self._next:
            self._next = now + self._interval
            others = self._keep(self._core.ttl_ms)
            if others is None:
                # It vanished: this process stood still for too long, or somebody deleted it.
                self._owner = False
                return float("inf")
            if others or not self._alone_since:
                self._alone_since = now
            if self._abandoned and now - self._alone_since > ABANDONED_KEEP:
                self._retire(True)
                return float("inf")
        return self._next

    def outwaits(self, until: float | None) -> bool:
        """For who has just failed with the queue: whether that was since this process exits, which
        deletes its queues under its daemon threads. These wait on then until their time is over
        (monotonic; None: for ever), as those do that wait for the standard library's."""
        thread = threading.current_thread()
        if not (util.is_exiting() and thread.daemon and thread is not threading.main_thread()):
            return False
        if not (self._retired or self._handle.address.has_ended):
            return False
        threading.Event().wait(None if until is None else max(0.0, until - time.monotonic()))
        return True

    def _exit(self) -> None:
        """The process ends."""
        delete = False
        try:
            if self._owner:
                others = self._keep(min(self._core.ttl_ms, int(LEFT_BEHIND * 1000)))
                delete = others == 0
            self._retire(delete)
        except Exception as exc:
            log.debug("could not sign off: %s", exc)

    def _retire(self, delete: bool) -> None:
        with self._retiring:
            if self._retired:
                return
            self._retired = True
            self._owner = False
            while (session := self.left_session()) is not None:
                self._handle.release(session)
            try:
                if delete:
                    self._handle.call(lifecycle.delete(self._core), time.monotonic() + FAREWELL)
                    self._handle.forget_queue()
            except PressureError as exc:
                log.debug("could not delete queue %s: %s", self._core.name, exc)
            self._handle.disconnect()
        on_duty.discard(self)
        _dropped.discard(self)
        if self._finalizer is not None:
            self._finalizer.cancel()

    def _keep(self, ttl_ms: int) -> int | None:
        """Renew the time to live; returns how many consumers other processes have, or None if the
        queue is gone."""
        reply = self._handle.call(
            keep(self._core, ttl_ms, self._consumers), time.monotonic() + FAREWELL
        )
        if reply is None:
            return None
        living, self._consumers = reply
        return len(set(self._consumers[:living]) - set(self._core.consumers()))


def keep(
    core: Core[Link], ttl_ms: int, known: Sequence[bytes]
) -> Flow[tuple[int, Sequence[bytes]] | None]:
    """Give all keys of a queue another `ttl_ms` to live; returns all its consumers, and how many of
    them (the first) live; None if the queue is gone. `known` are those of last time."""
    while True:
        reply = yield core.protocol.keep(ttl_ms, known)
        if reply[0] == Status.ABSENT:
            return None
        consumers: Sequence[bytes] = reply[2:]
        if not set(consumers) - set(known):
            return reply[1], consumers
        known = consumers


def _note_fork() -> None:
    for caretaker in list(on_duty):
        caretaker.shared = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_note_fork)
