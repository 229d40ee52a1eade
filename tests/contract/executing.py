"""What the tasks of the executor's contract tests do."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any


def square(x: int) -> int:
    return x * x


def capture(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def fail(kind: type[BaseException], *args: Any) -> None:
    raise kind(*args)  # the line of the error


def falsy() -> None:
    raise FalsyError("falsy")


class FalsyError(Exception):
    def __bool__(self) -> bool:
        return False


class Kept:
    """Can be referred to weakly."""

    def __init__(self, number: int) -> None:
        self.number = number


class Logbook:
    """A callable with a state, of about `size` bytes."""

    def __init__(self, size: int) -> None:
        self.lines: list[int] = []
        self.ballast = "x" * size

    def __call__(self, line: int) -> list[int]:
        self.lines.append(line)
        return self.lines

    def has(self, lines: list[int]) -> bool:
        return self.lines is lines


def are_one(first: object, second: object) -> bool:
    return first is second


def interrupt_a_program() -> int:
    """How a program ends that gets a Ctrl-C."""
    with subprocess.Popen(["sleep", "20"]) as program:
        program.send_signal(signal.SIGINT)
        return program.wait(30)


def hold(directory: str, name: str) -> str:
    """Make a file `name`, and wait until there is one called `go`."""
    path = Path(directory)
    (path / name).touch()
    deadline = time.monotonic() + 20
    while not (path / "go").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    return name


def mark(directory: str, name: str) -> None:
    (Path(directory) / name).touch()


def hold_after(first: str, directory: str, name: str) -> None:
    """`mark` the first, `hold` the others."""
    if name == first:
        mark(directory, name)
    else:
        hold(directory, name)


def pid() -> int:
    time.sleep(0.01)
    return os.getpid()


def slowly(x: int) -> int:
    time.sleep(0.05)
    return x


def unpicklable() -> Any:
    return lambda: None


class Unpicklable:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError("not to be pickled")


def blob(size: int) -> bytes:
    return b"x" * size


def length(data: bytes) -> int:
    return len(data)
