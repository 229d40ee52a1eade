"""From a call to what travels of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pressure.content import Content
from pressure.executor.answers import Needed
from pressure.executor.options import Options
from pressure.executor.pickling import FunctionPacker
from pressure.executor.records import SHORT, pack_task, task_head
from pressure.executor.repeats import Arguments
from pressure.executor.sharing import Shelf

__all__ = ["TaskPacker"]


class TaskPacker:
    """Packs the tasks of one client; what it shares lies on its `shelf`."""

    def __init__(self, shelf: Shelf, *, same_main: bool) -> None:
        self._functions = FunctionPacker(same_main=same_main)
        self._arguments = Arguments(shelf)

    def pack(
        self, function: Callable[..., Any], args: Any, kwargs: dict[str, Any], options: Options
    ) -> tuple[bytes | Content, tuple[Needed, ...]]:
        """The record of a task, and what that needs beside it. Raises what pickling raises."""
        packed = self._functions.pack(function)
        arguments, shared = self._arguments.pack(args, kwargs)
        needs: tuple[Needed, ...] = (packed, *shared) if packed.stored else shared
        timeout, capture = options.timeout, options.capture_output
        if timeout is None and not capture and len(arguments) <= SHORT and type(arguments) is bytes:
            # As it mostly is.
            if not packed.head:
                packed.head = task_head(packed.reference, stored=packed.stored)
            return packed.head + arguments, needs
        record = pack_task(
            packed.reference,
            arguments,
            stored=packed.stored,
            limits=None if timeout is None else (timeout, options.grace),
            capture=capture,
        )
        return record, needs
