"""The calls of a pool as they travel, and what a worker process does with one.

A pool on local processes pickles as `multiprocessing` does: what is in an importable module, or in
the script that was started, goes by name, so that a function sees the globals which the initializer
has set; and what only `multiprocessing` can pickle (connections, proxies of managers) goes, too.
Where that fails, and for daemons, it pickles as the executor does.
"""

from __future__ import annotations

import copyreg
import io
import itertools
import pickle
import traceback
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping
from multiprocessing import pool
from multiprocessing.reduction import ForkingPickler
from typing import Any

from pressure.executor import functions, pickling
from pressure.executor.by_value import shares_main

__all__ = [
    "Function",
    "MaybeEncodingError",
    "Outcome",
    "RemoteTraceback",
    "pack_call",
    "pack_chunk",
    "pack_function",
    "run",
    "unpack_outcome",
]

# What programs that use the standard library's pool look for. The stubs don't know them.
MaybeEncodingError: Any = vars(pool)["MaybeEncodingError"]
RemoteTraceback: Any = vars(pool)["RemoteTraceback"]

# Both grow when a program registers more.
_reducers: Any = ChainMap(vars(ForkingPickler)["_extra_reducers"], copyreg.dispatch_table)

PROTOCOL = pickle.DEFAULT_PROTOCOL
"""As `multiprocessing`. Before Python 3.14 that is 4: with 5, NumPy arrays that are read-only would
stay so, and small ones not own their data."""

Function = bytes | Callable[..., Any]
"""As `pack_function` gives it."""
Outcome = tuple[bool, Any]
"""Whether a call succeeded, and its result or exception."""


def pack_call(
    function: Callable[..., Any], args: Iterable[Any], kwargs: Mapping[str, Any], *, local: bool
) -> bytes:
    """Raises what pickling raises."""
    return _dumps((function, args, kwargs), local)


def pack_function(function: Callable[..., Any], *, local: bool) -> Function:
    """What `pack_chunk` needs of a function: made once for all chunks, unless it is a callable with
    a state, which the items may share."""
    return _dumps(function, local) if functions.stands_alone(function) else function


def pack_chunk(
    function: bytes | Callable[..., Any], items: tuple[Any, ...], *, starred: bool, local: bool
) -> bytes:
    """A call that gives the list of the results of `items`."""
    return _dumps((_run_starred if starred else _run_chunk, (function, items), {}), local)


def _dumps(obj: Any, local: bool) -> bytes:
    if local:
        try:
            return _dumps_as_multiprocessing(obj)
        except (pickle.PicklingError, AttributeError, TypeError) as plain:
            try:
                # Where the workers lack something of `__main__`, it goes by value all the same.
                same_main = shares_main("fork")
                packed = pickling.dumps(obj, local=True, same_main=same_main)
                return pickling.in_one_piece(packed)
            except Exception:
                raise plain from None
    return pickling.in_one_piece(pickling.dumps(obj))


def _dumps_as_multiprocessing(obj: Any) -> bytes:
    """What `ForkingPickler.dumps` does, without what it does each time."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, PROTOCOL)
    pickler.dispatch_table = _reducers
    pickler.dump(obj)
    return buffer.getvalue()


def _run_chunk(function: Function, items: tuple[Any, ...]) -> list[Any]:
    return list(map(_unpacked(function), items))


def _run_starred(function: Function, items: tuple[Any, ...]) -> list[Any]:
    return list(itertools.starmap(_unpacked(function), items))


def _unpacked(function: Function) -> Callable[..., Any]:
    return pickling.loads(function) if isinstance(function, bytes) else function


def run(payload: bytes, local: bool) -> bytes:
    """Run a call in a worker process. The outcome is pickled here and not by the worker, since a
    pool's rules are others than an executor's: what `multiprocessing` can't pickle is an error."""
    try:
        function, args, kwargs = pickling.loads(payload)
        result = function(*args, **kwargs)
    except BaseException as exc:
        return _pack_error(exc, local)
    try:
        return _pack_result((True, result), local)
    except BaseException as exc:
        return _pack_error(MaybeEncodingError(exc, result), local, with_traceback=False)


def _pack_result(outcome: Any, local: bool) -> bytes:
    if local:
        return _dumps_as_multiprocessing(outcome)
    return pickling.in_one_piece(pickling.dumps_result(outcome))


def _pack_error(exc: BaseException, local: bool, *, with_traceback: bool = True) -> bytes:
    text = ""
    if with_traceback:
        text = "".join(traceback.format_exception(type(exc), exc, exc.__traceback__))
    try:
        data = _pack_result((False, (exc, text)), local)
        # Many an exception can be pickled and not be made again.
        pickling.loads(data)
    except BaseException as failure:
        return pickle.dumps((False, (MaybeEncodingError(failure, exc), text)), PROTOCOL)
    return data


def unpack_outcome(data: bytes) -> Outcome:
    """Raises what unpickling raises."""
    success, value = pickling.loads(data)
    if success:
        return True, value
    exc, text = value
    if text:
        exc.__cause__ = RemoteTraceback(f'\n"""\n{text}"""')
    return False, exc
