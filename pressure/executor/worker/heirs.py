"""The signals of a worker process, and what processes forked by tasks must not inherit of them."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
from _signal import getsignal  # type: ignore[import-not-found]
from collections.abc import Callable
from multiprocessing import active_children
from typing import Any, NoReturn

__all__ = ["HANDLED", "Heirs", "Kept", "heed", "prepare_signals", "vanish"]

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
"""The signals that a worker has handlers for; the last two only that of a daemon."""


def prepare_signals(*, daemon: bool) -> None:
    """Make of the handlers that were inherited a worker's own, and let the signals in that were
    held back. A daemon's worker writes down where it is on SIGUSR1."""
    # Ctrl-C is for the client. Not SIG_IGN, which the programs that tasks start would inherit.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if daemon:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        faulthandler.register(signal.SIGUSR1, 2, all_threads=True)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
    heirs = Heirs(daemon=daemon)
    os.register_at_fork(
        before=heirs.before, after_in_parent=heirs.in_parent, after_in_child=heirs.in_child
    )


def heed(stop: Callable[[], None], *, daemon: bool) -> None:
    """Call `stop` when this process is asked to stop, whatever its initializer has set."""
    for number in (signal.SIGTERM, signal.SIGHUP) if daemon else (signal.SIGTERM,):
        signal.signal(number, lambda *_: stop())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)


class Kept:
    """The handlers that each task finds, whatever those before it have set."""

    def __init__(self, *numbers: int, daemon: bool) -> None:
        """Of these signals, besides a worker's own."""
        # That for SIGUSR1 is none of Python's, so it can't be seen here whether it is there.
        own = (signal.SIGTERM, signal.SIGINT, *((signal.SIGHUP,) if daemon else ()), *numbers)
        self._unblocked = (*HANDLED, *numbers)
        self._handlers: list[tuple[int, Any]] = [(number, getsignal(number)) for number in own]
        self.let_in()

    def restore(self) -> None:
        """In the main thread, after each task."""
        # That of `signal` looks handlers up in an enumeration, which takes a hundred times as long.
        for number, handler in self._handlers:
            if getsignal(number) is not handler:
                signal.signal(number, handler)

    def let_in(self) -> None:
        """As `restore`, of what is held back. It takes longer, and what is held back isn't lost."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._unblocked)


class Heirs(threading.local):
    """Hooks of `os.register_at_fork`: the child can be terminated like any other process.

    It would inherit the worker's handlers, which have no meaning there. Until they are gone the
    signals are held back: one that came first would be lost.
    """

    mask: set[int] | None = None

    def __init__(self, *, daemon: bool) -> None:
        self._daemon = daemon

    def before(self) -> None:
        self.mask = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)

    def in_parent(self) -> None:
        if self.mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)

    def in_child(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._daemon:
            faulthandler.unregister(signal.SIGUSR1)
            signal.signal(signal.SIGUSR1, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
        self.in_parent()


def vanish() -> NoReturn:
    """End this process from within a signal handler, as SIGTERM does to one that has no handler:
    so its supervisor signs it off."""
    for child in active_children():
        # What the initializer has started, and wanted to go with this process.
        if child.daemon:
            child.terminate()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
    # It is held back.
    os._exit(1)
