"""Large bodies in several pieces, and the memory that they are received into."""

from __future__ import annotations

import contextlib
import mmap
import sys
from collections.abc import Iterable

__all__ = ["ALIGNMENT", "Buffer", "Content", "copy_of", "room"]

ALIGNMENT = 64
"""Numbers in buffers are aligned to so many bytes, as numeric libraries like it."""
MAPPED_BYTES = 1024 * 1024
"""From this size on memory is mapped, in huge pages where there are some: to touch new memory page
by page takes several times as long as to fill it."""

Buffer = bytes | bytearray | memoryview


class Content:
    """Bytes that lie in several buffers, which must not change any more."""

    __slots__ = ("_parts", "_size")

    def __init__(self, parts: Iterable[Buffer]) -> None:
        self._parts = [memoryview(part).cast("B") for part in parts]
        self._size = sum(part.nbytes for part in self._parts)

    def __len__(self) -> int:
        return self._size

    def __bytes__(self) -> bytes:
        return b"".join(self._parts)

    def joined(self) -> memoryview:
        """A copy in one piece, in writable memory."""
        joined = room(self._size)
        at = 0
        for part in self._parts:
            joined[at : at + part.nbytes] = part
            at += part.nbytes
        return joined

    def pieces(self, most: int) -> list[Buffer]:
        """All of it in pieces of `most` bytes, the last of which may be shorter. A piece is copied
        only where it comes from more than one buffer."""
        pieces: list[Buffer] = []
        begun: list[memoryview] = []
        size = 0
        for part in self._parts:
            at = 0
            while at < part.nbytes:
                taken = part[at : at + most - size]
                at += taken.nbytes
                size += taken.nbytes
                begun.append(taken)
                if size == most:
                    pieces.append(begun[0] if len(begun) == 1 else b"".join(begun))
                    begun, size = [], 0
        if begun:
            pieces.append(begun[0] if len(begun) == 1 else b"".join(begun))
        return pieces


def room(size: int) -> memoryview:
    """Writable memory of this size, aligned. It is freed when the last view of it is gone."""
    if size < MAPPED_BYTES or sys.platform == "win32":
        return memoryview(bytearray(size))
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        # Some kernels have none.
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)


def copy_of(buffer: Buffer) -> memoryview:
    """A copy that later changes of the original don't reach."""
    copy = room(len(buffer))
    copy[:] = buffer
    return copy
