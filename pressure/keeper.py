"""The background thread that keeps a process's promises while its callers do something else.

It renews leases, sends acknowledgements that no further call carried, gives back what was fetched
ahead and not used, and reaps dead consumers. One daemon thread serves all handles of a process that
talk to the same server: what is owed to one server must not wait until another one answers.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing.util
import os
import threading
import time
import weakref
from typing import Protocol

from pressure.collecting import collecting
from pressure.errors import PressureError

__all__ = ["Kept", "keep", "wake"]

log = logging.getLogger("pressure")

TICK = 0.05
"""The longest time (seconds) for which an acknowledgement rides on nothing: half of it is waited
for a call to ride on,"""
LOOK = 0.02
"""and so often is looked meanwhile."""
ACTIVE = 0.2
"""Who need not be looked at for so long owes the server nothing but the renewal of leases."""
LINGER = 30.0
"""A thread without handles ends after this long."""


class Kept(Protocol):
    """What the keeper needs of a handle."""

    def maintain(self, now: float) -> float:
        """Do what is due; returns when to be called again (monotonic)."""

    def disconnect(self) -> None: ...

    def after_fork(self) -> None: ...


class _Keeper:
    """Looks after the handles of one server."""

    def __init__(self) -> None:
        self.handles: weakref.WeakSet[Kept] = weakref.WeakSet()
        self.reset()

    def reset(self) -> None:
        # Reentrant, since the garbage collector may call `wake` while it is held. Callers take the
        # lock itself: the condition's `with` is Python, and Ctrl-C in it would leave the lock held.
        self.lock = threading.RLock()
        self.condition = threading.Condition(self.lock)
        # Those that owe the server something: their owner may have dropped them.
        self.owing: set[Kept] = set()
        self.thread: threading.Thread | None = None
        self.due = float("inf")

    def keep(self, handle: Kept) -> None:
        with self.lock:
            self.handles.add(handle)

    def wake(self, at: float, owing: Kept | None) -> None:
        if owing is not None and owing not in self.owing:
            with self.lock:
                self.owing.add(owing)
        if self.thread is not None and self.due <= at:
            return
        with self.lock:
            self.due = min(self.due, at)
            self.condition.notify()
        if self.thread is None and not collecting():
            # Not with the condition held: who starts a thread waits until it runs, and before that
            # the garbage collector may run in it, and call this.
            thread = threading.Thread(target=self._loop, name="pressure", daemon=True)
            try:
                thread.start()
            except RuntimeError as exc:
                # The interpreter is on its way out (or out of threads): leases then run out.
                log.debug("nothing is kept any more: %s", exc)
                return
            _end_with_process()

    def _loop(self) -> None:
        me = threading.current_thread()
        with self.lock:
            if self.thread is not None:
                # Another one was started at the same time.
                return
            self.thread = me
        while True:
            with self.lock:
                if self.thread is not me:
                    return
                delay = self.due - time.monotonic()
                if delay > 0:
                    notified = self.condition.wait(min(delay, LINGER))
                    if not (notified or self.handles or self.due < float("inf")):
                        self.thread = None
                        return
                if time.monotonic() < self.due:
                    continue
                self.due = float("inf")
                handles = list(self.handles)
            due = self._maintain_all(handles)
            handles.clear()
            with self.lock:
                self.due = min(self.due, due)

    def _maintain_all(self, handles: list[Kept]) -> float:
        due = float("inf")
        for handle in handles:
            with self.lock:
                owed = handle in self.owing
                # First, so that a call that ends meanwhile adds it again.
                self.owing.discard(handle)
            again_at = _maintain(handle)
            due = min(due, again_at)
            if owed and again_at <= time.monotonic() + ACTIVE:
                with self.lock:
                    self.owing.add(handle)
        return due


def _maintain(handle: Kept) -> float:
    try:
        return handle.maintain(time.monotonic())
    except PressureError as exc:
        # The caller's next operation meets the same trouble, and raises it where it is seen.
        log.debug("maintenance failed: %s", exc)
    except Exception:
        log.exception("maintenance failed")
    return time.monotonic() + 1.0


_lock = threading.Lock()
_keepers: dict[object, _Keeper] = {}
_of: weakref.WeakKeyDictionary[Kept, _Keeper] = weakref.WeakKeyDictionary()
_ending_in = 0
"""The process whose end is taken care of."""


def keep(handle: Kept, server: object = None) -> None:
    """Look after a handle from now on. `server` says which server it talks to."""
    with _lock:
        for old in [key for key, one in _keepers.items() if not (one.handles or one.thread)]:
            del _keepers[old]
        keeper = _of[handle] = _keepers.setdefault(server, _Keeper())
        keeper.keep(handle)


def wake(at: float, handle: Kept, *, owing: bool = False) -> None:
    """See to it that a handle is looked at by `at` (monotonic); if it is `owing` the server
    something, it lives till then. Does nothing if it is not kept. May be called by
    the garbage collector."""
    keeper = _of.get(handle)
    if keeper is not None:
        keeper.wake(at, handle if owing else None)


def _end_with_process() -> None:
    """Have the handles sign off when this process ends, be it one of `multiprocessing`, which ends
    without the functions of `atexit`."""
    global _ending_in
    if _ending_in != os.getpid():
        _ending_in = os.getpid()
        multiprocessing.util.Finalize(None, _at_exit, exitpriority=5)


def _all_handles() -> list[Kept]:
    return [handle for keeper in list(_keepers.values()) for handle in list(keeper.handles)]


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    for keeper in list(_keepers.values()):
        keeper.reset()
    for handle in _all_handles():
        handle.after_fork()


def _at_exit() -> None:
    for handle in _all_handles():
        try:
            handle.disconnect()
        except Exception as exc:
            log.debug("could not sign off: %s", exc)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
