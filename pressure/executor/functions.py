"""Functions as they travel: by name or by value, packed once for many tasks."""

from __future__ import annotations

import hashlib
import pickle
import sys
import types
import weakref
from collections.abc import Callable
from typing import Any

from pressure.executor.by_value import CACHES, names_one, travels_by_value
from pressure.executor.pickling import PLAIN, PROTOCOL, dumps, in_one_piece, pickled_by_value
from pressure.executor.reducers import registered

__all__ = ["FunctionPacker", "PackedFunction", "stands_alone"]

INLINE_BYTES = 1024
DIGEST_BYTES = 16


class PackedFunction:
    """A function as it travels: its pickle, or the digest under which that is stored."""

    __slots__ = ("data", "digest", "head", "stored")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.head = b""
        """How its tasks begin, once that is known."""
        self.stored = len(data) > INLINE_BYTES
        self.digest = (
            hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest() if self.stored else b""
        )

    @property
    def reference(self) -> bytes:
        return self.digest if self.stored else self.data


class FunctionPacker:
    """Packs functions, and remembers those that cannot have changed since."""

    def __init__(self, *, same_main: bool = False, local: bool = False) -> None:
        self._same_main = same_main
        self._local = local
        # By id, since that is quicker than a WeakKeyDictionary; each entry goes with its function.
        self._known: dict[int, tuple[weakref.ref[Any], _Snapshot, PackedFunction]] = {}
        CACHES.add(self)

    def clear(self) -> None:
        """Forget all."""
        self._known.clear()

    def pack(self, function: Callable[..., Any]) -> PackedFunction:
        """Raises what pickling raises."""
        if type(function) is not types.FunctionType:
            data = dumps(function, same_main=self._same_main, local=self._local)
            return PackedFunction(in_one_piece(data))
        known = self._known.get(id(function))
        if known is not None and known[0]() is function and known[1].holds(function):
            return known[2]
        packed, named = _pack_function(function, self._same_main, self._local)
        snapshot = _Snapshot.of(function, named=named)
        if snapshot is not None:
            key = id(function)
            forget = self._known.pop
            self._known[key] = (
                weakref.ref(function, lambda _: forget(key, None)),
                snapshot,
                packed,
            )
        return packed


def stands_alone(function: Callable[..., Any]) -> bool:
    """Whether a callable has no state that arguments may share with it, or a call may change: not
    so a bound method, a partial, an instance with `__call__`."""
    kind = type(function)
    if kind is types.BuiltinFunctionType:
        return isinstance(getattr(function, "__self__", None), types.ModuleType | None)
    return kind is types.FunctionType or isinstance(function, type)


def _pack_function(
    function: types.FunctionType, same_main: bool, local: bool
) -> tuple[PackedFunction, bool]:
    """A function's pickle, and whether it is just its name."""
    try:
        data = pickle.dumps(function, PROTOCOL)
    except (pickle.PicklingError, AttributeError):
        data = b""
    if data and not names_one(data, same_main):
        return PackedFunction(data), True
    if registered():
        return PackedFunction(
            in_one_piece(dumps(function, same_main=same_main, local=local))
        ), False
    return PackedFunction(pickled_by_value(function, same_main, local)), False


class _Snapshot:
    """All that a function's pickle depends on."""

    __slots__ = ("cells", "code", "defaults", "globals", "kwdefaults", "name", "named", "space")

    def __init__(self, function: types.FunctionType, *, named: bool) -> None:
        self.named = named
        # Where its name is looked up again, unless that is in a class.
        self.name = function.__qualname__
        module = sys.modules.get(function.__module__) if "." not in self.name else None
        self.space = vars(module) if module is not None else None
        self.code = function.__code__
        self.defaults = function.__defaults__
        self.kwdefaults = function.__kwdefaults__
        self.cells = [(cell, cell.cell_contents) for cell in function.__closure__ or ()]
        space = function.__globals__
        # A name that is missing stands for itself: it must not appear later, either.
        self.globals = [(name, space.get(name, space)) for name in _global_names(self.code)]

    @classmethod
    def of(cls, function: types.FunctionType, *, named: bool) -> _Snapshot | None:
        """None if something that the pickle depends on can change unnoticed."""
        if named:
            # Only the name travels; what it means is up to the other side.
            return cls(function, named=True)
        try:
            snapshot = cls(function, named=False)
        except ValueError:
            return None  # an empty cell
        space = function.__globals__
        values = [value for _, value in snapshot.cells]
        values += [value for _, value in snapshot.globals if value is not space]
        values += function.__defaults__ or ()
        if function.__kwdefaults__ or function.__dict__ or not all(map(_is_constant, values)):
            return None
        return snapshot

    def holds(self, function: types.FunctionType) -> bool:
        """Whether nothing has changed since."""
        if self.named:
            return self.space is None or self.space.get(self.name) is function
        if function.__code__ is not self.code or function.__defaults__ is not self.defaults:
            return False
        if function.__kwdefaults__ is not self.kwdefaults or function.__dict__:
            return False
        for cell, value in self.cells:
            if cell.cell_contents is not value:
                return False
        space = function.__globals__
        for name, value in self.globals:
            if space.get(name, space) is not value:
                return False
        return True


def _global_names(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _global_names(constant)
    return names


def _is_constant(value: Any) -> bool:
    """True for what is either immutable or travels by name."""
    if type(value) in PLAIN or isinstance(value, types.BuiltinFunctionType):
        return True
    if isinstance(value, types.ModuleType):
        return not travels_by_value(value.__name__)
    if isinstance(value, tuple | frozenset):
        return all(_is_constant(part) for part in value)
    if isinstance(value, type | types.FunctionType):
        return not travels_by_value(getattr(value, "__module__", None))
    return False
