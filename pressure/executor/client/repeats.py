"""Large arguments that come again: the second time they are shared, without being asked.

What can't change (bytes, str) is known by its identity from then on. Anything else is hashed each
time, since it may have changed, and each task gets a copy of its own. That holds for read-only
arrays, too: who owns one can make it writable for a while, and any can get another shape.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from pressure.executor import pickling
from pressure.executor.descriptors import NotPortableError
from pressure.executor.payloads import Packed
from pressure.executor.records import NO_ARGUMENTS
from pressure.executor.sharing import Entry, Private, Shared, Shelf

__all__ = ["Arguments"]

LARGE = 1024 * 1024
"""From this size on an argument is looked at."""
KEPT = 256 * 1024 * 1024
"""How much of what was shared here is kept for the next task, when none is left that needs it."""
NOTED = 4


class Arguments:
    """Pickles the arguments of tasks."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._lock = threading.Lock()
        self._looking = False
        """Whether there was a large argument yet: nobody pays for this before."""
        self._noted: OrderedDict[int, Callable[[], Any]] = OrderedDict()
        self._known: OrderedDict[int, tuple[Callable[[], Any], Entry]] = OrderedDict()

    def pack(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[bytes | Packed, tuple[Entry, ...]]:
        """The pickle of the arguments as they are now, and what of them is shared.

        Raises what pickling raises.
        """
        if not args and not kwargs:
            return NO_ARGUMENTS, ()
        if self._looking:
            with self._lock:
                # One that is there twice is one object for the task, too.
                given = {id(arg): arg for arg in (*args, *kwargs.values())}
                seen = {key: self._look_at(arg) for key, arg in given.items()}
            args = tuple([seen[id(arg)] for arg in args])
            kwargs = {name: seen[id(arg)] for name, arg in kwargs.items()}
        if self._shelf.used:
            return self._shelf.pickled((args, kwargs))
        shelf = self._shelf
        packed = pickling.dumps((args, kwargs), same_main=shelf.same_main, local=shelf.local)
        if not self._looking and len(packed) >= LARGE:
            self._looking = True
            with self._lock:
                for arg in (*args, *kwargs.values()):
                    self._look_at(arg)
        return packed, ()

    def _look_at(self, arg: Any) -> Any:
        """The argument itself, or what stands for it if it was seen before."""
        if _size(arg) < LARGE:
            return arg
        try:
            return self._known_or_noted(arg)
        except NotPortableError:
            # It can't be shared, but may be had by one task.
            return arg

    def _known_or_noted(self, arg: Any) -> Any:
        key = id(arg)
        known = self._known.get(key)
        if known is not None and known[0]() is arg:
            self._known.move_to_end(key)
            entry = known[1]
            if _is_constant(arg):
                return Shared(self._shelf, entry)
            now = self._shelf.entry(arg)
            if now is not entry:
                self._remember(key, arg, now)
            return Private(now)
        self._known.pop(key, None)
        noted = self._noted.pop(key, None)
        if noted is None or noted() is not arg:
            self._noted[key] = _weakly(arg)
            if len(self._noted) > NOTED:
                self._noted.popitem(last=False)
            return arg
        entry = self._shelf.entry(arg)
        self._remember(key, arg, entry)
        return Shared(self._shelf, entry) if _is_constant(arg) else Private(entry)

    def _remember(self, key: int, arg: Any, entry: Entry) -> None:
        self._known[key] = _weakly(arg), entry
        size = sum(len(entry.data) for _, entry in self._known.values())
        while size > KEPT and len(self._known) > 1:
            _, (_, dropped) = self._known.popitem(last=False)
            size -= len(dropped.data)


def _weakly(arg: Any) -> Callable[[], Any]:
    """A weak reference; of what can't have one (bytes, say) a strong one."""
    try:
        return weakref.ref(arg)
    except TypeError:
        return lambda: arg


def _size(arg: Any) -> int:
    if isinstance(arg, bytes | bytearray | str):
        return len(arg)
    if isinstance(arg, Shared | type):
        return 0
    try:
        size = arg.nbytes
    except Exception:
        return 0
    return size if isinstance(size, int) else 0


def _is_constant(arg: Any) -> bool:
    """True for what nobody can change."""
    return type(arg) in (bytes, str)
