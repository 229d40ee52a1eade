"""What `pressure-worker` says and does while its server is away, or full, or has lost its keys."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pressure.executor import RedisExecutor, ResultPayloadError, TaskTerminatedError
from tests.contract import executing as do
from tests.executor import daemon_tasks as tasks
from tests.executor.programs import Program
from tests.support.servers import ServerProcess
from tests.support.waiting import eventually

WAIT = 40.0
LARGE = 1_000_000
QUICK = 30.0
"""What must end at once has ended by then, on the busiest machine (seconds)."""


@pytest.fixture
def own_server(make_server: Callable[..., ServerProcess]) -> Iterator[ServerProcess]:
    server = make_server(appendonly=True)
    yield server
    if server.running:
        os.kill(server.pid, signal.SIGCONT)


@pytest.fixture
def begin(start: Callable[..., Program], own_server: ServerProcess) -> Callable[..., Program]:
    def begin_one(*arguments: str) -> Program:
        program = start(own_server.url, "--lease", "1.5", *arguments)
        assert program.says("processes serve queue"), program.output
        return program

    return begin_one


def test_an_outage_is_told_once(begin: Callable[..., Program], own_server: ServerProcess) -> None:
    program = begin("--processes", "3")
    assert eventually(lambda: len(program.children()) == 3)
    workers = program.children()
    own_server.kill()
    assert program.says("is away")
    # Replaced ones look for the server as patiently, and as quietly.
    os.kill(workers[0], signal.SIGKILL)
    assert program.says("died: SIGKILL")
    time.sleep(2)
    own_server.start()
    assert program.says("is back after")
    with RedisExecutor(url=own_server.url) as executor:
        results = [executor.submit(do.square, x) for x in range(20)]
        assert [future.result(WAIT) for future in results] == [x * x for x in range(20)]
    assert set(workers[1:]) < set(program.children())
    program.process.terminate()
    assert program.wait() == 0
    lines = program.output.splitlines()
    assert [line for line in lines if "WARNING" in line and "died" not in line] == [
        line for line in lines if "is away" in line or "is back" in line
    ], program.output
    assert program.output.count("is away") == program.output.count("is back") == 1
    assert "Traceback" not in program.output


def test_workers_are_replaced_during_an_outage(
    begin: Callable[..., Program], own_server: ServerProcess
) -> None:
    program = begin("--processes", "1")
    own_server.kill()
    assert program.says("is away")
    before = program.children()
    program.process.send_signal(signal.SIGHUP)
    assert eventually(lambda: program.children() not in (before, []), WAIT)
    own_server.start()
    with RedisExecutor(url=own_server.url) as executor:
        assert executor.submit(do.pid).result(WAIT) not in before


@pytest.mark.parametrize("how, known", [("dead", False), ("dead", True), ("frozen", False)])
def test_a_stop_does_not_wait_for_the_server(
    begin: Callable[..., Program], own_server: ServerProcess, how: str, known: bool
) -> None:
    program = begin("--processes", "2")
    assert eventually(lambda: len(program.children()) == 2)
    if how == "dead":
        own_server.kill()
    else:
        os.kill(own_server.pid, signal.SIGSTOP)
    if known:
        assert program.says("is away")
    began = time.monotonic()
    program.process.terminate()
    assert program.wait() == 0
    assert time.monotonic() - began < QUICK
    assert "Traceback" not in program.output


def test_a_task_may_finish_though_the_server_is_away(
    begin: Callable[..., Program], own_server: ServerProcess, tmp_path: Path
) -> None:
    program = begin("--processes", "1")
    with RedisExecutor(url=own_server.url) as executor:
        runs = executor.submit(do.hold, str(tmp_path), "runs")
        assert eventually((tmp_path / "runs").exists, WAIT)
        own_server.kill()
        assert program.says("is away")
        program.process.terminate()
        assert program.says("stopping")
        assert program.process.poll() is None
        (tmp_path / "go").touch()
        assert program.wait() == 0
        # What it could not say is done again elsewhere.
        own_server.start()
        begin("--processes", "1")
        assert runs.result(WAIT) == "runs"


def test_who_asks_during_an_outage_is_not_kept(
    begin: Callable[..., Program], own_server: ServerProcess, tmp_path: Path
) -> None:
    """What was to end ends when the server is back."""
    program = begin("--processes", "1")
    with RedisExecutor(url=own_server.url) as executor:
        runs = executor.submit(do.hold, str(tmp_path), "runs")
        assert eventually(runs.running, WAIT)
        own_server.kill()
        assert program.says("is away")
        began = time.monotonic()
        assert executor.stats().queue_depth is None
        assert executor.terminate(runs)
        assert time.monotonic() - began < 10.0
        own_server.start()
        with pytest.raises(TaskTerminatedError):
            runs.result(15.0)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("once", [False, True])
def test_the_first_task_after_all_keys_are_gone(
    start: Callable[..., Program],
    own_server: ServerProcess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    signed: bool,
    once: bool,
) -> None:
    """The worker is still blocked for the queue that was lost, and its connection holds."""
    if signed:
        monkeypatch.setenv("PRESSURE_KEY", "secret" * 5)
    program = start(own_server.url, "--processes", "1")
    assert program.says("processes serve queue"), program.output
    client = own_server.client()

    def waits() -> bool:
        return any(
            one["cmd"] == "blmove" and float(one["idle"]) < 1 for one in client.client_list()
        )

    for number in range(2):
        with RedisExecutor(url=own_server.url) as executor:
            assert executor.submit(do.square, 3).result(WAIT) == 9
        # Just about to wait for longer than the client takes.
        assert eventually(waits, WAIT)
        client.flushall()
        ran = tmp_path / str(number)
        with RedisExecutor(url=own_server.url) as executor:
            used = executor.options(max_deliveries=1) if once else executor
            used.submit(tasks.note, str(ran)).result(WAIT)
        assert ran.read_text().splitlines() in [["ran"], ["ran"] * (1 if once else 2)]
        assert not client.keys("*:taken:*")
    client.close()


def test_what_waits_on_a_full_server_is_run_by_new_workers(
    begin: Callable[..., Program], own_server: ServerProcess
) -> None:
    """Nothing else makes room there."""
    client = own_server.client()
    with RedisExecutor(url=own_server.url) as executor:
        futures = [executor.submit(do.pid) for _ in range(200)]
        assert eventually(lambda: client.llen("__pressure__:{default}") == 200, WAIT)
        client.config_set("maxmemory", 1)
        try:
            program = begin("--processes", "1")
            first = futures[0].result(WAIT)
            os.kill(first, signal.SIGKILL)
            assert {future.result(WAIT) for future in futures} > {first}
            program.process.terminate()
            assert program.wait() == 0
        finally:
            client.config_set("maxmemory", 0)
    client.close()


@pytest.mark.parametrize("stopped", [False, True])
def test_a_large_result_waits_for_memory(
    begin: Callable[..., Program], own_server: ServerProcess, tmp_path: Path, stopped: bool
) -> None:
    program = begin("--processes", "1")
    client = own_server.client()

    def refused() -> int:
        """How many scripts the server has not carried out."""
        stats = client.info("commandstats").get("cmdstat_evalsha", {})
        return int(stats.get("rejected_calls", 0)) + int(stats.get("failed_calls", 0))

    with RedisExecutor(url=own_server.url) as executor:
        large = executor.submit(tasks.hold_and_return, str(tmp_path), LARGE)
        assert eventually((tmp_path / "runs").exists, WAIT)
        client.config_set("maxmemory", 1)
        before = refused()
        (tmp_path / "go").touch()
        # The first may have come to a server that didn't know the script.
        assert eventually(lambda: refused() - before >= 3, WAIT)
        if stopped:
            began = time.monotonic()
            program.process.terminate()
            assert program.wait() == 0
            assert time.monotonic() - began < QUICK
            client.config_set("maxmemory", 0)
            with pytest.raises(ResultPayloadError, match="maxmemory"):
                large.result(WAIT)
        else:
            client.config_set("maxmemory", 0)
            assert len(large.result(WAIT)) == LARGE
    client.close()
