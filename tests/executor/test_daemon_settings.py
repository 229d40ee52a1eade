"""The settings of `pressure-worker`, and what it says to those who watch it."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from queue import SimpleQueue

import pytest
import redis

from pressure import Settings
from pressure.address import Address
from pressure.checks import Severity, check_server
from pressure.executor import RedisExecutor, WorkerLostError
from pressure.executor.supervision.health import check_health
from pressure.multiprocessing import Queue
from pressure.queue import PressureQueue
from tests.contract import executing as do
from tests.executor import daemon_tasks as tasks
from tests.executor.crews import ROOT
from tests.executor.programs import COMMAND, Program
from tests.support.servers import ServerProcess
from tests.support.waiting import eventually

WAIT = 40.0


def test_every_setting_from_the_environment(
    start: Callable[..., Program], url: str, queue_name: str, tmp_path: Path
) -> None:
    (tmp_path / "early.py").write_text("print('imported', flush=True)\n")
    (tmp_path / "key").write_text("secret-of-many-letters\n")
    env = {
        "PRESSURE_URL": url,
        "PRESSURE_QUEUE": f"{queue_name}-a {queue_name}-b",
        "PRESSURE_PREFIX": "elsewhere",
        "PRESSURE_PROCESSES": "1",
        "PRESSURE_NAME": "ours",
        "PRESSURE_PRELOAD": "early json",
        "PRESSURE_MAX_TASKS_PER_CHILD": "1",
        "PRESSURE_MAX_MEMORY_PER_CHILD": "2G",
        "PRESSURE_MAX_IDLE_TIME": "60",
        "PRESSURE_GRACE": "5",
        "PRESSURE_LEASE": "2",
        "PRESSURE_KEY_FILE": str(tmp_path / "key"),
        "PRESSURE_LOG_FORMAT": "json",
    }
    program = start(env=env, cwd=tmp_path)
    assert program.says("serve queue"), program.output
    assert "imported" in program.output
    for queue in (f"{queue_name}-a", f"{queue_name}-b"):
        with RedisExecutor(
            url=url, queue=queue, prefix="elsewhere", key="secret-of-many-letters"
        ) as executor:
            first, second = (executor.submit(do.pid).result(WAIT) for _ in range(2))
            assert first != second
    # An argument goes before it.
    told = {"PRESSURE_LEASE": "0", "PRESSURE_URL": "http://nowhere", "PRESSURE_QUEUE": "{}"}
    other = start(url, "--queue", queue_name, "--lease", "3", "--processes", "1", env=told)
    assert other.says("serve queue"), other.output


def test_a_second_url_is_refused_and_not_shown() -> None:
    url = "redis://:secret@nowhere:1"
    done = subprocess.run([*COMMAND, url, url], capture_output=True, text=True, timeout=WAIT)
    assert done.returncode == 2
    assert "one URL" in done.stderr
    assert "secret" not in done.stdout + done.stderr


def test_the_prefix_of_the_environment_is_everybodys(
    monkeypatch: pytest.MonkeyPatch,
    start: Callable[..., Program],
    url: str,
    queue_name: str,
    client: redis.Redis,
) -> None:
    monkeypatch.setenv("PRESSURE_PREFIX", f"{queue_name}-prefix")
    start(url, "--queue", queue_name, "--processes", "1")
    with RedisExecutor(url=url, queue=queue_name) as executor:
        assert executor.submit(do.square, 3).result(WAIT) == 9
    queue: PressureQueue[int] = PressureQueue(queue_name, url=url)
    queue.create()
    queue.put(1)
    assert client.exists(f"{queue_name}-prefix:{queue_name}")
    queue.delete()
    with PressureQueue[int](queue_name, url=url, prefix="given") as given:
        given.create()
        assert client.exists(f"given:{queue_name}:bound")
        given.delete()
    shared: Queue[int] = Queue(url=url)
    shared.put(1)
    assert shared.get(timeout=WAIT) == 1
    assert client.keys(f"{queue_name}-prefix:*:bound")
    shared.close()


# What is imported before


def test_a_preloaded_module_is_imported_once(
    start: Callable[..., Program], url: str, queue_name: str, tmp_path: Path
) -> None:
    (tmp_path / "early_one.py").write_text("import os\nPID = os.getpid()\n")
    program = start(
        url, "--queue", queue_name, "--processes", "2", "--preload", "early_one", cwd=tmp_path
    )
    with RedisExecutor(url=url, queue=queue_name) as executor:
        found = {executor.submit(tasks.preloaded, "early_one").result(WAIT) for _ in range(5)}
    assert found == {program.process.pid}


@pytest.mark.parametrize(
    "module, text, said",
    [
        ("nowhere_to_be_found", None, "no module 'nowhere_to_be_found'"),
        ("nowhere_to_be_found.inside", None, "no module 'nowhere_to_be_found'"),
        ("needs_more", "import nowhere_to_be_found", "nowhere_to_be_found"),
        ("raises", "1 / 0", "ZeroDivisionError"),
        ("ends", "raise SystemExit(0)", "SystemExit"),
    ],
)
def test_a_module_that_cannot_be_preloaded(
    start: Callable[..., Program],
    url: str,
    tmp_path: Path,
    module: str,
    text: str | None,
    said: str,
) -> None:
    if text is not None:
        (tmp_path / f"{module}.py").write_text(text)
    program = start(url, "--preload", module, cwd=tmp_path)
    assert program.wait() == 2
    *_, last = program.output.splitlines()
    assert said in last
    # Where it was is shown only of what the module itself does wrong.
    assert ("Traceback" in program.output) == (text is not None)


# The end


def test_it_ends_when_nothing_runs_for_long(
    serve: Callable[..., Program], executor: RedisExecutor
) -> None:
    future = executor.submit(do.square, 3)
    program = serve("--processes", "2", "--max-idle-time", "2")
    assert future.result(WAIT) == 9
    assert program.wait() == 0
    assert "nothing is left to do" in program.output


def test_what_is_paused_is_left(
    start: Callable[..., Program], executor: RedisExecutor, url: str, queue_name: str
) -> None:
    executor.submit(do.square, 3)
    settings = Settings(hash_tag=queue_name)
    with PressureQueue[bytes](queue_name, url=url, settings=settings) as queue:
        assert eventually(lambda: queue.exists and queue.qsize() == 1, WAIT)
        queue.pause()
        program = start(url, "--queue", queue_name, "--processes", "1", "--burst")
        assert program.wait() == 0
        assert f"but in what is paused: '{queue_name}'" in program.output
        assert queue.qsize() == 1


def test_closed_streams_do_no_harm(
    executor: RedisExecutor, url: str, queue_name: str, client: redis.Redis
) -> None:
    future = executor.submit(do.square, 3)
    assert eventually(lambda: client.llen(f"__pressure__:{{{queue_name}}}") == 1, WAIT)
    daemon = [*COMMAND, url, "--queue", queue_name, "--processes", "1", "--burst"]
    closed = subprocess.run(
        ["sh", "-c", f"exec {shlex.join(daemon)} <&- >&- 2>&-"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=WAIT,
    )
    assert closed.returncode == 0
    assert future.result(WAIT) == 9


def test_a_task_that_runs_is_not_idleness(
    serve: Callable[..., Program], executor: RedisExecutor, tmp_path: Path
) -> None:
    runs = executor.submit(do.hold, str(tmp_path), "runs")
    program = serve("--processes", "2", "--max-idle-time", "2")
    assert eventually((tmp_path / "runs").exists, WAIT)
    with pytest.raises(subprocess.TimeoutExpired):
        program.process.wait(2.5)
    (tmp_path / "go").touch()
    assert runs.result(WAIT) == "runs"
    assert program.wait() == 0


# The log


def test_each_line_of_the_log_can_be_json(
    serve: Callable[..., Program], executor: RedisExecutor
) -> None:
    program = serve("--processes", "1", "--log-format", "json")
    printing = executor.submit(print, "on", "stderr,\ntwice", flush=True, file=None)
    assert printing.result(WAIT) is None
    poison = executor.options(max_deliveries=1).submit(tasks.say_and_die, "last words")
    with pytest.raises(WorkerLostError, match="last words"):
        poison.result(WAIT)
    program.process.send_signal(signal.SIGUSR1)
    assert eventually(lambda: program.workers_told() >= 1, WAIT)
    program.process.terminate()
    assert program.wait() == 0
    lines = [line for line in program.output.splitlines() if line not in ("on stderr,", "twice")]
    records = [json.loads(line) for line in lines]
    for record in records:
        assert set(record) >= {"time", "level", "logger", "pid", "message"}
        assert datetime.fromisoformat(record["time"]).tzinfo is not None
        assert record["level"] in ("INFO", "WARNING")
    said = [record["message"] for record in records]
    assert any("processes serve queue" in message for message in said)
    words = [record for record in records if "last words" in record["message"]]
    assert [record["logger"] for record in words] == ["pressure.worker.stderr"]
    assert words[0]["pid"] != program.process.pid
    assert any("died: exit code 5" in message for message in said)


# Health checks


def test_health_checks(
    serve: Callable[..., Program], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A directory of its own: other daemons run on this machine.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    env = {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}

    def well(name: str | None) -> bool:
        return check_health(name)[0]

    assert not well(None)
    first = serve("--processes", "2", "--name", "first/one", env=env)
    assert eventually(lambda: well(None), WAIT)
    second = serve("--processes", "1", "--name", "second", env=env)
    assert eventually(lambda: well("second") and well(None), WAIT)
    assert len(check_health(None)[1]) == 2

    command = [*COMMAND, "--check", "--name", "first/one"]
    done = subprocess.run(command, env=os.environ | env, stdout=subprocess.PIPE, timeout=WAIT)
    assert done.returncode == 0
    said = f"first/one (pid {first.process.pid}) is healthy: "
    assert done.stdout.decode().startswith(said)

    # Who was killed is not there any more, and no reason to complain about the others.
    first.process.kill()
    first.wait()
    assert not well("first/one")
    assert well(None)
    second.process.terminate()
    assert second.wait() == 0
    assert not well(None)
    done = subprocess.run(command[:-2], env=os.environ | env, stdout=subprocess.PIPE, timeout=WAIT)
    assert done.returncode == 1
    assert done.stdout == b"no pressure-worker of this user is running here\n"


# The service manager


Notified = tuple[SimpleQueue[list[str]], str]
"""What the service manager hears, and its address."""


@pytest.fixture(params=["path", "abstract"])
def notified(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Notified]:
    if request.param == "abstract" and not sys.platform.startswith("linux"):
        pytest.skip("abstract sockets are Linux's")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        name = f"pressure-test-{os.getpid()}"
        path = f"\0{name}" if request.param == "abstract" else str(tmp_path / "notify")
        manager.bind(path)
        heard: SimpleQueue[list[str]] = SimpleQueue()

        def listen() -> None:
            while lines := manager.recv(4096).decode().splitlines():
                heard.put(lines)

        # At all times: a socket holds ten messages, and nobody waits until there is room.
        listener = threading.Thread(target=listen)
        listener.start()
        yield heard, path.replace("\0", "@")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ending:
            ending.sendto(b"", path)
        listener.join(WAIT)


def test_the_service_manager_is_told(
    serve: Callable[..., Program],
    executor: RedisExecutor,
    notified: Notified,
) -> None:
    heard, address = notified
    env = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "400000"}

    def hear(word: str) -> list[str]:
        while True:
            lines = heard.get(timeout=WAIT)
            if word in lines:
                return lines

    program = serve("--processes", "1", env=env)
    assert any(line.startswith("STATUS=1 processes") for line in hear("READY=1"))
    for _ in range(3):
        hear("WATCHDOG=1")
    program.process.send_signal(signal.SIGHUP)
    assert any(line.startswith("MONOTONIC_USEC=") for line in hear("RELOADING=1"))
    hear("READY=1")
    # That is no concern of the tasks.
    assert executor.submit(os.getenv, "NOTIFY_SOCKET").result(WAIT) is None
    program.process.terminate()
    hear("STOPPING=1")
    assert program.wait() == 0


# What it looks at first


def test_a_server_that_forgets_is_warned_of(
    start: Callable[..., Program], make_server: Callable[..., ServerProcess]
) -> None:
    server = make_server(extra_args=["--maxmemory-policy", "allkeys-lru"])
    program = start(server.url, "--processes", "1")
    assert program.says("processes serve")
    (line,) = [line for line in program.output.splitlines() if "allkeys-lru" in line]
    assert "WARNING" in line
    assert "CONFIG SET maxmemory-policy noeviction" in line


def test_a_user_who_may_not_ask_may_work(
    start: Callable[..., Program], make_server: Callable[..., ServerProcess]
) -> None:
    server = make_server()
    with server.client() as admin:
        admin.execute_command(
            "ACL", "SETUSER", "worker", "on", ">pass", "~*", "&*", "+@all", "-info", "-config"
        )
    url = f"unix://worker:pass@{server.socket_path}"
    program = start(url, "--processes", "1")
    assert program.says("processes serve"), program.output
    assert "may not ask" in program.output
    assert "WARNING" not in program.output
    with RedisExecutor(url=server.url) as executor:
        assert executor.submit(do.square, 3).result(WAIT) == 9


def test_a_database_that_is_not_there_is_a_finding(url: str) -> None:
    address = Address.of(url)
    address.settings["db"] = 10**6
    (finding,) = check_server(address)
    assert finding.severity is Severity.REFUSAL
    assert "a database of that number" in str(finding)


def test_a_wrong_password_is_told_in_a_sentence(
    start: Callable[..., Program], make_server: Callable[..., ServerProcess]
) -> None:
    server = make_server(password="right")
    program = start(f"unix://:wrong@{server.socket_path}")
    assert program.wait() == 1
    (line,) = program.output.splitlines()
    assert line.startswith("pressure-worker: ")
    assert "refused" in line
    assert "wrong" not in line.lower().replace("wrongpass", "")
