"""Functions, arguments and results to bytes and back.

What can be imported by the other side travels by name. What lives in `__main__`, in a notebook or
inside another function travels by value.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import pickle
import sys
import types
import weakref
from collections.abc import Callable
from typing import Any

from pressure.copying import RefusedError, dumps_by_value
from pressure.executor.by_value import ALSO, CACHES, MAIN, names_one, travels_by_value
from pressure.executor.descriptors import LEAST, SUSPECT, NotPortableError, hand_over, only_once
from pressure.executor.errors import TaskTerminatedError, TaskTimeoutError
from pressure.executor.payloads import LARGE, Packed, large, loads, marked
from pressure.executor.reducers import registered

__all__ = [
    "FunctionPacker",
    "NotReadable",
    "PackedFunction",
    "dumps",
    "dumps_result",
    "in_one_piece",
    "loads",
    "stands_alone",
]

PROTOCOL = 5
INLINE_BYTES = 1024
DIGEST_BYTES = 16
INTERRUPTIONS = (TaskTimeoutError, TaskTerminatedError)
"""What may be raised anywhere in a task, also in the pickling of its result."""
REFUSALS = (NotPortableError, RefusedError, *INTERRUPTIONS)
"""What is raised as it is, whatever plain pickling says."""
_PLAIN = {type(None), bool, int, float, complex, str, bytes}


def dumps(
    obj: Any, *, shared: bool = False, same_main: bool = False, local: bool = False
) -> bytes | Packed:
    """Pickle: by name where that can be imported elsewhere, by value where it can't. What changes
    later is not seen. Of what is to be `shared` it is, for no buffer is copied then; and all of
    them go out of band, so that who unpickles it may have them read-only. With `same_main`, the
    other side has this `__main__`, too. A `local` one is a process of this program and gets
    connections and sockets; what has any may be unpickled only once.

    Raises what pickling raises.
    """
    buffers: list[pickle.PickleBuffer] = []
    least = 0 if shared else LARGE
    if registered():
        packed = _dumps_registered(obj, same_main, local, least)
        return packed if shared or not isinstance(packed, Packed) else packed.settled()
    try:
        data = pickle.dumps(obj, PROTOCOL, buffer_callback=buffers.append)
    except (pickle.PicklingError, AttributeError, TypeError) as plain:
        packed = _dumps_all_the_same(obj, plain, same_main, local, least)
    else:
        if (MAIN in data and not same_main) or (ALSO and names_one(data, same_main)):
            packed = _dumps_value(obj, same_main, local, least)
        elif len(data) > LEAST and SUSPECT in data and (handed := hand_over(obj, local=local)).lent:
            return handed.data
        elif not buffers:
            return data
        else:
            raw = large(buffers, least)
            packed = Packed(data, raw) if raw else pickle.dumps(obj, PROTOCOL)
    return packed if shared or not isinstance(packed, Packed) else packed.settled()


def _dumps_all_the_same(
    obj: Any, plain: Exception, same_main: bool, local: bool, least: int = LARGE
) -> bytes | Packed:
    """Pickle what plain pickling refuses; if that is impossible raise `plain`, which users of
    pickle know."""
    if local and isinstance(plain, TypeError):
        # As for a socket. By name, if nothing else is in the way.
        with contextlib.suppress(pickle.PicklingError, AttributeError, TypeError):
            handed = hand_over(obj, local=True)
            if not names_one(handed.data, same_main):
                return handed.data
            handed.take_back()
    try:
        return _dumps_value(obj, same_main, local, least)
    except REFUSALS:
        raise
    except Exception:
        raise plain from None


def _dumps_value(obj: Any, same_main: bool, local: bool, least: int) -> bytes | Packed:
    """Pickle by value. Buffers go out of band if they have so many bytes together."""
    buffers: list[pickle.PickleBuffer] = []
    data = _by_value(obj, same_main, local, buffers)
    if not buffers:
        return data
    raw = large(buffers, least)
    return Packed(data, raw) if raw else marked(dumps_by_value(obj, same_main=same_main))


def _dumps_registered(obj: Any, same_main: bool, local: bool, least: int) -> bytes | Packed:
    """As `dumps`, where the program has registered reducers of its own. Nothing is pickled a second
    time only because its buffers are small: a reducer may have effects."""
    buffers: list[memoryview] = []

    def keep_in_band(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < least:
            return True
        buffers.append(raw)
        return False

    plain: Exception | None = None
    try:
        handed = hand_over(obj, local=local, buffer_callback=keep_in_band)
    except (pickle.PicklingError, AttributeError, TypeError) as exc:
        plain = exc
    else:
        if not names_one(handed.data, same_main):
            return Packed(handed.data, buffers) if buffers else handed.data
        handed.take_back()
    buffers.clear()
    try:
        handed = hand_over(
            obj, by_value=True, same_main=same_main, local=local, buffer_callback=keep_in_band
        )
    except REFUSALS:
        raise
    except Exception:
        if plain is None:
            raise
        raise plain from None
    data = marked(handed.data)
    return Packed(data, buffers) if buffers else data


def _by_value(
    obj: Any, same_main: bool, local: bool, buffers: list[pickle.PickleBuffer] | None = None
) -> bytes:
    """A pickle by value. Its buffers go into the list, if there is one, unless it is a pickle that
    can't be made once more, since it has connections or sockets."""
    callback = None if buffers is None else buffers.append
    try:
        data = dumps_by_value(obj, callback, same_main=same_main)
    except REFUSALS:
        raise
    except Exception as plain:
        try:
            handed = hand_over(obj, by_value=True, same_main=same_main, local=local)
        except REFUSALS:
            raise
        except Exception:
            raise plain from None
    else:
        if SUSPECT not in data:
            return marked(data)
        handed = hand_over(obj, by_value=True, same_main=same_main, local=local)
        if not handed.lent:
            return marked(data)
    if buffers is not None:
        buffers.clear()
    return marked(handed.data)


class NotReadable(Exception):
    """A result was pickled, but could not be unpickled again."""


class _Watching(pickle.Pickler):
    """Notes whether anything was pickled whose unpickling runs code of the user's."""

    special = False

    def reducer_override(self, obj: Any) -> Any:
        self.special = True
        return NotImplemented


def dumps_result(obj: Any, *, local: bool = False) -> bytes | Packed:
    """Pickle a result, and make sure that it can be unpickled again, unless that may be done only
    once. Large buffers stay where they are: it is to be sent before anything else runs that might
    change them. `local` is as for `dumps`.

    Raises what pickling raises, and `NotReadable`.
    """
    if type(obj) in _PLAIN:
        return pickle.dumps(obj, PROTOCOL)
    packed: bytes | Packed
    if registered():
        packed = _dumps_registered(obj, local, local, LARGE)
        _check_readable(packed)
        return packed
    buffer = io.BytesIO()
    buffers: list[pickle.PickleBuffer] = []
    pickler = _Watching(buffer, PROTOCOL, buffer_callback=buffers.append)
    try:
        pickler.dump(obj)
        packed = data = buffer.getvalue()
    except (pickle.PicklingError, AttributeError, TypeError) as plain:
        pickler.special = True
        # A local worker has the `__main__` of its client, or works with copies of what is there,
        # which it doesn't find under their names.
        packed = _dumps_all_the_same(obj, plain, local, local)
    else:
        if len(data) > LEAST and SUSPECT in data and (handed := hand_over(obj, local=local)).lent:
            return handed.data
        if buffers:
            raw = large(buffers)
            packed = Packed(data, raw) if raw else pickle.dumps(obj, PROTOCOL)
    if pickler.special:
        _check_readable(packed)
    return packed


def _check_readable(packed: bytes | Packed) -> None:
    """Unpickle it once. Raises `NotReadable`."""
    if only_once(packed.data if isinstance(packed, Packed) else packed):
        return
    try:
        packed.load() if isinstance(packed, Packed) else loads(packed)
    except INTERRUPTIONS:
        raise
    except BaseException as exc:
        raise NotReadable(f"it does not unpickle: {type(exc).__name__}: {exc}") from exc


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


def in_one_piece(payload: bytes | Packed) -> bytes:
    return payload if isinstance(payload, bytes) else bytes(payload.content(b""))


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
    return PackedFunction(_by_value(function, same_main, local)), False


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
    if type(value) in _PLAIN or isinstance(value, types.BuiltinFunctionType):
        return True
    if isinstance(value, types.ModuleType):
        return not travels_by_value(value.__name__)
    if isinstance(value, tuple | frozenset):
        return all(_is_constant(part) for part in value)
    if isinstance(value, type | types.FunctionType):
        return not travels_by_value(getattr(value, "__module__", None))
    return False
