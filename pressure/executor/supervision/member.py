"""One worker process, as its supervisor sees it."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
from collections import deque
from multiprocessing.connection import wait as wait_for_any
from typing import Any

from pressure.executor.notes import Notes, Snapshot
from pressure.executor.supervision.logs import Sink

__all__ = ["SCARCE", "Member", "describe_exit", "ended_well", "signal_name"]

log = logging.getLogger("pressure.worker")

STDERR_LINES = 40
SCARCE = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC}
"""What can't be started since processes, memory, descriptors or space ran out can be later."""


class Member:
    """`stderr` is the end of the pipe that the process's stderr goes to, `started` when it was
    started (monotonic)."""

    def __init__(
        self,
        process: Any,
        notes: Notes,
        started: float,
        stderr: int,
        sink: Sink,
    ) -> None:
        self.process = process
        self.pid = int(process.pid or 0)
        self.notes = notes
        self.started = started
        self.stderr = stderr
        self.asked = False
        """Whether it was told to stop."""
        self.idle_since: float | None = None
        """Since when it is known to run nothing, once it was told to stop."""
        self.killed = False
        """Whether it was killed since its supervisor is to end."""
        self.why = ""
        """Why it was killed, if its supervisor did that for a reason of the process's own."""
        self._sink = sink
        self._stood_still = False
        self._tail: deque[str] = deque(maxlen=STDERR_LINES)
        self._partial = b""
        self._descriptor = -1
        with contextlib.suppress(OSError, AttributeError):
            # The sentinel of `multiprocessing` outlives a process whose own children hold it.
            self._descriptor = os.pidfd_open(self.pid)
        self.sentinel: int = process.sentinel if self._descriptor < 0 else self._descriptor
        """Becomes readable when the process is dead."""

    def stands_still(self) -> bool:
        """Whether it was stopped (SIGSTOP) and does not go on. Where the system has no `/proc`
        nobody can tell: then no."""
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:
                # Behind the name of the program, which is in brackets and may have any in it.
                stopped = file.read().rpartition(b")")[2].split()[0] == b"T"
        except (OSError, IndexError):
            stopped = False
        if stopped and not self._stood_still:
            log.warning(
                "worker %s is stopped: others get its tasks when its lease ends, unless it goes on",
                self.pid,
            )
        self._stood_still = stopped
        return stopped

    def forward_stderr(self) -> bool:
        """Pass on what it wrote to stderr, and keep its last lines. False at its end."""
        try:
            data = os.read(self.stderr, 65536)
        except OSError:
            data = b""
        if not data:
            self._close_stderr()
            return False
        self._sink(self.pid, data)
        *lines, self._partial = (self._partial + data).split(b"\n")
        self._tail.extend(line.decode(errors="replace") for line in lines)
        return True

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, TypeError):
            os.kill(self.pid, number)

    def ask_to_stop(self) -> None:
        """Let it finish what it runs. Once."""
        if not self.asked:
            self.asked = self.notes.asked = True
            self.signal(signal.SIGTERM)

    def bury(self, *, group: bool) -> list[str]:
        """It is dead: release what it had, but its notes, and return its last lines. With `group`,
        what it has started and not ended is killed."""
        if group:
            # Before its number is anybody else's.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        self.process.join()
        while self.stderr >= 0 and wait_for_any([self.stderr], 0):
            if not self.forward_stderr():
                break
        if self.stderr >= 0:
            self._close_stderr()
        if self._partial:
            self._tail.append(self._partial.decode(errors="replace"))
        if self._descriptor >= 0:
            os.close(self._descriptor)
        return list(self._tail)

    def _close_stderr(self) -> None:
        os.close(self.stderr)
        self.stderr = -1
        self._sink(self.pid, b"")


def ended_well(code: int | None, snapshot: Snapshot, *, told: bool) -> bool:
    """Whether a process has ended as it may. One that does so before it was ready (its initializer
    may have called `exit`) would do it again and again. `told`: it was to stop."""
    if snapshot.task is not None:
        # Also with exit code 0: the task has called `os._exit`.
        return False
    return told or (code == 0 and snapshot.ready)


def signal_name(code: int | None) -> str | None:
    """The name of the signal that an exit code of `multiprocessing` stands for."""
    if code is None or code >= 0:
        return None
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def describe_exit(code: int | None) -> str:
    if code is None:
        return "its exit code is unknown"
    return signal_name(code) or f"exit code {code}"
