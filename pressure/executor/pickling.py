"""Functions, arguments and results to bytes and back.

What can be imported by the other side travels by name. What lives in `__main__`, in a notebook or
inside another function travels by value.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import types
import weakref
from collections.abc import Callable
from typing import Any

import cloudpickle

__all__ = ["FunctionPacker", "NotReadable", "PackedFunction", "dumps", "dumps_result", "loads"]

PROTOCOL = 5
INLINE_BYTES = 1024
DIGEST_BYTES = 16
_MAIN = b"__main__"
_PLAIN = {type(None), bool, int, float, complex, str, bytes}


def dumps(obj: Any) -> bytes:
    """Pickle: by name where that can be imported elsewhere, by value where it can't.

    Raises what pickling raises.
    """
    try:
        data = pickle.dumps(obj, PROTOCOL)
    except (pickle.PicklingError, AttributeError, TypeError) as plain:
        try:
            return bytes(cloudpickle.dumps(obj, PROTOCOL))
        except Exception:
            raise plain from None
    if _MAIN in data:
        # The other side has another __main__.
        return bytes(cloudpickle.dumps(obj, PROTOCOL))
    return data


loads = pickle.loads


class NotReadable(Exception):
    """A result was pickled, but could not be unpickled again."""


class _Watching(pickle.Pickler):
    """Notes whether anything was pickled whose unpickling runs code of the user's."""

    special = False

    def reducer_override(self, obj: Any) -> Any:
        self.special = True
        return NotImplemented


def dumps_result(obj: Any) -> bytes:
    """Pickle a result, and make sure that it can be unpickled again.

    Raises what pickling raises, and `NotReadable`.
    """
    if type(obj) in _PLAIN:
        return pickle.dumps(obj, PROTOCOL)
    buffer = io.BytesIO()
    pickler = _Watching(buffer, PROTOCOL)
    try:
        pickler.dump(obj)
        data = buffer.getvalue()
    except (pickle.PicklingError, AttributeError, TypeError) as plain:
        pickler.special = True
        try:
            data = bytes(cloudpickle.dumps(obj, PROTOCOL))
        except Exception:
            raise plain from None
    if pickler.special:
        try:
            pickle.loads(data)
        except BaseException as exc:
            raise NotReadable(f"it does not unpickle: {type(exc).__name__}: {exc}") from exc
    return data


class PackedFunction:
    """A function as it travels: its pickle, or the digest under which that is stored."""

    __slots__ = ("data", "digest", "stored")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.stored = len(data) > INLINE_BYTES
        self.digest = (
            hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest() if self.stored else b""
        )

    @property
    def reference(self) -> bytes:
        return self.digest if self.stored else self.data


class FunctionPacker:
    """Packs functions, and remembers those that cannot have changed since."""

    def __init__(self) -> None:
        self._named: weakref.WeakKeyDictionary[Any, PackedFunction] = weakref.WeakKeyDictionary()
        self._valued: weakref.WeakKeyDictionary[Any, tuple[Any, PackedFunction]] = (
            weakref.WeakKeyDictionary()
        )

    def pack(self, function: Callable[..., Any]) -> PackedFunction:
        """Raises what pickling raises."""
        if type(function) is not types.FunctionType:
            return PackedFunction(dumps(function))
        named = self._named.get(function)
        if named is not None:
            return named
        try:
            data = pickle.dumps(function, PROTOCOL)
        except (pickle.PicklingError, AttributeError):
            return self._pack_value(function)
        if _MAIN in data:
            return self._pack_value(function)
        packed = self._named[function] = PackedFunction(data)
        return packed

    def _pack_value(self, function: types.FunctionType) -> PackedFunction:
        snapshot = _snapshot(function)
        known = self._valued.get(function)
        if known is not None and snapshot is not None and known[0] == snapshot:
            return known[1]
        packed = PackedFunction(bytes(cloudpickle.dumps(function, PROTOCOL)))
        if snapshot is not None:
            self._valued[function] = snapshot, packed
        return packed


def _snapshot(function: types.FunctionType) -> tuple[Any, ...] | None:
    """All that a function's value depends on; None if part of it can change unnoticed."""
    code = function.__code__
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:
            return None
    names = _global_names(code)
    used = [(name, function.__globals__[name]) for name in names if name in function.__globals__]
    defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    values = (*cells, *(value for _, value in used), *defaults)
    if function.__dict__ or not all(_is_constant(value) for value in values):
        return None
    return code, tuple(map(_identity, values)), tuple(name for name, _ in used)


def _global_names(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _global_names(constant)
    return names


def _is_constant(value: Any) -> bool:
    """True for what is either immutable or travels by name."""
    if type(value) in _PLAIN or isinstance(value, types.ModuleType | types.BuiltinFunctionType):
        return True
    if isinstance(value, tuple | frozenset):
        return all(_is_constant(part) for part in value)
    if isinstance(value, type | types.FunctionType):
        return getattr(value, "__module__", "__main__") != "__main__"
    return False


def _identity(value: Any) -> Any:
    """What tells one constant from another: 1 from 1.0, one module from another."""
    if type(value) in _PLAIN:
        return type(value), value
    return id(value)
