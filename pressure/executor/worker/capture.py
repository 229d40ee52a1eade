"""What a task prints and logs, kept for its client."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

from pressure.executor.coroutines import CoroutineType, completed

__all__ = ["MOST_OUTPUT", "Captured"]

MOST_OUTPUT = 256 * 1024
"""How many bytes of a task's output are kept: half from its beginning, half from its end."""
_FORMAT = logging.Formatter("%(levelname)s:%(name)s:%(message)s")


class _Clipped(io.BytesIO):
    """Keeps the beginning and the end of what is written."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._tail = bytearray()
        self._left_out = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        room = MOST_OUTPUT // 2 - len(self._head)
        self._head += view[:room]
        self._tail += view[room:]
        if len(self._tail) > MOST_OUTPUT:
            self._clip()
        return view.nbytes

    def _clip(self) -> None:
        surplus = len(self._tail) - MOST_OUTPUT // 2
        if surplus > 0:
            self._left_out += surplus
            del self._tail[:surplus]

    def kept(self) -> bytes:
        self._clip()
        if not self._left_out:
            return bytes(self._head + self._tail)
        gap = f"\n[... {self._left_out:,} bytes left out ...]\n".encode()
        return bytes(self._head + gap + self._tail)


class _Handler(logging.Handler):
    def __init__(self, stream: io.TextIOBase) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._stream.write(_FORMAT.format(record) + "\n")
        except Exception:
            self.handleError(record)


class Captured:
    """A function which, while it runs, has its output to `sys.stdout` and `sys.stderr` and its log
    records (of the levels that are enabled) put into `output` (UTF-8) instead."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.output = b""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        kept = _Clipped()
        stream = io.TextIOWrapper(
            kept,
            encoding="utf-8",
            errors="backslashreplace",
            newline="\n",
            write_through=True,
        )
        handler = _Handler(stream)
        root = logging.getLogger()
        root.addHandler(handler)
        try:
            with redirect_stdout(stream), redirect_stderr(stream):
                result = self._function(*args, **kwargs)
                return completed(result) if type(result) is CoroutineType else result
        finally:
            root.removeHandler(handler)
            self.output = kept.kept()
