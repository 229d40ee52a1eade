"""The starter's side of the watcher: to run it, to hear from it, to wait for its end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress

from pressure.errors import ServerStartError
from pressure.server import watcher
from pressure.server.endpoint import Endpoint

START_TIMEOUT = 30.0
POLL_INTERVAL = 0.002
SECRETS = ("PRESSURE_URL", "PRESSURE_KEY")
"""Environment variables that neither the watcher nor the server needs."""


class Watcher(subprocess.Popen[bytes]):
    """The watcher process, as its starter sees it: a child that may outlive it on purpose.

    It has a session of its own, so that a Ctrl-C in the terminal does not reach it, and none of
    this process's descriptors, least of all the lifeline's writing end.
    """

    def __init__(self, lifeline: int, directory: str, command: list[str]) -> None:
        if not sys.executable:
            raise ServerStartError("sys.executable, the Python to run the watcher with, is not set")
        self.report, report = os.pipe()
        os.set_blocking(self.report, False)
        self.heard = b""
        try:
            super().__init__(
                [sys.executable, "-I", "-S", watcher.__file__, directory, *command],
                stdin=lifeline,
                stdout=report,
                stderr=report,
                start_new_session=True,
                env={name: value for name, value in os.environ.items() if name not in SECRETS},
            )
        except OSError as exc:
            os.close(self.report)
            raise ServerStartError(f"can't run {sys.executable}: {exc}") from exc
        finally:
            os.close(report)

    def __del__(self) -> None:
        # Popen's own warns of a child that still runs; here that is what a shared server does.
        # Ctrl-C may have come before it had one.
        if getattr(self, "pid", None) is not None and self.returncode is None:
            self.poll()

    def listen(self) -> bool:
        """Read what it has reported so far into `heard`. False when there will be no more."""
        ended = self.poll() is not None
        with suppress(BlockingIOError):
            while chunk := os.read(self.report, 4096):
                self.heard += chunk
            ended = True
        return not ended

    def end(self, timeout: float) -> bool:
        """Wait for its end. False if it ended, or had to be ended, before its job was done."""
        try:
            self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            self.wait()
        return self.returncode == 0


def await_answer(binary: str, watcher: Watcher, endpoint: Endpoint) -> int:
    """Wait until the server answers, and return its process id.

    Raises `ServerStartError` with the watcher's report if it ends first, or after 30 s.
    """
    deadline = time.monotonic() + START_TIMEOUT
    try:
        while True:
            running = watcher.listen()
            first, _, rest = watcher.heard.partition(b"\n")
            pid = int(first) if first.isdigit() else 0
            if pid and endpoint.answers(pid):
                return pid
            if not running:
                words = (rest if pid else watcher.heard).decode(errors="replace").strip()
                raise ServerStartError(f"{binary} did not start: {words or 'it gave no reason'}")
            if time.monotonic() > deadline:
                raise ServerStartError(f"{binary} did not answer within {START_TIMEOUT:g} s")
            time.sleep(POLL_INTERVAL)
    finally:
        os.close(watcher.report)
