"""How a peer's module is run: it starts its workers, then measures what it is asked to.

    python -m benchmarks.peers.NAME --url URL --tasks N --single N [--workers 2]

prints one line of JSON: `rate` (no-op tasks per second, submit all, then gather all) and `single`
(the seconds of one submit and its result, each alone, sorted).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Pool(NamedTuple):
    """`many(n)` submits n no-op tasks and then gathers them all; `one()` does so with one."""

    many: Callable[[int], object]
    one: Callable[[], object]


def main(pool: Callable[[str, int], AbstractContextManager[Pool]]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", default="")
    parser.add_argument("--tasks", type=int, default=500)
    parser.add_argument("--single", type=int, default=50)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with pool(arguments.url, arguments.workers) as peer:
        # What is done for the first time is not what is measured.
        peer.one()
        peer.many(min(arguments.tasks, 50))
        single = sorted(timed(peer.one) for _ in range(arguments.single))
        rate = arguments.tasks / timed(lambda: peer.many(arguments.tasks))
    print(json.dumps({"rate": rate, "single": single}), flush=True)


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@contextlib.contextmanager
def processes(
    command: list[str], *, count: int = 1, environment: dict[str, str] | None = None
) -> Iterator[None]:
    """Worker processes, ended with all of their own children. What they say is shown if one ends
    before its time."""
    # A path to a program of this environment, whichever that is.
    program = str(Path(sys.executable).parent / command[0])
    env = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
    with tempfile.TemporaryFile() as log:
        started: list[subprocess.Popen[Any]] = []
        try:
            for _ in range(count):
                started.append(
                    subprocess.Popen(
                        [program, *command[1:]],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        env=env,
                        start_new_session=True,
                    )
                )
            yield
        finally:
            ended = [process.poll() is not None for process in started]
            for process in started:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
            for process in started:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(5)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait(5)
            if any(ended):
                log.seek(0)
                sys.stderr.write(log.read().decode(errors="replace")[-2000:])
