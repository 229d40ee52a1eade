"""Pickles as they travel: what is large beside them, what must fit the reader's Python marked.

The first byte tells which kind it is: 0x80 begins a pickle as it is; `V` comes before one that
holds code by value, with the Python version that can run it; `B` before one whose large buffers (of
a NumPy array, say) follow out of band, each aligned, so that no one copies them.
"""

from __future__ import annotations

import pickle
import struct
from typing import Any

from pressure.content import ALIGNMENT, Buffer, Content, copy_of
from pressure.python_versions import PythonVersionError, marked, unmarked

__all__ = ["LARGE", "Packed", "PythonVersionError", "joined", "large", "loads", "marked"]

LARGE = 64 * 1024
"""From this size on buffers go out of band, and a body is no longer copied together. Bodies of this
size are received into memory of their own, so that what is made of a buffer is writable."""
_PICKLE = 0x80
_BUFFERS = b"B"
_HEAD = struct.Struct(">cIQ")
_ENTRY = struct.Struct(">QQ?")


class Packed:
    """A pickle, and the buffers that belong to it."""

    __slots__ = ("buffers", "data")

    def __init__(self, data: bytes, buffers: list[memoryview]) -> None:
        self.data = data
        self.buffers = buffers

    def __len__(self) -> int:
        return len(self.data) + sum(buffer.nbytes for buffer in self.buffers)

    def settled(self) -> Packed:
        """One that later changes of the objects don't reach."""
        copies = []
        for buffer in self.buffers:
            copy = copy_of(buffer)
            copies.append(copy.toreadonly() if buffer.readonly else copy)
        return Packed(self.data, copies)

    def content(self, head: bytes) -> Content:
        """As it travels, after `head`."""
        parts: list[Buffer] = []
        table = []
        at = len(head) + _HEAD.size + _ENTRY.size * len(self.buffers) + len(self.data)
        for buffer in self.buffers:
            padding = -at % ALIGNMENT
            at += padding
            table.append(_ENTRY.pack(at - len(head), buffer.nbytes, buffer.readonly))
            parts += (bytes(padding), buffer)
            at += buffer.nbytes
        start = _HEAD.pack(_BUFFERS, len(self.buffers), len(self.data))
        return Content([b"".join((head, start, *table, self.data)), *parts])

    def load(self) -> Any:
        """The object again; its buffers are shared with the first one."""
        return pickle.loads(unmarked(self.data), buffers=self.buffers)


def large(buffers: list[pickle.PickleBuffer], least: int = LARGE) -> list[memoryview]:
    """What was pickled out of band, if it is worth that; if it is not, nothing: then it is to be
    pickled once more, in one piece."""
    try:
        raw = [buffer.raw() for buffer in buffers]
    except BufferError:
        return []
    return raw if sum(buffer.nbytes for buffer in raw) >= least else []


def joined(head: bytes, payload: bytes | Packed) -> bytes | Content:
    """A record: its head, and its payload."""
    if type(payload) is Packed:
        return payload.content(head)
    assert type(payload) is bytes
    return head + payload if len(payload) < LARGE else Content([head, payload])


def loads(data: Buffer, *, shared: bool = False) -> Any:
    """What was pickled. What was writable is so again, also if the data aren't; unless it is to be
    `shared`. Raises what unpickling raises, and `PythonVersionError`."""
    if data[0] == _PICKLE:
        return pickle.loads(data)
    if data[:1] != _BUFFERS:
        return pickle.loads(unmarked(data))
    view = memoryview(data)
    _, count, length = _HEAD.unpack_from(view)
    start = _HEAD.size + _ENTRY.size * count
    buffers = []
    for index in range(count):
        offset, size, readonly = _ENTRY.unpack_from(view, _HEAD.size + _ENTRY.size * index)
        buffer = view[offset : offset + size]
        if readonly:
            buffer = buffer.toreadonly()
        elif view.readonly and not shared:
            buffer = copy_of(buffer)
        buffers.append(buffer)
    return pickle.loads(unmarked(view[start : start + length]), buffers=buffers)
