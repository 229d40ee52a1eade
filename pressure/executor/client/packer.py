"""From a call to what travels of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pressure.content import Content
from pressure.executor.client.futures import Needed
from pressure.executor.client.mapping import run_call
from pressure.executor.client.options import Options
from pressure.executor.client.repeats import Arguments
from pressure.executor.descriptors import only_once
from pressure.executor.functions import FunctionPacker, PackedFunction, stands_alone
from pressure.executor.payloads import Packed
from pressure.executor.records import SHORT, pack_task, task_head
from pressure.executor.sharing import Entry, Shelf

__all__ = ["TaskPacker"]

TOGETHER_BYTES = 16 * 1024
"""Callables with state that are no larger travel with the arguments of each call."""


class TaskPacker:
    """Packs the tasks of one client; what it shares lies on its `shelf`."""

    def __init__(self, shelf: Shelf, *, same_main: bool) -> None:
        self._functions = FunctionPacker(same_main=same_main, local=shelf.local)
        self._arguments = Arguments(shelf)

    def pack(
        self, function: Callable[..., Any], args: Any, kwargs: dict[str, Any], options: Options
    ) -> tuple[bytes | Content, tuple[Needed, ...]]:
        """The record of a task, and what that needs beside it. Raises what pickling raises."""
        if stands_alone(function):
            packed = self._functions.pack(function)
            arguments, shared = self._arguments.pack(args, kwargs)
        else:
            packed, arguments, shared = self._pack_stateful(function, args, kwargs)
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

    def _pack_stateful(
        self, function: Callable[..., Any], args: Any, kwargs: dict[str, Any]
    ) -> tuple[PackedFunction, bytes | Packed, tuple[Entry, ...]]:
        """A callable goes along with its arguments: objects that occur in both are one object in
        the task, too. Unless it is large, for then it is sent once for many tasks."""
        packed = self._functions.pack(function)
        # What can be had only once would be lent twice.
        if len(packed.data) > TOGETHER_BYTES or only_once(packed.data):
            return packed, *self._arguments.pack(args, kwargs)
        return self._functions.pack(run_call), *self._arguments.pack((function, *args), kwargs)
