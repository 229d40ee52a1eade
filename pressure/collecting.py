"""Whether the garbage collector is at work in this thread.

It runs wherever something is allocated, so what it calls (a finalizer, the end of a generator that
was left halfway) may find any lock held by this very thread. That must neither wait for anything
nor start a thread: it leaves what takes a lock or a round trip to somebody else.
"""

from __future__ import annotations

import gc
import os
import threading
from typing import Any

__all__ = ["collecting"]

_collector = 0


def collecting() -> bool:
    return _collector == threading.get_ident()


def _note(phase: str, info: dict[str, Any]) -> None:
    global _collector
    _collector = threading.get_ident() if phase == "start" else 0


def _after_fork() -> None:
    global _collector
    if not collecting():
        # A thread of the parent was at it, and another one here may get its number.
        _collector = 0


gc.callbacks.append(_note)
os.register_at_fork(after_in_child=_after_fork)
