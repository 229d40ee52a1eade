"""The real program in a process of its own, which ends with the test."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner

import pressure.cli
from pressure import PressureQueue
from tests.support import acl

LIMIT = 30.0
"""No wait in these tests takes longer (seconds), whatever goes wrong."""

Program = Callable[..., "subprocess.Popen[bytes]"]


def finish(process: subprocess.Popen[bytes], stdin: bytes | None = None) -> tuple[int, bytes, str]:
    """Exit code, stdout, and stderr, once the process has ended by itself."""
    out, err = process.communicate(stdin, timeout=LIMIT)
    text = err.decode()
    assert "Traceback" not in text, text
    return process.returncode, out, text


@pytest.fixture
def program(url: str, namespace: str) -> Iterator[Program]:
    """Starts `pressure` with these arguments; server and prefix are in its environment."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, argv: tuple[str, ...] = (), **env: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [*(argv or (sys.executable, "-m", "pressure")), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
                "PRESSURE_URL": url,
                "PRESSURE_PREFIX": namespace,
                **env,
            },
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait(LIMIT)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


class Ran(NamedTuple):
    """How a command ended; `text` is all that it wrote."""

    code: int
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


Run = Callable[..., Ran]


@pytest.fixture
def run(url: str, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `pressure` with these arguments in this process."""
    monkeypatch.setattr("pressure.cli.info.SAMPLE", 0.05)
    # Operators look at all keys, which others need not be permitted.
    url = acl.as_admin(url)
    environment = {"PRESSURE_URL": url, "PRESSURE_PREFIX": namespace, "PRESSURE_KEY": None}

    def run_one(*arguments: str, stdin: str = "", **env: str) -> Ran:
        runner = CliRunner(env={**environment, **env})
        result = runner.invoke(pressure.cli.program, arguments, stdin, prog_name="pressure")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.output)

    return run_one


@pytest.fixture
def queue(queue_name: str, url: str, namespace: str) -> Iterator[PressureQueue[bytes]]:
    """The test's queue, not created yet."""
    queue: PressureQueue[bytes] = PressureQueue(queue_name, url=url, prefix=namespace, codec="raw")
    with queue:
        yield queue
