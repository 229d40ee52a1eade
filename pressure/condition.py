"""A condition that Ctrl-C can't leave locked.

`with threading.Condition():` calls two functions written in Python, and a signal handler may run,
and raise, inside of them: right after the lock was taken, or just before it is released. Then
nobody gets it any more. This one's `with` calls the lock's own methods, in which none runs.

It is for conditions that others' code enters, as that of a future. Code of our own takes the lock
that lies under a condition.
"""

from __future__ import annotations

import threading
from operator import attrgetter

__all__ = ["Condition"]


class Condition(threading.Condition):
    """As `threading.Condition`; `with` is quicker, too."""

    # Both are looked up before the first is called.
    __enter__ = property(attrgetter("_lock.__enter__"))
    __exit__ = property(attrgetter("_lock.__exit__"))
