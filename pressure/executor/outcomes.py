"""What came of a task, as it travels: never something that its client could not read."""

from __future__ import annotations

import json
import traceback
from typing import Any

from pressure.executor import pickling
from pressure.executor.payloads import Packed
from pressure.executor.records import Kind

__all__ = ["broken", "pack_exception", "pack_result", "say"]


_NONE = pickling.dumps(None)


def pack_result(result: Any, *, local: bool = False) -> tuple[Kind, bytes | Packed]:
    if result is None:
        return Kind.RESULT, _NONE
    try:
        return Kind.RESULT, pickling.dumps_result(result, local=local)
    except pickling.NotReadable as exc:
        return broken(f"the result cannot travel: {exc}")
    except BaseException as exc:
        return pack_exception(exc, local=local)


def pack_exception(exc: BaseException, *, local: bool = False) -> tuple[Kind, bytes | Packed]:
    """An exception with its traceback as text; of one that does not pickle, what can be said."""
    try:
        text = "".join(traceback.format_exception(type(exc), exc, exc.__traceback__))
    except Exception as failure:
        # It asks the exception for much.
        text = f"{type(exc).__name__}, whose traceback can't be had: {say(failure)}\n"
    try:
        packed = pickling.dumps_result(exc.with_traceback(None), local=local)
        data = pickling.in_one_piece(packed)
        return Kind.ERROR, pickling.in_one_piece(pickling.dumps((text, data)))
    except BaseException as failure:
        if isinstance(failure, pickling.NotReadable):
            why = f"{failure}; pass all that its __init__ needs on to super().__init__()"
        else:
            why = f"{say(failure)}; raise it with arguments and attributes that can be pickled"
        if type(exc).__module__ != "builtins":
            why += f", or give {type(exc).__name__} a __reduce__"
        return broken(f"the task raised {say(exc)}, which cannot travel: {why}", text)


def broken(error: str, text: str = "") -> tuple[Kind, bytes]:
    """There is an outcome, and it can't be had."""
    return Kind.BROKEN, json.dumps({"error": error, "traceback": text}).encode()


def say(exc: BaseException) -> str:
    try:
        return f"{type(exc).__name__}: {exc}"
    except Exception:
        return type(exc).__name__
