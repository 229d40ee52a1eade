"""Objects to bytes and back: what `codec=` may be."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any, Protocol

from pressure.copying import RefusedError, dumps_by_value
from pressure.python_versions import marked, unmarked

__all__ = ["RAW", "Serializer", "serializer_for"]

RAW = "raw"
_PROTOCOL = 5
_PLAIN = pickle.PROTO


class Serializer(Protocol):
    """What `codec=` takes besides a name: an object with `dumps` and `loads`."""

    def dumps(self, obj: Any, /) -> bytes: ...

    def loads(self, data: bytes, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class _Pickle:
    """Plain pickle, and cloudpickle only for what that can't do (lambdas, local classes)."""

    def dumps(self, obj: Any, /) -> bytes:
        try:
            return pickle.dumps(obj, _PROTOCOL)
        except (pickle.PicklingError, AttributeError, TypeError) as plain:
            try:
                return marked(dumps_by_value(obj))
            except RefusedError:
                raise
            except Exception:
                # The plain error is the one that users of the standard library know.
                raise plain from None

    def loads(self, data: bytes, /) -> Any:
        return pickle.loads(data if data[:1] == _PLAIN else unmarked(data))


class _Given:
    """One of the user's own. What it makes must be bytes: `json`, say, makes text."""

    def __init__(self, codec: Serializer) -> None:
        self._codec = codec
        self.loads = codec.loads

    def dumps(self, obj: Any, /) -> bytes:
        data: object = self._codec.dumps(obj)
        if not isinstance(data, bytes | bytearray | memoryview):
            kind = type(data).__name__
            raise TypeError(f"dumps() of codec {self._codec!r} returned {kind}, not bytes")
        return bytes(data)


def serializer_for(codec: str | Serializer) -> Serializer | None:
    """The serializer that `codec` names; None for raw bytes. Raises `ValueError`/`TypeError`."""
    if codec == RAW:
        return None
    if codec == "pickle":
        return _Pickle()
    if isinstance(codec, str):
        raise ValueError(f"unknown codec {codec!r}: use 'pickle', 'raw', or an object")
    if not callable(getattr(codec, "dumps", None)) or not callable(getattr(codec, "loads", None)):
        raise TypeError("a codec is 'pickle', 'raw', or an object with dumps() and loads()")
    return _Given(codec)
