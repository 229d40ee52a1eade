"""Connections and sockets in what is pickled.

Plain pickling makes of a `multiprocessing` connection the number of its descriptor, which means
something else in every other process; a socket it refuses. Between processes of one program both
are handed over as `multiprocessing` does it: a thread of the process that has pickled them passes
each descriptor on, once. Where nobody could fetch them, they are refused.
"""

from __future__ import annotations

import contextlib
import copyreg
import io
import os
import pickle
import socket
import time
from collections import ChainMap
from collections.abc import Callable
from multiprocessing import connection, resource_sharer
from typing import Any, NamedTuple, NoReturn

from pressure.bundles import ONCE
from pressure.copying import TABLE, CopyingPickler, SameMainPickler
from pressure.executor.reducers import KNOWN, registered

__all__ = [
    "LEAST",
    "SUSPECT",
    "Handed",
    "NotPortableError",
    "await_fetched",
    "hand_over",
    "only_once",
]

SUSPECT = connection.__name__.encode()
"""Only a pickle that has this can have a connection's bare number in it."""
LEAST = 64
"""And only if it has more bytes than this: that is quicker to see."""
_LENT = __name__.encode()
_PROTOCOL = 5
_PAUSE = 0.01

_sharer: Any = vars(resource_sharer)["_resource_sharer"]


class NotPortableError(TypeError):
    """A connection or socket was to go where it can't be had."""


class Lent(resource_sharer.DupFd):
    """A descriptor at the other side, not yet fetched."""

    def detach(self) -> int:
        try:
            return super().detach()
        except Exception as exc:
            raise LookupError(
                "a connection or socket can be handed over only once, and only while the process "
                f"that it comes from lives ({type(exc).__name__}: {exc})"
            ) from exc


def _lent() -> Lent:
    return Lent.__new__(Lent)


class Handed(NamedTuple):
    """A pickle, and the descriptors that who unpickles it fetches. They stay open until then."""

    data: bytes
    lent: list[resource_sharer.DupFd]

    def take_back(self) -> None:
        """Close the descriptors: nobody will unpickle this."""
        for one in self.lent:
            with contextlib.suppress(Exception):
                os.close(one.detach())


def hand_over(
    obj: Any,
    *,
    by_value: bool = False,
    same_main: bool = False,
    local: bool,
    buffer_callback: Callable[[pickle.PickleBuffer], object] | None = None,
) -> Handed:
    """Pickle for another process of this program (`local`). For any other the pickle is as plain
    as without this, but what would have to be handed over raises `NotPortableError`. What the
    program has registered is heeded. `same_main` is as for `dumps_by_value`.

    Raises what pickling raises.
    """
    buffer = io.BytesIO()
    handed = Handed(b"", [])

    def lend(one: resource_sharer.DupFd) -> tuple[Any, ...]:
        handed.lent.append(one)
        return _lent, (), vars(one)

    special: dict[type, Any] = {resource_sharer.DupFd: lend} if local else _REFUSED
    try:
        if by_value:
            table = ChainMap(special, registered(), TABLE, KNOWN if local else {})
            kind = SameMainPickler if same_main else CopyingPickler
            kind(buffer, table, buffer_callback).dump(obj)
        else:
            # All else that `multiprocessing` knows can be pickled without it, or not by name.
            more = {kind: KNOWN[kind] for kind in _REFUSED if local and kind in KNOWN}
            pickler = pickle.Pickler(buffer, _PROTOCOL, buffer_callback=buffer_callback)
            others: Any = copyreg.dispatch_table
            pickler.dispatch_table = ChainMap(special, registered(), more, others)
            pickler.dump(obj)
    except BaseException:
        handed.take_back()
        raise
    return handed._replace(data=buffer.getvalue())


def only_once(data: bytes) -> bool:
    """Whether a pickle may be one that can be unpickled only once."""
    return _LENT in data or ONCE in data


def await_fetched(timeout: float) -> None:
    """Wait until others have fetched all that this process has handed over."""
    until = time.monotonic() + timeout
    while getattr(_sharer, "_cache", None) and time.monotonic() < until:
        time.sleep(_PAUSE)


def _refuse(obj: Any) -> NoReturn:
    if isinstance(obj, resource_sharer.DupFd):
        # A registered reducer has just made it.
        Handed(b"", [obj]).take_back()
    raise NotPortableError(
        f"a {type(obj).__name__} belongs to one machine and one process, so it can't be shared, "
        "and workers that may be on other machines can't have it: give tasks a "
        "pressure.multiprocessing.Queue instead, or let an executor without a url run them"
    )


_REFUSED: dict[type, Any] = {
    kind: _refuse
    for kind in (socket.socket, resource_sharer.DupFd, *vars(connection).values())
    if isinstance(kind, type)
    and kind.__module__ in (socket.__name__, resource_sharer.__name__, connection.__name__)
}
