"""What tasks do to the daemon that runs them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

WAIT = 30.0


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + WAIT
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.005)


def start_process(directory: str) -> int:
    """Start a process that goes on for long, note its pid, and wait for the file `go`."""
    path = Path(directory)
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
    (path / "started").write_text(str(process.pid))
    wait_for(path / "go")
    return process.pid


def note(path: str) -> None:
    """Say that it has run."""
    with open(path, "a") as file:
        file.write("ran\n")


def hold_and_return(directory: str, size: int) -> bytes:
    """Make a file `runs`, wait for the file `go`, and return so many bytes."""
    path = Path(directory)
    (path / "runs").touch()
    wait_for(path / "go")
    return os.urandom(size)


def fork_and_die(directory: str) -> None:
    """Fork a process that has all of this one's descriptors, and kill this one."""
    pid = os.fork()
    if pid == 0:
        time.sleep(120)
        os._exit(0)
    (Path(directory) / "forked").write_text(str(pid))
    os.kill(os.getpid(), signal.SIGKILL)


def orphan(directory: str) -> None:
    """Leave a process behind that has lost its parent, and ends then."""
    middle = os.fork()
    if middle == 0:
        if os.fork() == 0:
            (Path(directory) / "orphan").write_text(str(os.getpid()))
            os._exit(0)
        os._exit(0)
    os.waitpid(middle, 0)


def fill_memory(megabytes: int, directory: str) -> int:
    """Use so much memory, make a file `full`, wait for the file `go`, and return the pid."""
    path = Path(directory)
    block = bytearray(os.urandom(1024)) * 1024 * megabytes
    (path / "full").touch()
    wait_for(path / "go")
    del block
    return os.getpid()


def preloaded(module: str) -> int:
    """In which process a module was imported that notes it as `PID`."""
    return int(sys.modules[module].PID)


def say_and_die(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
    os._exit(5)
