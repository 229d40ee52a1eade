"""Tells the service manager how the daemon is getting on (`sd_notify(3)`)."""

from __future__ import annotations

import contextlib
import os
import socket
import time

__all__ = ["ServiceManager"]


class ServiceManager:
    """Whoever started this process and wants to be told; if nobody does, nothing is done.

    Takes the variables out of the environment, since they don't concern the workers.
    """

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            # A name that is no file.
            self._address = "\0" + self._address[1:]
        wanted = os.environ.pop("WATCHDOG_USEC", "")
        pid = os.environ.pop("WATCHDOG_PID", "")
        concerned = wanted.isdigit() and pid in ("", str(os.getpid()))
        self.interval = int(wanted) / 2e6 if concerned else float("inf")
        """How often (seconds) it wants to hear that this process is alive."""
        self._due = 0.0

    def ready(self, status: str) -> None:
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """To be followed by `ready`."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._tell("STOPPING=1")

    def alive(self) -> None:
        """Call this often."""
        now = time.monotonic()
        if now >= self._due and self.interval < float("inf"):
            self._due = now + self.interval / 2
            self._tell("WATCHDOG=1")

    def _tell(self, *lines: str) -> None:
        if self._address:
            with (
                contextlib.suppress(OSError),
                socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify,
            ):
                # It must not hold up this process.
                notify.setblocking(False)
                notify.sendto("\n".join(lines).encode(), self._address)
