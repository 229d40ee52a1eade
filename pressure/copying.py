"""Pickling by value, with cloudpickle, what plain pickle can't. Open files and memory views are
refused.

cloudpickle takes an open text file for its contents: the other side would get an `io.StringIO`, and
what it writes there would be lost. Of a memory view it makes bytes, which have no items of several
bytes and can't be written to.

And it copies the classes of `__main__`. Where the other side has this `__main__` itself, what goes
by name beside the copy would be of another class than the copy knows, so there they stand for the
other side's own, and are copied only if it has none of that name.

Types that are written in C can't be copied. Those that can't be looked up by their names are left
to plain pickle to refuse; what cloudpickle makes of them can't be unpickled.
"""

from __future__ import annotations

import io
import sys
from collections import ChainMap
from collections.abc import Callable
from typing import Any

import cloudpickle

__all__ = ["TABLE", "CopyingPickler", "RefusedError", "SameMainPickler", "dumps_by_value"]

_PROTOCOL = 5
# The flags of types (in CPython's object.h): those from a class statement are allocated, on the
# heap, and can be changed.
_IMMUTABLE, _HEAP = 1 << 8, 1 << 9
_STATED = _IMMUTABLE | _HEAP


class RefusedError(TypeError):
    """What belongs to one process was to be pickled. This is said, whatever else plain pickle may
    have stumbled over before."""


def _refuse(file: io.TextIOWrapper) -> Any:
    for name in ("stdout", "stderr"):
        if file is getattr(sys, name, None):
            return getattr, (sys, name)
    raise RefusedError(
        "cannot pickle '_io.TextIOWrapper' object: an open file belongs to one process; "
        "pass its path instead"
    )


def _refuse_view(view: memoryview) -> Any:
    raise RefusedError(
        "cannot pickle 'memoryview' object: it is a view of what another object holds; "
        "pass that, or bytes(view)"
    )


TABLE: Any = ChainMap(
    {io.TextIOWrapper: _refuse, memoryview: _refuse_view}, cloudpickle.Pickler.dispatch_table
)
"""What is pickled by functions of its own. It grows when a program registers more."""


_override = cloudpickle.Pickler.reducer_override


class CopyingPickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle's, with these differences."""

    def __init__(
        self,
        file: io.BytesIO,
        table: Any = None,
        buffer_callback: Callable[[Any], object] | None = None,
    ) -> None:
        # It is looked for only once, when a pickler is made.
        self.dispatch_table = TABLE if table is None else table
        super().__init__(file, _PROTOCOL, buffer_callback)

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, type) and obj.__flags__ & _STATED != _HEAP:
            reduced = _override(self, obj)
            # What has more than two parts is a copy; two are a name that cloudpickle knows.
            is_copy = reduced is not NotImplemented and len(reduced) > 2
            return NotImplemented if is_copy else reduced
        return _override(self, obj)


_reduce = CopyingPickler.reducer_override


class SameMainPickler(CopyingPickler):
    """For those who have this process's `__main__`, too."""

    def reducer_override(self, obj: Any) -> Any:
        reduced = _reduce(self, obj)
        if not isinstance(obj, type) or getattr(obj, "__module__", None) != "__main__":
            return reduced
        name = obj.__qualname__
        if _class_of_main(name) is not obj:
            return reduced
        make, args, state, _, _, set_state = reduced
        return _own_or_copy, (name, make, args), (name, set_state, state), None, None, _fill_copy


def _class_of_main(name: str) -> Any:
    """What `__main__` has under the qualified name of a class, if that is a class."""
    found: Any = sys.modules.get("__main__")
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) else None


def _own_or_copy(name: str, make: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """What stands in a pickle for a class of `__main__`."""
    own = _class_of_main(name)
    # Its metaclass may make a class false.
    return make(*args) if own is None else own


def _fill_copy(cls: Any, copied: tuple[str, Callable[..., Any], Any]) -> None:
    name, set_state, state = copied
    if _class_of_main(name) is not cls:
        set_state(cls, state)


def dumps_by_value(
    obj: Any,
    buffer_callback: Callable[[Any], object] | None = None,
    *,
    same_main: bool = False,
) -> bytes:
    """As `cloudpickle.dumps`. With `same_main` the other side has this `__main__`, too. Raises what
    pickling raises, and `RefusedError`."""
    file = io.BytesIO()
    kind = SameMainPickler if same_main else CopyingPickler
    kind(file, buffer_callback=buffer_callback).dump(obj)
    return file.getvalue()
