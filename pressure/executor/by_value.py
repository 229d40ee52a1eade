"""Modules that the workers don't have travel by value. And what to say when one is missing."""

from __future__ import annotations

import sys
import types
import weakref
from typing import Any

import cloudpickle

__all__ = [
    "ALSO",
    "CACHES",
    "MAIN",
    "explain",
    "names_one",
    "register_by_value",
    "restore_script",
    "script",
    "shares_main",
    "travels_by_value",
]

_names: list[str] = []
MAIN = b"__main__"
ALSO: list[bytes] = []
"""The names of other modules that go by value, as they stand in a pickle."""
CACHES: weakref.WeakSet[Any] = weakref.WeakSet()
"""What remembers pickles, and has to forget (`clear`) when another module goes by value."""


def register_by_value(module: types.ModuleType) -> None:
    """Send functions and classes of a module (or package) along with the tasks that use them, so
    that workers need not have it installed.

    For code of one's own that is under work: what it imports must be there on the workers, and
    they must run the same minor version of Python. Changes made to its functions later are seen;
    what the module holds besides is sent as it is when the task is submitted.

    Raises `TypeError` if it is no module, `ValueError` if it was never imported by its name.
    """
    if not isinstance(module, types.ModuleType):
        raise TypeError(f"a module is needed, not {type(module).__name__}")
    cloudpickle.register_pickle_by_value(module)
    if module.__name__ not in _names:
        _names.append(module.__name__)
        ALSO.append(module.__name__.encode())
    for cache in list(CACHES):
        cache.clear()


def names_one(data: bytes, same_main: bool = False) -> bool:
    """Whether a pickle refers to something by name that the other side doesn't have under it."""
    return (MAIN in data and not same_main) or any(name in data for name in ALSO)


def shares_main(start_method: str) -> bool:
    """Whether local workers have this process's `__main__`, as those of the standard library do.

    Forked ones have it as it was then; others import the script anew, but not the `__main__` of a
    package or a folder. In an interactive session it grows after they were started, so there it
    travels by value.
    """
    main = sys.modules.get("__main__")
    interactive = hasattr(sys, "ps1") or "IPython" in sys.modules
    if interactive or start_method == "fork":
        return not interactive
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        name: str = spec.name
        return name != "__main__" and not name.endswith(".__main__")
    return bool(getattr(main, "__file__", None))


def script() -> str | None:
    """The path of the script that runs as `__main__`, if one does."""
    return getattr(sys.modules.get("__main__"), "__file__", None)


def restore_script(path: str | None) -> None:
    """When a script ends, Python takes its path from `__main__` before it waits for threads. What
    is started from then on and is not forked would not import the script."""
    main = sys.modules.get("__main__")
    if path is not None and main is not None and not hasattr(main, "__file__"):
        main.__file__ = path


def travels_by_value(module: str | None) -> bool:
    """Whether what is defined in the module of this name travels by value."""
    if module is None or module == "__main__":
        return True
    return any(module == name or module.startswith(f"{name}.") for name in _names)


def explain(exc: BaseException) -> str:
    """What is wrong with a task that can't be unpickled here, and what to do about it."""
    try:
        said = f"{type(exc).__name__}: {exc}"
    except Exception:
        said = type(exc).__name__
    version = f"Python {sys.version_info[0]}.{sys.version_info[1]}, {sys.executable}"
    if isinstance(exc, ModuleNotFoundError):
        return (
            f"{said}; install {exc.name!r} there ({version}), or, if it is a module of your own, "
            "send it along with pressure.register_by_value(module)"
        )
    if isinstance(exc, ImportError | AttributeError):
        return (
            f"{said}; the worker has another version of that module ({version}): install the same "
            "one there, or send it along with pressure.register_by_value(module)"
        )
    return said
