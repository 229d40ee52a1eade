"""What a process that a task forks must not inherit from its worker."""

from __future__ import annotations

import signal
import threading

__all__ = ["Heirs"]

_HANDLED = (signal.SIGTERM, signal.SIGINT)


class Heirs(threading.local):
    """Hooks of `os.register_at_fork`: the child can be terminated like any other process.

    It would inherit the worker's handlers, which have no meaning there. Until they are gone the
    signals are held back: one that came first would be lost.
    """

    mask: set[int] | None = None

    def before(self) -> None:
        self.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)

    def in_parent(self) -> None:
        if self.mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)

    def in_child(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.in_parent()
