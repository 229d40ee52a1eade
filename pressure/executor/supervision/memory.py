"""How much memory a process uses, how much it may use, and sizes as people write them."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable

from pressure.executor.supervision.member import Member

__all__ = ["Scales", "parse_size", "rss", "shown_size"]

log = logging.getLogger("pressure.worker")

FATAL = 2
"""So many times the limit costs a process its life at once."""
WEIGH = 0.2 if sys.platform.startswith("linux") else 2.0
"""Seconds between two looks."""

_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:I?B)?", re.IGNORECASE)
_LINUX = sys.platform.startswith("linux")


def parse_size(text: str) -> int:
    """The bytes that "500M", "1.5 GiB" or "4096" stand for: K is 1024 bytes, and so on.

    Raises `ValueError`.
    """
    match = _SIZE.fullmatch(text.strip())
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if not size:
        raise ValueError(f"{text!r} is no size: write 500M, 2G, or bytes")
    return size


def shown_size(size: int) -> str:
    """For people: "1.5 GiB"."""
    value = float(size)
    for unit in ("bytes", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def rss(pid: int) -> int | None:
    """How many bytes of memory a process has resident; None if it is gone, or nobody can say.

    What it shares with the process that forked it counts in full.
    """
    try:
        if _LINUX:
            with open(f"/proc/{pid}/statm", "rb") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        said = subprocess.run(
            ["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, timeout=5, check=True
        )
        return int(said.stdout) * 1024
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return None


class Scales:
    """Sees to it that worker processes don't use more than `limit` bytes of memory.

    One that uses more is replaced when it has finished its task; one whose task makes it use more
    than twice as much is killed at once. Nobody is replaced before its first task: its successor
    would use as much.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._due = 0.0

    def weigh(self, members: Iterable[Member]) -> float:
        """Look at all, if it is time to. Returns for how long that may wait then (seconds)."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + WEIGH
            for member in members:
                self._weigh_one(member)
        return self._due - now

    def _weigh_one(self, member: Member) -> None:
        snapshot = member.notes.read()
        if snapshot.task is None and not snapshot.done:
            return
        size = rss(member.pid) or 0
        if size > FATAL * self._limit and snapshot.task is not None:
            if not member.why:
                member.why = (
                    f"it used {shown_size(size)} of memory, more than twice its limit of "
                    f"{shown_size(self._limit)}, and was killed"
                )
                member.signal(signal.SIGKILL)
        elif size > self._limit and not member.asked:
            log.info(
                "worker %d uses %s of memory, more than %s: it is replaced after its task",
                member.pid,
                shown_size(size),
                shown_size(self._limit),
            )
            member.ask_to_stop()
