"""What a program has registered with `multiprocessing` for its types: functions that say how they
are pickled, which are heeded here as `ProcessPoolExecutor` does it.

But those of PyTorch, which programs don't register themselves, are not: they hand over tensors as
descriptors, one each. Any number of tasks may wait here, each pickled already, and be run again
when a worker dies; so tensors are copied.
"""

from __future__ import annotations

from multiprocessing.reduction import ForkingPickler
from typing import Any

__all__ = ["KNOWN", "registered"]

KNOWN: Any = vars(ForkingPickler)["_extra_reducers"]
"""All that `multiprocessing` pickles in its own way, by type. It grows when a program registers
more, and as modules of `multiprocessing` are imported."""
_OTHERS = frozenset({"multiprocessing", "torch"})

_seen: dict[type, Any] = {}
_registered: dict[type, Any] = {}


def registered() -> dict[type, Any]:
    """What the program has registered: nothing, mostly, and that is quick."""
    global _seen, _registered
    if _seen != KNOWN:
        known = _seen = KNOWN.copy()
        _registered = {kind: known[kind] for kind in known if _package(known[kind]) not in _OTHERS}
    return _registered


def _package(reducer: Any) -> str:
    return str(getattr(reducer, "__module__", "")).partition(".")[0]
