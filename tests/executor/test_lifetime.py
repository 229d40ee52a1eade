"""How an executor ends: by the collector, with the interpreter, by Ctrl-C; and what it leaves."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Future, wait
from pathlib import Path
from typing import Any

import pytest
import redis

from pressure import Settings
from pressure.executor import RedisExecutor, WorkerLostError
from tests.contract import executing as do
from tests.executor.crews import daemon
from tests.support.fixtures import keys_left
from tests.support.processes import Child, report
from tests.support.waiting import eventually

WAIT = 20.0

# Interpreter exit

PRELUDE = """
import sys, time
sys.path[:0] = {path!r}
from pressure.executor import RedisExecutor
from tests.contract import executing as do

def say(seconds, text):
    time.sleep(seconds)
    print(text, flush=True)
"""


def script(body: str, timeout: float = WAIT) -> tuple[int, str, str]:
    code = PRELUDE.format(path=sys.path) + body
    done = subprocess.run(
        [sys.executable, "-I", "-X", "dev", "-c", code],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "PYTHONWARNDEFAULTENCODING": "0"},
    )
    return done.returncode, done.stdout, done.stderr


KILLED = """
import multiprocessing, os, signal, sys, time
sys.path[:0] = {path!r}
from pressure.executor import RedisExecutor

if __name__ == "__main__":
    ex = RedisExecutor(2, mp_context=multiprocessing.get_context({method!r}))
    ex.submit(time.sleep, 60)
    while not ex._processes:
        pass
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    "end",
    ["", "ex.shutdown(wait=False)", "del ex", "import gc; ex.me = ex; del ex; gc.collect()"],
    ids=["left alone", "shut down", "dropped", "collected"],
)
def test_exit_finishes_the_work(end: str) -> None:
    code, out, err = script(f"ex = RedisExecutor(1)\nex.submit(say, 0.3, 'apple')\n{end}\n")
    assert (code, out, err) == (0, "apple\n", "")


def test_exit_keeps_the_exit_code() -> None:
    code, out, _ = script("RedisExecutor(1).submit(say, 0.2, 'apple')\nsys.exit(7)")
    assert (code, out) == (7, "apple\n")


def test_workers_that_start_while_the_interpreter_exits_have_the_script(tmp_path: Path) -> None:
    """Its path is no longer in `__main__` then."""
    program = tmp_path / "program.py"
    body = "    ex = RedisExecutor(1, max_tasks_per_child=1)\n"
    body += "    for text in ('apple', 'pear'):\n        ex.submit(say, 0.3, text)\n"
    program.write_text(f"{PRELUDE.format(path=sys.path)}\nif __name__ == '__main__':\n{body}")
    done = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=WAIT * 2
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "apple\npear\n", "")


def test_an_executor_nobody_used_costs_nothing() -> None:
    code, out, err = script("ex = RedisExecutor(2)\nex2 = RedisExecutor(1)\ndel ex2\n")
    assert (code, out, err) == (0, "", "")


@pytest.mark.parametrize("stderr", ["None", "io.StringIO()"])
def test_stderr_need_not_be_a_file(stderr: str) -> None:
    body = f"import io\nsys.stderr = {stderr}\n"
    code, out, _ = script(body + "with RedisExecutor(1) as ex: print(ex.submit(abs, -3).result(9))")
    assert (code, out) == (0, "3\n")


# Workers that tasks break


def close_all() -> int:
    """As code does that makes a daemon of itself."""
    os.closerange(3, 1000)
    return os.getpid()


def break_the_connection() -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("not an error of the connection")

    vars(sys.modules["pressure.link"])["quickly_packed"] = fail


def test_a_task_may_close_all_descriptors() -> None:
    with RedisExecutor(1) as executor:
        closed = executor.submit(close_all).result(WAIT)
        assert [executor.submit(do.square, x).result(WAIT) for x in range(3)] == [0, 1, 4]
        # That worker couldn't be told anything any more.
        assert eventually(lambda: executor.submit(os.getpid).result(WAIT) != closed)


def test_a_task_that_breaks_its_worker_is_not_run_for_ever() -> None:
    with RedisExecutor(1) as executor:
        with pytest.raises(WorkerLostError, match="exit code 1"):
            executor.submit(break_the_connection).result(WAIT)
        assert executor.submit(do.square, 3).result(WAIT) == 9


class UnspeakableError(Exception):
    def __getattr__(self, name: str) -> object:
        raise KeyError(name)


def raise_unspeakable() -> None:
    raise UnspeakableError


def test_an_exception_may_be_such_that_its_traceback_cannot_be_had() -> None:
    with RedisExecutor(1) as executor:
        with pytest.raises(UnspeakableError) as raised:
            executor.submit(raise_unspeakable).result(WAIT)
        assert "UnspeakableError" in str(raised.value.__cause__)


def test_who_is_blamed_for_a_broken_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs, if something does; not what ran before."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError("in the worker's own code")

    monkeypatch.setattr("pressure.executor.worker.worker.pack_exception", fail)
    with RedisExecutor(1) as executor:
        assert executor.submit(do.square, 2).result(WAIT) == 4
        with pytest.raises(WorkerLostError, match="exit code 1"):
            executor.submit(do.fail, ValueError).result(WAIT)
        assert executor.submit(do.square, 3).result(WAIT) == 9


def test_an_initializer_that_ends_the_process_breaks_the_executor() -> None:
    with RedisExecutor(1, initializer=os._exit, initargs=(0,)) as executor:
        future = executor.submit(do.square, 1)
        with pytest.raises(BrokenExecutor, match="exit code 0"):
            future.result(WAIT)


# Ctrl-C


def interrupted(path: str, how: str) -> None:
    """Have much to do, and wait for it until Ctrl-C."""
    executor = RedisExecutor(1)
    if how == "with":
        try:
            with executor:
                futures: list[Future[Any]] = [executor.submit(do.hold, path, "runs")]
                futures += [executor.submit(do.mark, path, f"m{n}") for n in range(50)]
                report("waiting")
                await_ctrl_c(lambda seconds: wait(futures[:1], seconds))
        except KeyboardInterrupt:
            report("interrupted", [future.cancelled() for future in futures[1:]])
            try:
                futures[0].result(0)
            except CancelledError:
                report("cancelled")
    else:
        executor.submit(do.hold, path, "runs")
        for n in range(50):
            executor.submit(do.mark, path, f"m{n}")
        report("waiting")
        if how == "left":
            await_ctrl_c(time.sleep)


def await_ctrl_c(pause: Callable[[float], object]) -> None:
    """Pause again and again, for a short time: a signal that comes between the interpreter's last
    look for one and the system's call does not end that call."""
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        pause(0.05)


@pytest.mark.parametrize("how", ["with", "left", "exit"])
def test_ctrl_c_cancels_what_waits_and_ends_in_time(
    spawn_child: Callable[..., Child], tmp_path: Path, how: str
) -> None:
    child = spawn_child(interrupted, str(tmp_path), how)
    child.wait_for("waiting")
    assert eventually((tmp_path / "runs").exists)
    if how == "exit":
        # The interpreter waits for the work then.
        child.wait_for("finished")
        time.sleep(0.2)
    child.interrupt()
    if how == "with":
        assert all(child.wait_for("interrupted"))
        child.wait_for("cancelled")
    child.wait(WAIT)
    assert not list(tmp_path.glob("m*"))
    assert eventually(lambda: not child.family())


# terminate_workers and kill_workers


@pytest.mark.parametrize("how", ["terminate_workers", "kill_workers"])
def test_workers_are_ended(tmp_path: Path, how: str) -> None:
    executor = RedisExecutor(2)
    running = [executor.submit(do.hold, str(tmp_path), name) for name in "ab"]
    assert eventually(lambda: all((tmp_path / name).exists() for name in "ab"))
    waiting = [executor.submit(do.square, x) for x in range(10)]
    processes = list(executor._processes.values())
    assert len(processes) == 2
    getattr(executor, how)()
    for future in running:
        with pytest.raises(WorkerLostError, match=how):
            future.result(WAIT)
    assert all(future.cancelled() for future in waiting)
    # The supervisor's thread reaps them: until it has noted that, `Process` calls them alive.
    assert eventually(lambda: not any(process.is_alive() for process in processes))
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(do.square, 1)
    executor.shutdown()


# What is left behind


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_local_executor_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def use() -> list[int]:
        with RedisExecutor(2) as executor:
            assert list(executor.map(do.square, range(20))) == [x * x for x in range(20)]
            return list(executor._processes)

    use()  # What is made once for all stays.
    gc.collect()
    threads, files = threading.enumerate(), open_files()
    # Of its own, since other tests run beside this one; and short, for the sockets in it.
    place = tempfile.mkdtemp(prefix="pt-", dir="/tmp")
    monkeypatch.setattr(tempfile, "tempdir", place)
    for _ in range(3):
        for pid in use():
            assert not os.path.exists(f"/proc/{pid}")
    # Without a hand from the garbage collector.
    assert eventually(lambda: open_files() <= files)
    gc.collect()
    assert eventually(lambda: set(threading.enumerate()) <= set(threads))
    assert eventually(lambda: open_files() <= files)
    assert os.listdir(place) == []
    os.rmdir(place)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_client_that_is_killed_while_its_workers_start_leaves_no_file(method: str) -> None:
    """The server's go when it has noticed, and what `multiprocessing` leaves is its own."""

    def left() -> list[str]:
        return [name for name in os.listdir(place) if not name.startswith("pymp-")]

    with tempfile.TemporaryDirectory(prefix="pt-", dir="/tmp", ignore_cleanup_errors=True) as place:
        program = Path(place, "program.py")
        program.write_text(KILLED.format(path=sys.path, method=method))
        done = subprocess.run(
            [sys.executable, program], env={**os.environ, "TMPDIR": place}, timeout=WAIT * 2
        )
        assert done.returncode == -signal.SIGKILL
        program.unlink()
        assert eventually(lambda: not left(), WAIT), left()


def test_a_clean_end_leaves_no_key(client: redis.Redis, queue_name: str, url: str) -> None:
    with daemon(url, queue_name, 2):
        large = "x" * 5000
        with RedisExecutor(url=url, queue=queue_name) as executor:
            assert executor.submit(lambda: len(large)).result(WAIT) == 5000
            assert list(executor.map(do.square, range(200))) == [x * x for x in range(200)]
            assert any(":reply:" in key for key in keys_left(client, queue_name))
            mine = executor._engine.dispatcher._reply.name
        assert not [key for key in keys_left(client, queue_name) if mine[-32:] in key]
    assert not [key for key in keys_left(client, queue_name) if ":reply:" in key]
    assert not [key for key in keys_left(client, queue_name) if ":taken:" in key]
    left = f"__pressure__:{{{queue_name}}}"
    assert client.zcard(f"{left}:leases") == 0
    assert client.hlen(f"{left}:producers") == 0


# Backpressure


def test_submit_waits_while_too_much_is_pending(tmp_path: Path) -> None:
    with RedisExecutor(1, max_pending=3) as executor:
        for name in "abc":
            executor.submit(do.hold, str(tmp_path), name)
        submitted = threading.Event()

        def one_more() -> None:
            executor.submit(do.square, 1)
            submitted.set()

        thread = threading.Thread(target=one_more)
        thread.start()
        assert not submitted.wait(0.3)
        (tmp_path / "go").touch()
        assert submitted.wait(WAIT)
        thread.join(WAIT)
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="max_pending"):
            RedisExecutor(1, max_pending=wrong)


@pytest.mark.parametrize("kind", ["ProcessPoolExecutor", "RedisExecutor"])
def test_what_is_said_when_the_interpreter_shuts_down(kind: str) -> None:
    code, out, err = script(f"""
import atexit
from concurrent.futures import ProcessPoolExecutor

used, unused = {kind}(1), {kind}(1)

@atexit.register
def try_again():
    for executor in (used, unused):
        try:
            executor.submit(do.square, 2)
        except RuntimeError as exc:
            print(exc)

print(used.submit(do.square, 1).result())
""")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "1",
        "cannot schedule new futures after shutdown",
        "cannot schedule new futures after interpreter shutdown",
    ]


def test_a_submit_that_waits_ends_with_the_executor(tmp_path: Path) -> None:
    executor = RedisExecutor(1, max_pending=1)
    executor.submit(do.hold, str(tmp_path), "a")
    raised = threading.Event()

    def one_more() -> None:
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(do.square, 1)
        raised.set()

    thread = threading.Thread(target=one_more)
    thread.start()
    time.sleep(0.1)
    executor.shutdown(wait=False)
    assert raised.wait(WAIT)
    thread.join(WAIT)
    (tmp_path / "go").touch()
    executor.shutdown()


def map_endlessly() -> None:
    with RedisExecutor(1) as executor:
        results = executor.map(do.length, itertools.repeat(b"x" * 1000), buffersize=50)
        assert sum(itertools.islice(results, 300)) == 300_000
        gc.collect()
        tracemalloc.start()
        assert sum(itertools.islice(results, 3000)) == 3_000_000
        grown, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        results.close()  # type: ignore[attr-defined]
    report("grown", grown)


def test_endless_input_takes_constant_memory(spawn_child: Callable[..., Child]) -> None:
    """In a process of its own: whatever other tests have left running takes memory as well."""
    assert spawn_child(map_endlessly).wait_for("grown") < 1_000_000


def test_the_queue_s_bound_holds_and_what_waits_can_be_cancelled(
    client: redis.Redis, queue_name: str, url: str
) -> None:
    executor = RedisExecutor(url=url, queue=queue_name)
    first = executor.submit(do.square, 0)
    key = f"__pressure__:{{{queue_name}}}"
    assert eventually(lambda: client.llen(key) == 1)
    client.set(f"{key}:bound", 10)
    futures = [first, *(executor.submit(do.square, x) for x in range(1, 50))]
    assert eventually(lambda: client.llen(key) == 10)
    # Those that wait for room, and those in the queue.
    assert futures[-1].cancel() and futures[5].cancel()
    with daemon(url, queue_name, 1):
        for x, future in enumerate(futures):
            if x not in (5, 49):
                assert future.result(WAIT) == x * x
    executor.shutdown()


def test_a_client_that_stands_still_slows_nobody(
    spawn_child: Callable[..., Child], queue_name: str, url: str
) -> None:
    with daemon(url, queue_name, 1):
        slow = spawn_child(submit_many, url, queue_name)
        slow.wait_for("submitted")
        slow.stop()
        with RedisExecutor(url=url, queue=queue_name, settings=Settings()) as executor:
            began = time.monotonic()
            assert [f.result(WAIT) for f in [executor.submit(do.square, 3)] * 3] == [9, 9, 9]
            assert list(executor.map(do.square, range(100))) == [x * x for x in range(100)]
        assert time.monotonic() - began < 15
        slow.cont()
        assert slow.wait_for("sum") == sum(x * x for x in range(3000))


def submit_many(url: str, queue: str) -> None:
    with RedisExecutor(url=url, queue=queue) as executor:
        futures = [executor.submit(do.square, x) for x in range(3000)]
        report("submitted")
        report("sum", sum(future.result(WAIT) for future in futures))
