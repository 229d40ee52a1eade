"""The lifelines that this process holds, each keeping one embedded server alive.

A lifeline is a named pipe in the server's directory. Its watcher waits for the pipe's end, which
comes when no process has it open for writing any more.
"""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

from pressure.server import files

_lock = threading.Lock()
_held: dict[Path, int] = {}  # path -> writing end

# What opening says when there is no server (any more), or nothing that we may hold.
_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ENXIO, errno.EACCES, errno.ELOOP}


def take(path: Path) -> bool:
    """Hold the lifeline at `path` from now on. False if no watcher has its other end.

    To do it again is harmless, and shows whether the server still lives.
    """
    # Without blocking: opening a pipe that nobody watches fails instead of waiting for a reader.
    # O_CLOEXEC (not so in forks): a stray daemon must not keep the server alive.
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except OSError as exc:
        if exc.errno in _NOT_THERE:
            return False
        raise
    with _lock:
        if path in _held:
            os.close(descriptor)
        else:
            _held[path] = descriptor
    return True


def release(path: Path, *, stop: bool = False) -> None:
    """Close this process's end, if it has one; with `stop`, also tell the watcher to end it all."""
    with _lock:
        descriptor = _held.pop(path, None)
    if descriptor is None:
        return
    try:
        if stop:
            os.write(descriptor, b".")
    except OSError:
        pass  # the watcher is gone already
    finally:
        os.close(descriptor)


def held(path: Path) -> int | None:
    """This process's writing end of the lifeline at `path`."""
    return _held.get(path)


def lifeline_fds() -> tuple[int, ...]:
    """The lifelines of this process, for the `pass_fds` of a subprocess that shall hold them too.

    A child that is forked has them without further ado.
    """
    with _lock:
        return tuple(_held.values())


def hold_lifeline(url: str) -> bool:
    """Keep the embedded server at `url` alive at least as long as this process lives.

    For processes that were neither forked by a holder nor given its descriptors. Returns False if
    `url` is not that of a running embedded server of this user on a unix socket.
    """
    directory = files.directory_of(url)
    return directory is not None and take(directory / files.LIFELINE)


def _renew_lock_in_child() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock_in_child)
