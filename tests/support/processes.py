"""Run a function in a child process which reports events, and dies or freezes at a named point.

    def consume(url: str) -> None:          # in a module of tests
        item = take(url)
        at("after_take")
        report("took", item)

    with spawn(consume, url, kill_at=["after_take"]) as child:
        child.wait_for("at:after_take")
        assert child.wait() == -signal.SIGKILL

The child is a fresh interpreter (no fork), with the parent's import path.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from tests.support import acl, spawning
from tests.support.child import POINTS_VARIABLE, REPORT_VARIABLE, at, report

__all__ = ["Child", "at", "report", "spawn"]

DEFAULT_TIMEOUT = 20.0
_FAMILY_VARIABLE = "PRESSURE_TEST_FAMILY"

_living: weakref.WeakSet[Child] = weakref.WeakSet()


def spawn(
    target: Callable[..., object] | str,
    *args: Any,
    kill_at: Iterable[str] = (),
    stop_at: Iterable[str] = (),
    hold_at: Iterable[str] = (),
    env: Mapping[str, str] | None = None,
) -> Child:
    """Start a child that runs `target(*args)`, or the code `target` with `args` as a variable.

    It reports `started` before that and `finished` after it; an exception ends it with exit code 1
    and its traceback in `output`.

    Args:
        target: a function of a module's top level, or source code.
        args: anything that can be pickled.
        kill_at: points (see `at`) where the child kills itself with SIGKILL.
        stop_at: points where it stops itself with SIGSTOP, until `cont`.
        hold_at: points where the thread that arrives waits for `go_on`.
        env: environment variables to add.
    """
    points = {
        point: order
        for order, names in (("kill", kill_at), ("stop", stop_at), ("hold", hold_at))
        for point in names
    }
    if isinstance(target, str):
        what: tuple[str, ...] = ("code", target)
    else:
        if "." in target.__qualname__:
            raise ValueError(f"{target.__qualname__} is not at the top level of its module")
        what = ("function", target.__module__, target.__qualname__)
    return Child(pickle.dumps((what, args)), points, env or {})


class Child:
    """A child process, made by `spawn`. Leaving its `with` block ends it and all it started."""

    def __init__(self, task: bytes, points: Mapping[str, str], env: Mapping[str, str]) -> None:
        self._owner = os.getpid()
        self._family = uuid.uuid4().hex
        self._ended = False
        self._events: list[tuple[str, Any]] = []
        self._consumed: Counter[str] = Counter()
        self._arrived = threading.Condition()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        read_end, write_end = os.pipe()
        try:
            self._process = spawning.start(
                [sys.executable, "-c", "from tests.support.child import main; main()"],
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
                    "PYTHONUNBUFFERED": "1",
                    **env,
                    _FAMILY_VARIABLE: self._family,
                    REPORT_VARIABLE: str(write_end),
                    POINTS_VARIABLE: json.dumps(points),
                },
                stdin=subprocess.PIPE,
                output=self._output,
                pass_fds=(write_end,),
            )
        except BaseException:
            os.close(read_end)
            self._output.close()
            raise
        finally:
            os.close(write_end)
        _living.add(self)
        self._reader = threading.Thread(
            target=self._read_events, args=(read_end,), name="child-events", daemon=True
        )
        self._reader.start()
        self._tell(b"%d\n%b" % (len(task), task))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Its process id, also after its death."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it lives, be it stopped or not."""
        return self._process.poll() is None

    @property
    def output(self) -> str:
        """All that it wrote to stdout and stderr so far."""
        size = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), size, 0).decode(errors="replace")

    def wait_for(self, event: str, timeout: float = DEFAULT_TIMEOUT) -> Any:
        """Return the data of the next `event`; each is returned once, in order.

        Raises:
            AssertionError: the child ended without it, or `timeout` seconds passed. The text ends
                with the child's output.
        """
        deadline = time.monotonic() + timeout
        with self._arrived:
            while True:
                found = [data for name, data in self._events if name == event]
                if len(found) > self._consumed[event]:
                    self._consumed[event] += 1
                    return found[self._consumed[event] - 1]
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    why = "ended without" if self._ended else f"took over {timeout} s for"
                    raise AssertionError(f"the child {why} {event!r}\n{self.output}")
                self._arrived.wait(left)

    def count(self, event: str) -> int:
        """How many of these events have arrived so far, returned by `wait_for` or not."""
        with self._arrived:
            return sum(name == event for name, _ in self._events)

    def go_on(self, point: str) -> None:
        """Let the thread that is held at this point (of `hold_at`) go on, now or on arrival."""
        self._tell(point.encode() + b"\n")

    def kill(self) -> None:
        """SIGKILL it, but not what it started, and return when it is dead."""
        self._process.kill()
        self._process.wait(DEFAULT_TIMEOUT)

    def terminate(self) -> None:
        """SIGTERM it."""
        self._process.terminate()

    def interrupt(self) -> None:
        """SIGINT it, as Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)

    def stop(self) -> None:
        """SIGSTOP it, and return when it has stopped."""
        spawning.freeze(self._process)

    def wait_stopped(self, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Return once it is stopped, as it is a moment after the event of a `stop_at` point."""
        spawning.await_stopped(self._process, timeout)

    def cont(self) -> None:
        """SIGCONT it. After `stop_at`, `wait_stopped` first."""
        spawning.thaw(self._process)

    def wait(self, timeout: float = DEFAULT_TIMEOUT) -> int:
        """Its exit code, once it has ended; minus the signal's number if one killed it.

        Raises:
            AssertionError: it had not ended after `timeout` seconds.
        """
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the child still runs after {timeout} s\n{self.output}") from None

    def family(self) -> list[int]:
        """The process ids of it and of all it started, directly or not, that live still."""
        return spawning.carriers(_FAMILY_VARIABLE, self._family)

    def close(self) -> None:
        """Kill it and all that it started. Harmless if done before."""
        if os.getpid() != self._owner or self._output.closed:
            return
        spawning.kill_group(self._process)
        # Those that left its process group. One may start another before it dies, hence the loop.
        deadline = time.monotonic() + DEFAULT_TIMEOUT
        while (survivors := self.family()) and time.monotonic() < deadline:
            for pid in survivors:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._reader.join(DEFAULT_TIMEOUT)
        told = acl.PASSWORD in self.output
        self._output.close()
        _living.discard(self)
        assert not told, "the child printed the server's password"

    def _tell(self, data: bytes) -> None:
        assert self._process.stdin is not None
        # A child that is dead already is found out about by whoever waits for it.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(data)
            self._process.stdin.flush()

    def _read_events(self, read_end: int) -> None:
        # The pipe ends with the child, unless it forked: then with the last of its children.
        with open(read_end, "rb") as pipe:
            for line in pipe:
                if line.endswith(b"\n"):
                    event, data = json.loads(line)
                    with self._arrived:
                        self._events.append((event, data))
                        self._arrived.notify_all()
        with self._arrived:
            self._ended = True
            self._arrived.notify_all()


@atexit.register
def _close_all() -> None:
    for child in list(_living):
        child.close()
