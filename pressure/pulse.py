"""Whether an embedded server lives, for those who are its clients only.

Its lifeline (see `pressure.server`) is a pipe beside its socket. When nobody reads that any more,
the server is gone, and none will ever come back to this place.
"""

from __future__ import annotations

import errno
import os
import stat

__all__ = ["LIFELINE", "has_ended", "lifeline_beside"]

LIFELINE = "lifeline"


def lifeline_beside(socket_path: str) -> str:
    """The lifeline's path if the socket is an embedded server's; else the empty string."""
    path = os.path.join(os.path.dirname(socket_path), LIFELINE)
    try:
        return path if stat.S_ISFIFO(os.stat(path).st_mode) else ""
    except OSError:
        return ""


def has_ended(lifeline: str) -> bool:
    """Whether the server with this lifeline is gone for good. False if that can't be known."""
    try:
        # Without blocking: where nobody reads, this fails instead of waiting for a reader.
        os.close(os.open(lifeline, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as exc:
        return exc.errno in (errno.ENOENT, errno.ENXIO)
    return False
