"""What runs in a child process of `tests.support.processes`: the points where it may die.

A child function calls `report` and `at` from here. In a process that no test spawned both do
nothing, so code under test may be shared. Run as a program, this module is the child's start.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import pickle
import signal
import threading
from collections import Counter
from collections.abc import Mapping
from typing import NoReturn

REPORT_VARIABLE = "PRESSURE_TEST_REPORT_FD"
POINTS_VARIABLE = "PRESSURE_TEST_POINTS"

# Taken out of the environment: what this process starts has neither the pipe nor the orders.
_report_fd = int(os.environ.pop(REPORT_VARIABLE, "-1"))
_points: Mapping[str, str] = json.loads(os.environ.pop(POINTS_VARIABLE, "{}"))
# Unbuffered: a buffer that a thread waits in can't be closed when the interpreter exits.
_stdin = io.FileIO(0, closefd=False)
_lock = threading.Lock()
_reached: Counter[str] = Counter()
_released = {name: threading.Event() for name, order in _points.items() if order == "hold"}


def report(event: str, data: object = None) -> None:
    """Tell the parent that `event` happened; `data` is anything that JSON can carry."""
    if _report_fd >= 0:
        # One write of a short line is not torn, even if the process dies or several threads write.
        os.write(_report_fd, json.dumps([event, data]).encode() + b"\n")


def at(point: str) -> None:
    """Mark a point where the parent may have ordered this process to die, stop or wait.

    An order is for `"point"`, which means its first passage, or for `"point#3"`, its third. When it
    strikes, the event `at:point` (or `at:point#3`) is reported first. Other threads go on, unless
    the process dies or stops.
    """
    with _lock:
        _reached[point] += 1
        times = _reached[point]
    for name in [f"{point}#{times}"] + ([point] if times == 1 else []):
        order = _points.get(name)
        if order is None:
            continue
        report(f"at:{name}")
        if order == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif order == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            _released[name].wait()


def _listen_to_parent() -> None:
    while line := _stdin.readline():
        released = _released.get(line.decode().rstrip("\n"))
        if released is not None:
            released.set()
    _exit_without_parent()


def _exit_without_parent() -> NoReturn:
    os._exit(1)


def main() -> None:
    """Run the function or the code that the parent wrote to stdin."""
    os.set_inheritable(_report_fd, False)
    size = int(_stdin.readline())
    task = bytearray()
    while len(task) < size:
        task += _stdin.read(size - len(task)) or _exit_without_parent()
    target, args = pickle.loads(task)
    if _released:
        # Only then, so that the thread is in nobody's way who forks.
        threading.Thread(target=_listen_to_parent, daemon=True).start()
    report("started")
    if target[0] == "code":
        exec(compile(target[1], "<child>", "exec"), {"__name__": "__child__", "args": args})
    else:
        _, module, name = target
        getattr(importlib.import_module(module), name)(*args)
    report("finished")
