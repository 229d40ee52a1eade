"""Pickling by value, with cloudpickle, what plain pickle can't. Open files are refused.

cloudpickle takes an open text file for its contents: the other side would get an `io.StringIO`, and
what it writes there would be lost.
"""

from __future__ import annotations

import io
import sys
from collections import ChainMap
from collections.abc import Callable
from typing import Any

import cloudpickle

__all__ = ["TABLE", "CopyingPickler", "RefusedError", "dumps_by_value"]

_PROTOCOL = 5


class RefusedError(TypeError):
    """What belongs to one process was to be pickled. This is said, whatever else plain pickle may
    have stumbled over before."""


def _refuse(file: io.TextIOWrapper) -> Any:
    for name in ("stdout", "stderr"):
        if file is getattr(sys, name, None):
            return getattr, (sys, name)
    raise RefusedError(
        "cannot pickle '_io.TextIOWrapper' object: an open file belongs to one process; "
        "pass its path instead"
    )


TABLE: Any = ChainMap({io.TextIOWrapper: _refuse}, cloudpickle.Pickler.dispatch_table)
"""What is pickled by functions of its own. It grows when a program registers more."""


class CopyingPickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle's, with this one difference."""

    def __init__(
        self,
        file: io.BytesIO,
        table: Any = None,
        buffer_callback: Callable[[Any], object] | None = None,
    ) -> None:
        # It is looked for only once, when a pickler is made.
        self.dispatch_table = TABLE if table is None else table
        super().__init__(file, _PROTOCOL, buffer_callback)


def dumps_by_value(obj: Any, buffer_callback: Callable[[Any], object] | None = None) -> bytes:
    """As `cloudpickle.dumps`. Raises what pickling raises, and `RefusedError`."""
    file = io.BytesIO()
    CopyingPickler(file, buffer_callback=buffer_callback).dump(obj)
    return file.getvalue()
