"""What becomes of processes and tasks when a supervisor or a worker of `pressure-worker` dies."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pressure.executor import RedisExecutor, WorkerLostError
from tests.contract import executing as do
from tests.executor import daemon_tasks as tasks
from tests.executor.crews import ROOT
from tests.executor.programs import Program
from tests.support.waiting import eventually

WAIT = 40.0


def lives(pid: int) -> bool:
    """Whether a process is there and not dead."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        stat = Path(f"/proc/{pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] not in ("Z", "X")
    return False


def read_pid(path: Path) -> int:
    assert eventually(lambda: path.exists() and bool(path.read_text()), WAIT)
    return int(path.read_text())


def test_nobody_outlives_a_killed_supervisor(
    serve: Callable[..., Program], executor: RedisExecutor, tmp_path: Path
) -> None:
    program = serve("--processes", "3", "--lease", "1")
    future = executor.submit(tasks.start_process, str(tmp_path))
    started = read_pid(tmp_path / "started")
    assert eventually(lambda: len(program.children()) == 3)
    workers = program.children()
    program.process.kill()
    assert program.wait() == -signal.SIGKILL
    assert eventually(lambda: not any(map(lives, [*workers, started])), WAIT)
    # And its task runs elsewhere.
    (tmp_path / "go").touch()
    serve("--processes", "1", "--lease", "1")
    assert future.result(WAIT) != started


def test_a_worker_that_its_task_ends_is_told_of(
    serve: Callable[..., Program], executor: RedisExecutor
) -> None:
    """Whatever the exit code."""
    program = serve("--processes", "1")
    with pytest.raises(WorkerLostError, match="exit code 0"):
        executor.options(max_deliveries=1).submit(os._exit, 0).result(WAIT)
    assert program.says("died: exit code 0")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_daemon_ended_at_any_moment_loses_nothing(
    serve: Callable[..., Program], executor: RedisExecutor, number: signal.Signals
) -> None:
    chance = random.Random(number)
    patient = executor.options(max_deliveries=100)
    futures = [patient.submit(do.slowly, x) for x in range(40)]
    futures += [patient.submit(do.square, x) for x in range(2000)]
    # What is killed is waited for. Else nobody waits for a lease's end, and a lease that lasts is
    # not lost to a busy machine either, which would count as a delivery.
    lease = "1" if number == signal.SIGKILL else "15"
    for _ in range(3):
        program = serve("--processes", "2", "--lease", lease)
        time.sleep(chance.uniform(0.0, 0.4))
        program.process.send_signal(number)
        assert program.wait() == (0 if number == signal.SIGTERM else -number)
    serve("--processes", "2", "--lease", lease)
    expected = [*range(40), *(x * x for x in range(2000))]
    assert [future.result(WAIT) for future in futures] == expected
    if number == signal.SIGTERM:
        assert not any(future.info()["deliveries"] for future in futures)


def test_a_supervisor_killed_as_it_starts_leaves_nobody(
    start: Callable[..., Program], url: str, queue_name: str
) -> None:
    program = start(url, "--queue", queue_name, "--processes", "8")
    assert eventually(lambda: bool(program.children()), WAIT)
    workers = program.children()
    program.process.kill()
    program.wait()
    assert eventually(lambda: not any(map(lives, workers)), WAIT)


def test_a_supervisor_that_fails_takes_its_workers_along(url: str, queue_name: str) -> None:
    script = (
        "from pressure.executor import cli; from pressure.executor.supervision import crew; "
        "crew.Crew.step = lambda *_: 1 / 0; cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, url, "--queue", queue_name, "--processes", "2"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=WAIT,
    )
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


def test_a_death_is_seen_though_a_child_holds_the_descriptors(
    serve: Callable[..., Program], executor: RedisExecutor, tmp_path: Path
) -> None:
    program = serve("--processes", "1")
    poison = executor.options(max_deliveries=1).submit(tasks.fork_and_die, str(tmp_path))
    with pytest.raises(WorkerLostError, match="SIGKILL"):
        poison.result(WAIT)
    forked = read_pid(tmp_path / "forked")
    assert eventually(lambda: not lives(forked), WAIT)
    assert executor.submit(do.square, 3).result(WAIT) == 9
    assert program.output.count("died") == 1


def test_memory_costs_a_process_its_place_after_its_task(
    serve: Callable[..., Program], executor: RedisExecutor, tmp_path: Path
) -> None:
    program = serve("--processes", "1", "--max-memory-per-child", "150M")
    before = executor.submit(do.pid).result(WAIT)
    assert executor.submit(do.pid).result(WAIT) == before
    greedy = executor.submit(tasks.fill_memory, 170, str(tmp_path))
    assert program.says("it is replaced after its task")
    assert not greedy.done()
    (tmp_path / "go").touch()
    assert greedy.result(WAIT) == before
    assert greedy.info()["deliveries"] == 0
    assert executor.submit(do.pid).result(WAIT) != before
    assert "died" not in program.output


def test_memory_far_beyond_the_limit_costs_the_task_its_process(
    serve: Callable[..., Program], executor: RedisExecutor, tmp_path: Path
) -> None:
    program = serve("--processes", "1", "--max-memory-per-child", "100 MiB")
    greedy = executor.options(max_deliveries=1).submit(tasks.fill_memory, 250, str(tmp_path))
    with pytest.raises(WorkerLostError, match="more than twice its limit of 100 MiB") as caught:
        greedy.result(WAIT)
    assert caught.value.deaths[0]["signal"] == "SIGKILL"
    assert "more than twice" in caught.value.deaths[0]["why"]
    assert program.says("more than twice its limit")
    assert executor.submit(do.square, 3).result(WAIT) == 9


def test_a_death_at_the_end_is_told(
    serve: Callable[..., Program], executor: RedisExecutor, tmp_path: Path
) -> None:
    program = serve("--processes", "2")
    executor.submit(do.hold, str(tmp_path), "runs")
    assert eventually((tmp_path / "runs").exists, WAIT)
    program.process.terminate()
    # The other one had nothing to do.
    assert eventually(lambda: len(program.children()) == 1, WAIT)
    (worker,) = program.children()
    os.kill(worker, signal.SIGSEGV)
    assert program.wait() == 0
    assert program.output.count("died") == 1
    assert f"worker {worker} died: SIGSEGV" in program.output


def test_workers_killed_at_once_are_all_replaced(
    serve: Callable[..., Program], executor: RedisExecutor, tmp_path: Path
) -> None:
    program = serve("--processes", "3")
    runs = executor.submit(do.hold, str(tmp_path), "runs")
    assert eventually((tmp_path / "runs").exists, WAIT)
    assert eventually(lambda: len(program.children()) == 3)
    before = program.children()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    (tmp_path / "go").touch()
    assert runs.result(WAIT) == "runs"
    assert runs.info()["deliveries"] == 1
    assert eventually(lambda: len(set(program.children()) - set(before)) == 3, WAIT)
