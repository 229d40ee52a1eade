"""Code that travels by value, marked with the version of Python that can run it.

Code objects of one version make another one fail in the middle of something, or crash.
"""

from __future__ import annotations

import sys

__all__ = ["PythonVersionError", "marked", "unmarked"]

_PICKLE = 0x80
_BY_VALUE = b"V"
_HERE = bytes(sys.version_info[:2])

Buffer = bytes | bytearray | memoryview


class PythonVersionError(ValueError):
    """Code that was sent by value comes from another version of Python."""


def marked(data: bytes) -> bytes:
    """A pickle that holds code by value, which only this version of Python can run."""
    return _BY_VALUE + _HERE + data


def unmarked(data: Buffer) -> Buffer:
    """The pickle itself. Raises `PythonVersionError`; `ValueError` if it is none."""
    if len(data) and data[0] == _PICKLE:
        return data
    view = memoryview(data)
    if view[:1] != _BY_VALUE or len(view) < 3:
        raise ValueError("it is no pickle")
    if view[1:3] != _HERE:
        theirs, ours = ("{}.{}".format(*version) for version in (view[1:3], _HERE))
        raise PythonVersionError(
            f"it holds code by value that was made by Python {theirs}, and this is Python {ours}: "
            "run the same version on both sides, or move the code to a module that is installed "
            "on both"
        )
    return view[3:]
