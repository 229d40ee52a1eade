"""The program `pressure-worker`, from the outside."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from pathlib import Path
from typing import Any

import pytest
import redis

from pressure import Settings
from pressure.executor import Options, RedisExecutor, WorkerLostError
from tests.contract import executing as do
from tests.executor.programs import Program
from tests.support.fixtures import keys_left
from tests.support.servers import ServerProcess
from tests.support.waiting import eventually

WAIT = 40.0
KILLED = re.compile(r"worker \d+ is killed, and its task [0-9a-f]{32}\b")


def test_sigterm_finishes_what_runs_and_gives_back_the_rest(
    serve: Callable[..., Program],
    executor: RedisExecutor,
    client: redis.Redis,
    queue_name: str,
    tmp_path: Path,
) -> None:
    program = serve("--processes", "1")
    quick = [executor.submit(do.square, x) for x in range(20)]
    assert [future.result(WAIT) for future in quick] == [x * x for x in range(20)]
    runs = executor.submit(do.hold, str(tmp_path), "runs")
    waits = [executor.submit(do.square, x) for x in range(10)]
    assert eventually((tmp_path / "runs").exists)
    program.process.send_signal(signal.SIGTERM)
    assert program.says("stopping")
    (tmp_path / "go").touch()
    assert runs.result(WAIT) == "runs"
    assert program.wait() == 0
    assert "stopped after" in program.output
    assert client.llen(f"__pressure__:{{{queue_name}}}") == 10
    assert not any(
        ":taken:" in key for key in keys_left(client, queue_name) if ":reply:" not in key
    )
    # Nothing of it was held against them.
    serve("--processes", "1")
    assert [future.result(WAIT) for future in waits] == [x * x for x in range(10)]
    assert all(future.info()["deliveries"] == 0 for future in waits)


def test_an_idle_daemon_stops_at_once(serve: Callable[..., Program]) -> None:
    program = serve("--processes", "3")
    assert eventually(lambda: len(program.children()) == 3)
    began = time.monotonic()
    program.process.send_signal(signal.SIGINT)
    assert program.wait() == 0
    assert time.monotonic() - began < 5


def test_grace_is_a_limit(
    serve: Callable[..., Program], executor: RedisExecutor, tmp_path: Path
) -> None:
    program = serve("--processes", "1", "--grace", "0.3")
    future = executor.submit(do.hold, str(tmp_path), "runs")
    assert eventually((tmp_path / "runs").exists)
    program.process.terminate()
    assert program.wait() == 0
    assert len(KILLED.findall(program.output)) == 1
    # It was not to blame for nothing: it was started, and its worker died.
    (tmp_path / "go").touch()
    serve("--processes", "1")
    assert future.result(WAIT) == "runs"
    assert future.info()["deliveries"] == 1


def test_a_second_signal_kills(
    serve: Callable[..., Program], executor: RedisExecutor, tmp_path: Path
) -> None:
    program = serve("--processes", "2")
    executor.submit(do.hold, str(tmp_path), "runs")
    assert eventually((tmp_path / "runs").exists)
    program.process.terminate()
    assert program.says("stopping")
    assert program.process.poll() is None
    program.process.terminate()
    assert program.wait() == 0
    assert len(KILLED.findall(program.output)) == 1
    assert "died" not in program.output


def test_a_worker_that_dies_is_replaced(
    serve: Callable[..., Program], executor: RedisExecutor
) -> None:
    program = serve("--processes", "2")
    assert eventually(lambda: len(program.children()) == 2)
    before = program.children()
    os.kill(before[0], signal.SIGKILL)
    assert program.says(f"worker {before[0]} died: SIGKILL")
    assert eventually(lambda: len(set(program.children()) - {before[0]}) == 2)
    assert executor.submit(do.square, 3).result(WAIT) == 9


def test_processes_are_replaced_after_so_many_tasks(
    serve: Callable[..., Program], executor: RedisExecutor
) -> None:
    program = serve("--processes", "1", "--max-tasks-per-child", "3")
    pids = [executor.submit(do.pid).result(WAIT) for _ in range(9)]
    assert [len(set(pids[n : n + 3])) for n in (0, 3, 6)] == [1, 1, 1]
    assert len(set(pids)) == 3
    assert "died" not in program.output


def test_each_line_says_when_who_and_what(
    serve: Callable[..., Program], executor: RedisExecutor
) -> None:
    program = serve("--processes", "1")
    poison: Future[Any] = executor.options(max_deliveries=1).submit(os._exit, 5)
    with pytest.raises(WorkerLostError):
        poison.result(WAIT)
    program.process.terminate()
    assert program.wait() == 0
    for line in program.output.splitlines():
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \d+ (INFO|WARNING) \S", line), line
    assert "died: exit code 5" in program.output


def test_it_stops_while_the_server_is_away(
    start: Callable[..., Program], make_server: Callable[..., ServerProcess]
) -> None:
    server = make_server()
    program = start(server.url, "--processes", "1")
    assert program.says("processes serve queue")
    server.kill()
    time.sleep(0.5)
    program.process.terminate()
    assert program.wait() == 0


def test_it_waits_for_a_server_that_restarts(
    start: Callable[..., Program], make_server: Callable[..., ServerProcess]
) -> None:
    server = make_server()
    program = start(server.url, "--processes", "1")
    assert program.says("processes serve queue")
    server.restart(keep_data=False)
    with RedisExecutor(url=server.url) as executor:
        assert executor.submit(do.square, 4).result(WAIT) == 16
    assert program.process.poll() is None


# What it refuses


def test_without_a_server_it_says_so(start: Callable[..., Program], tmp_path: Path) -> None:
    program = start(f"unix://{tmp_path}/none")
    assert program.wait() == 1
    assert "Traceback" not in program.output
    (line,) = program.output.splitlines()
    assert line.startswith("pressure-worker: ")
    assert str(tmp_path) in line


def test_the_help_can_be_had_in_two_ways(start: Callable[..., Program]) -> None:
    short, long = start("-h"), start("--help")
    assert short.wait() == long.wait() == 0
    assert short.output == long.output
    assert "--max-tasks-per-child" in short.output


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["redis://192.0.2.1:6379/0"], "--insecure"),
        (["http://localhost"], "http"),
        (["redis://127.0.0.1:1/0", "--processes", "0"], "--processes"),
        (["redis://127.0.0.1:1/0", "--queue", ""], "name"),
        (["redis://127.0.0.1:1/0", "--grace", "-1"], "--grace"),
        (["redis://127.0.0.1:1/0", "--lease", "0"], "--lease"),
        (["redis://127.0.0.1:1/0", "--lease", "inf"], "--lease"),
        (["redis://127.0.0.1:1/0", "--key-file", "/nowhere/at/all"], "--key-file"),
        (["redis://127.0.0.1:1/0", "--key-file", os.devnull], "holds no key"),
        (["redis://127.0.0.1:1/0", "--max-memory-per-child", "much"], "'much' is no size"),
        (["redis://127.0.0.1:1/0", *(f"--queue=q{n}" for n in range(65))], "at most 64 queues"),
        (["redis://127.0.0.1:1/0", "--log-format", "xml"], "--log-format"),
        (["redis://127.0.0.1:1/0", "--max-idle-time", "0"], "--max-idle-time"),
        (["redis://127.0.0.1:1/0", "--preload", ""], "no name of a module"),
        (["redis://127.0.0.1:1/0", "--nonsense"], "--nonsense"),
    ],
)
def test_wrong_usage(start: Callable[..., Program], arguments: list[str], said: str) -> None:
    program = start(*arguments)
    assert program.wait() == 2, program.output
    assert said in program.output
    assert "Traceback" not in program.output


def test_a_key_is_enough_for_a_distant_server(
    start: Callable[..., Program], tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("secret-of-many-letters\n")
    # TEST-NET-1: nobody is there, and that is what it says then.
    program = start("redis://192.0.2.1:6379/0?socket_connect_timeout=0.2", "--key-file", str(key))
    with contextlib.suppress(subprocess.TimeoutExpired):
        assert program.wait() == 1
        assert "192.0.2.1" in program.output
    assert "secret" not in program.output
    assert "--insecure" not in program.output


def test_tasks_are_signed_with_the_key(
    start: Callable[..., Program], url: str, queue_name: str, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("secret-of-many-letters\n")
    start(url, "--queue", queue_name, "--processes", "1", "--key-file", str(key))
    settings = Settings(reconnect_timeout=5.0)
    with RedisExecutor(
        url=url, queue=queue_name, key="secret-of-many-letters", settings=settings
    ) as executor:
        assert executor.submit(do.square, 4).result(WAIT) == 16
    once = Options(max_deliveries=1)
    with RedisExecutor(url=url, queue=queue_name, settings=settings, options=once) as executor:
        future = executor.submit(do.square, 4)
        with pytest.raises(BrokenExecutor, match="sign"):
            future.result(WAIT)
