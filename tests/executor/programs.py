"""Running `pressure-worker`s, and what they say."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.executor.crews import ROOT
from tests.support.waiting import eventually

__all__ = ["Program", "program"]

PATIENCE = 40.0
COMMAND = [sys.executable, "-c", "from pressure.executor.cli import main; main()"]


class Program:
    """A running `pressure-worker`, and what it said. `wrapper` is a command that runs it."""

    def __init__(
        self,
        *arguments: str,
        env: dict[str, str] | None = None,
        wrapper: Sequence[str] = (),
        cwd: Path | None = None,
    ) -> None:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            [*wrapper, *COMMAND, *arguments],
            env={**os.environ, "PYTHONPATH": path, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=cwd,
        )
        self.output = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line

    def says(self, text: str) -> bool:
        return eventually(lambda: text in self.output, PATIENCE)

    def workers_told(self) -> int:
        """How often a worker has written its stacks. (None of its threads is the current one if
        the signal came to one that was just being started.) What two of them write at once may be
        mixed in the midst of a word, so the words that stand there once are counted each."""
        once = (r"in work\b", r"in _launch\b", r"in _Popen\b")
        return max(len(re.findall(word, self.output)) for word in once)

    def wait(self) -> int:
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def children(self) -> list[int]:
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in found.split()]

    def close(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.contextmanager
def program(*arguments: str, **options: Any) -> Iterator[Program]:
    """One that is killed at the end, if it hasn't ended by then."""
    running = Program(*arguments, **options)
    try:
        yield running
    finally:
        running.close()
        # Shown if the test fails.
        print(running.output)
