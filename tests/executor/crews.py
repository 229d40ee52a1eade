"""Executors with workers, in both modes: processes of this one, or a daemon."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pressure.executor import RedisExecutor

ROOT = Path(__file__).resolve().parents[2]
MODES = ("local", "daemon")
PATIENCE = 15.0
"""Seconds after which a test counts as hung."""


@contextlib.contextmanager
def daemon(url: str, queue: str, processes: int) -> Iterator[subprocess.Popen[bytes]]:
    """A `pressure-worker`, which can import the tests."""
    command = "from pressure.executor.cli import main; main()"
    arguments = [url, "--queue", queue, "--processes", str(processes), "--grace", "5"]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-c", command, *arguments], env=os.environ | {"PYTHONPATH": path}, cwd=ROOT
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
            raise


@contextlib.contextmanager
def executor(
    mode: str, url: str, queue: str, workers: int, **settings: Any
) -> Iterator[RedisExecutor]:
    """An executor with so many workers; at the end it is shut down, and what waits is cancelled."""
    with contextlib.ExitStack() as stack:
        if mode == "daemon":
            stack.enter_context(daemon(url, queue, workers))
            made = RedisExecutor(url=url, queue=queue, **settings)
        else:
            made = RedisExecutor(workers, **settings)
        try:
            yield made
        finally:
            made.shutdown(wait=False, cancel_futures=True)
            if made.stats().running or not ended(made):
                # A test has failed (which ends pytest's own time limit), and what still runs would
                # hold up the end.
                made.kill_workers()
            assert ended(made)


def ended(executor: RedisExecutor) -> bool:
    """Whether all is done, and nothing is left behind, before long."""
    executor._engine.wait(PATIENCE)
    return executor._engine._ended.is_set() or not executor._engine._started
