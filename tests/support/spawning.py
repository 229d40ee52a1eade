"""Start processes that never outlive the test run, and freeze them for certain.

Three nets catch a process, the next one where the last has a hole: the `close` of its owner (a
fixture's finalizer or a `with` block), `atexit` in its owner's module, and on Linux the parent
death signal, which works even when the test run itself is killed with SIGKILL.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO

# The parent death signal fires when the *thread* that started the child ends, so every child is
# started by this one thread, which lives as long as the interpreter.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="test-process-starter")
_START_TIMEOUT = 30.0


def start(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    output: IO[bytes],
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start `argv` as the leader of its own process group; stdout and stderr go to `output`.

    The child gets SIGKILL when this interpreter dies, where `setpriv` is there to arrange that.
    (An exec wrapper, since a `preexec_fn` is unsafe in a process with threads.)
    """
    setpriv = shutil.which("setpriv")
    wrapper = [setpriv, "--pdeathsig", "KILL"] if setpriv else []

    def popen() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*wrapper, *argv],
            env=env,
            cwd=cwd,
            stdin=stdin,
            stdout=output,
            stderr=output,
            pass_fds=pass_fds,
            start_new_session=True,
        )

    return _starter.submit(popen).result(_START_TIMEOUT)


def kill_group(process: subprocess.Popen[bytes], timeout: float = 10.0) -> None:
    """SIGKILL the process and all that it started, and reap it. Harmless if it is dead already."""
    # A group outlives its leader, and while it lives the leader's number is not given away again.
    # So if the leader was reaped and its number is in use, the group is gone: that is a stranger.
    if process.poll() is not None and _exists(process.pid):
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout)


def freeze(process: subprocess.Popen[bytes], timeout: float = 10.0) -> None:
    """SIGSTOP the process and return once it has really stopped.

    Raises:
        AssertionError: it exited, or did not stop in time.
    """
    process.send_signal(signal.SIGSTOP)
    await_stopped(process, timeout)


def await_stopped(process: subprocess.Popen[bytes], timeout: float = 10.0) -> None:
    """Return once the process is stopped, by whomever. Raises as `freeze`."""
    deadline = time.monotonic() + timeout
    while not _is_stopped(process.pid):
        if process.poll() is not None:
            raise AssertionError(f"process {process.pid} exited instead of stopping")
        if time.monotonic() > deadline:
            raise AssertionError(f"process {process.pid} did not stop in {timeout} s")
        time.sleep(0.001)


def thaw(process: subprocess.Popen[bytes]) -> None:
    """SIGCONT the process. Harmless if it is not stopped, or dead."""
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)


def carriers(variable: str, value: str) -> list[int]:
    """The processes that inherited this environment variable, whatever became of their parents.

    Linux only; elsewhere none is found.
    """
    wanted = f"{variable}={value}".encode()
    found = []
    for entry in os.scandir("/proc") if os.path.isdir("/proc/self") else ():
        if entry.name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry.name}/environ", "rb") as environ:
                # A zombie has no environment any more, and so is not found.
                if wanted in environ.read().split(b"\0"):
                    found.append(int(entry.name))
    return sorted(found)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _is_stopped(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            # The command name, in parentheses, may hold anything; the state follows the last ")".
            return stat.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except FileNotFoundError:
        listing = subprocess.run(
            ["ps", "-o", "state=", "-p", str(pid)], capture_output=True, check=False, timeout=10
        )
        return listing.stdout.strip().startswith(b"T")
