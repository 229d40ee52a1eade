"""Ctrl-C while an executor starts or is waited for, and what its workers' start leaves to other
processes."""

from __future__ import annotations

import subprocess
import sys

import pytest

import pressure
from pressure.executor.client.dispatcher import Dispatcher

PATIENCE = 60.0

FORKED = """
import multiprocessing, os, signal, sys
import pressure

def strike():
    signal.raise_signal(signal.SIGINT)

if __name__ == "__main__":
    executor = pressure.RedisExecutor(2, mp_context=multiprocessing.get_context("fork"))
    os.register_at_fork(after_in_parent=strike)
    try:
        with executor:
            executor.submit(abs, -1)
    except KeyboardInterrupt:
        print("interrupted", multiprocessing.active_children(), flush=True)
"""

THREAD = """
import multiprocessing, threading
import pressure

start = threading.Thread.start

def interrupted(thread):
    start(thread)
    if thread.name == "pressure crew":
        raise KeyboardInterrupt

if __name__ == "__main__":
    for _ in range(10):
        threading.Thread.start = interrupted
        with pressure.RedisExecutor(2, mp_context=multiprocessing.get_context("fork")) as executor:
            try:
                executor.submit(abs, -1)
            except KeyboardInterrupt:
                threading.Thread.start = start
    print("interrupted", multiprocessing.active_children(), flush=True)
"""

WAITING = """
import concurrent.futures._base, multiprocessing, signal, time
import pressure

class Interrupted(concurrent.futures._base._AcquireFutures):
    def __enter__(self):
        super().__enter__()
        signal.raise_signal(signal.SIGINT)

if __name__ == "__main__":
    try:
        with pressure.RedisExecutor(1) as executor:
            begun = executor.submit(time.sleep, 0.3)
            while not begun.running():
                time.sleep(0.01)
            concurrent.futures._base._AcquireFutures = Interrupted
            concurrent.futures.wait([begun])
    except KeyboardInterrupt:
        print("interrupted", multiprocessing.active_children(), flush=True)
"""

HELPERS = """
import multiprocessing, sys, time
import pressure

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    # It starts the resource tracker, if there is one.
    lock = multiprocessing.Lock()
    with pressure.RedisExecutor(1) as executor:
        executor.submit(abs, -1).result(60)
    process = multiprocessing.Process(target=time.sleep, args=(60,), daemon=True)
    process.start()
    process.terminate()
    process.join(30)
    print(process.exitcode, flush=True)
    process.kill()
"""


def run(program: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *args],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.parametrize(
    "program",
    [FORKED, THREAD, WAITING],
    ids=["a worker starts", "the supervisor starts", "futures are locked"],
)
def test_ctrl_c_leaves_nothing(program: str) -> None:
    done = run(program)
    assert done.stdout == "interrupted []\n", done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no thread")], ids=repr)
def test_a_start_that_was_cut_short_is_told_again_as_what_it_is(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Dispatcher) -> None:
        raise error

    with pressure.RedisExecutor(1) as executor:
        with monkeypatch.context() as patched:
            patched.setattr(Dispatcher, "start", fail)
            with pytest.raises(type(error)):
                executor.submit(abs, -1)
        expected = RuntimeError if isinstance(error, RuntimeError) else pressure.NoWorkersError
        with pytest.raises(expected):
            executor.submit(abs, -1)


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_processes_of_others_can_be_terminated(method: str) -> None:
    """Not so if the fork server, or the resource tracker, was started with signals blocked."""
    done = run(HELPERS, method)
    assert done.stdout == "-15\n", done.stderr
