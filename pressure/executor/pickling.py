"""Arguments and results to bytes and back.

What can be imported by the other side travels by name. What lives in `__main__`, in a notebook or
inside another function travels by value.
"""

from __future__ import annotations

import contextlib
import io
import pickle
from typing import Any

from pressure.copying import RefusedError, dumps_by_value
from pressure.executor.by_value import ALSO, MAIN, names_one
from pressure.executor.descriptors import LEAST, SUSPECT, NotPortableError, hand_over, only_once
from pressure.executor.errors import TaskTerminatedError, TaskTimeoutError
from pressure.executor.payloads import LARGE, Packed, large, loads, marked
from pressure.executor.reducers import registered

__all__ = [
    "PLAIN",
    "NotReadable",
    "dumps",
    "dumps_result",
    "in_one_piece",
    "loads",
    "pickled_by_value",
]

PROTOCOL = 5
INTERRUPTIONS = (TaskTimeoutError, TaskTerminatedError)
"""What may be raised anywhere in a task, also in the pickling of its result."""
REFUSALS = (NotPortableError, RefusedError, *INTERRUPTIONS)
"""What is raised as it is, whatever plain pickling says."""
PLAIN = {type(None), bool, int, float, complex, str, bytes}


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
    data = pickled_by_value(obj, same_main, local, buffers)
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


def pickled_by_value(
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
    if type(obj) in PLAIN:
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


def in_one_piece(payload: bytes | Packed) -> bytes:
    return payload if isinstance(payload, bytes) else bytes(payload.content(b""))
