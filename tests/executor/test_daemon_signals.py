"""Signals and orders to `pressure-worker`, at whatever moment they come."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from pressure import Settings
from pressure.address import Address
from pressure.channel import Channel
from pressure.channel.registry import Registry
from pressure.executor import RedisExecutor
from pressure.executor.orders import OrderKind, give_orders
from tests.contract import executing as do
from tests.executor.crews import ROOT
from tests.executor.programs import COMMAND, Program
from tests.support.waiting import eventually

WAIT = 40.0


def test_sighup_replaces_idle_workers(
    serve: Callable[..., Program], executor: RedisExecutor
) -> None:
    program = serve("--processes", "2")
    assert eventually(lambda: len(program.children()) == 2)
    before = set(program.children())
    program.process.send_signal(signal.SIGHUP)
    assert program.says("are replaced")
    assert eventually(lambda: len(set(program.children()) - before) == 2, WAIT)
    assert eventually(lambda: not before & set(program.children()), WAIT)
    assert executor.submit(do.pid).result(WAIT) in program.children()
    assert "died" not in program.output


def test_sighup_lets_a_task_finish(
    serve: Callable[..., Program], executor: RedisExecutor, tmp_path: Path
) -> None:
    program = serve("--processes", "1")
    runs = executor.submit(do.hold, str(tmp_path), "runs")
    assert eventually((tmp_path / "runs").exists, WAIT)
    waits = [executor.submit(do.square, x) for x in range(5)]
    (before,) = program.children()
    # Whoever is told twice is not replaced twice.
    for _ in range(2):
        program.process.send_signal(signal.SIGHUP)
    assert program.says("are replaced")
    (tmp_path / "go").touch()
    assert runs.result(WAIT) == "runs"
    assert [future.result(WAIT) for future in waits] == [x * x for x in range(5)]
    assert all(info["deliveries"] == 0 for info in [runs.info(), *(f.info() for f in waits)])
    assert program.children() != [before]
    assert "died" not in program.output


def test_signals_at_any_moment_lose_nothing(
    serve: Callable[..., Program], executor: RedisExecutor
) -> None:
    program = serve("--processes", "2")
    chance = random.Random(5)
    futures = [executor.submit(do.square, x) for x in range(300)]
    for number in range(12):
        time.sleep(chance.uniform(0.0, 0.05))
        if number % 3 == 0:
            program.process.send_signal(signal.SIGHUP)
        else:
            # An operator may mean one of the workers, which may be gone by then.
            with contextlib.suppress(ProcessLookupError, IndexError):
                os.kill(chance.choice(program.children()), signal.SIGHUP)
        futures += [executor.submit(do.square, x) for x in range(300)]
    assert [future.result(WAIT) for future in futures] == [x * x for x in range(300)] * 13
    # Nothing was charged for it: nobody died.
    assert sum(future.info()["deliveries"] for future in futures) == 0
    assert "died" not in program.output
    program.process.terminate()
    assert program.wait() == 0


@pytest.mark.parametrize("after", [0.0, 0.1, 0.2, 0.3])
def test_sigterm_while_it_starts(
    start: Callable[..., Program], url: str, queue_name: str, after: float
) -> None:
    program = start(url, "--queue", queue_name, "--processes", "2")
    time.sleep(after)
    program.process.terminate()
    # Before it has a handler, the signal itself ends it.
    assert program.wait() in (0, -signal.SIGTERM)
    assert "Traceback" not in program.output


def test_who_ends_before_it_is_ready_is_signed_off(
    url: str, queue_name: str, client: redis.Redis, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    script = (
        "import os, signal; from pathlib import Path; from pressure.executor import cli\n"
        "from pressure.executor.worker import watchdog\n"
        "def stop(self):\n"
        f"    Path({str(told)!r}).touch()\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "watchdog.Watchdog.start = stop\n"
        "cli.main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, url, "--queue", queue_name, "--processes", "1"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert eventually(told.exists, WAIT)
        process.terminate()
        _, said = process.communicate(timeout=WAIT)
        assert process.returncode == 0
        assert "died" not in said
    finally:
        process.kill()
        process.wait(WAIT)
    assert client.zcard(f"__pressure__:{{{queue_name}}}:leases") == 0


def test_what_is_meant_for_workers_may_come_before_them(
    serve: Callable[..., Program], tmp_path: Path
) -> None:
    (tmp_path / "signals.py").write_text(
        "import os, signal\n"
        "os.kill(os.getpid(), signal.SIGHUP)\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\n"
    )
    program = serve("--processes", "1", "--preload", "signals", cwd=tmp_path)
    program.process.terminate()
    assert program.wait() == 0


def test_sigusr1_tells_where_everybody_is(
    serve: Callable[..., Program], executor: RedisExecutor, tmp_path: Path
) -> None:
    program = serve("--processes", "2")
    runs = executor.submit(do.hold, str(tmp_path), "runs")
    assert eventually((tmp_path / "runs").exists, WAIT)
    assert eventually(lambda: len(program.children()) == 2)
    program.process.send_signal(signal.SIGUSR1)
    assert program.says("stacks of all processes")
    # The supervisor, the worker that runs the task, and the idle one.
    assert eventually(lambda: program.workers_told() >= 2, WAIT), program.output
    assert re.search(r'supervisor\.py", line \d+ in _dump_stacks', program.output)
    assert re.search(r'executing\.py", line \d+ in hold', program.output)
    (tmp_path / "go").touch()
    assert runs.result(WAIT) == "runs"
    assert "died" not in program.output


def test_what_a_task_starts_is_not_a_worker(
    serve: Callable[..., Program], executor: RedisExecutor
) -> None:
    """Its signals are those of any process."""
    serve("--processes", "1")
    script = "import os, signal; os.kill(os.getpid(), signal.SIGUSR1)"
    ended = executor.submit(subprocess.run, [sys.executable, "-c", script]).result(WAIT)
    assert ended.returncode == -signal.SIGUSR1


def test_ctrl_c_reaches_the_daemon_alone(
    url: str, queue_name: str, executor: RedisExecutor, tmp_path: Path
) -> None:
    """A terminal sends SIGINT to its whole process group: what tasks have started goes on."""
    path = {"PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(
        [*COMMAND, url, "--queue", queue_name, "--processes", "1"],
        env=os.environ | path,
        process_group=0,
        stderr=subprocess.DEVNULL,
    )
    try:
        script = f"open({str(tmp_path / 'begun')!r}, 'w'); import time; time.sleep(0.5)"
        future = executor.submit(subprocess.run, [sys.executable, "-c", script])
        assert eventually((tmp_path / "begun").exists, WAIT)
        os.killpg(process.pid, signal.SIGINT)
        assert future.result(WAIT).returncode == 0
        assert process.wait(WAIT) == 0
    finally:
        process.kill()
        process.wait(WAIT)


# Orders


@pytest.fixture
def channel(url: str, queue_name: str) -> Iterator[Channel]:
    channel = Channel(
        queue_name, Address.of(url), tag=queue_name, prefix="__pressure__", settings=Settings()
    )
    yield channel
    channel.disconnect()


def daemon_id(channel: Channel, name: str) -> bytes:
    def find() -> list[str]:
        return [record.daemon for record in Registry(channel.handle).roll() if record.name == name]

    assert eventually(lambda: bool(find()), WAIT)
    return bytes.fromhex(find()[0])


def test_a_daemon_answers_and_stops_when_told_to(
    serve: Callable[..., Program],
    channel: Channel,
    executor: RedisExecutor,
    client: redis.Redis,
    tmp_path: Path,
) -> None:
    program = serve("--processes", "2", "--name", "ours")
    nobody = os.urandom(16)
    assert give_orders(channel, [nobody], OrderKind.PING, timeout=0.5) == {nobody: None}
    daemon = daemon_id(channel, "ours")
    answer = give_orders(channel, [daemon], OrderKind.PING, timeout=WAIT)[daemon]
    assert answer is not None
    assert (answer["name"], answer["pid"]) == ("ours", program.process.pid)
    assert (answer["processes"], answer["stopping"]) == (2, False)
    assert answer["seconds"] < WAIT
    assert program.process.poll() is None

    runs = executor.submit(do.hold, str(tmp_path), "runs")
    assert eventually((tmp_path / "runs").exists, WAIT)
    # Told twice, it is no less patient.
    for _ in range(2):
        answer = give_orders(channel, [daemon], OrderKind.STOP, timeout=WAIT)[daemon]
        assert answer is not None
        assert answer["stopping"]
    assert program.says("stopping: ")
    (tmp_path / "go").touch()
    assert runs.result(WAIT) == "runs"
    assert program.wait() == 0
    # Nothing stays of its orders, or of the answers.
    left = client.keys(f"__pressure__:{{{channel.name}}}:reply:*")
    assert not [key for key in left if daemon.hex().encode() in key]
    assert not [key for key in left if channel.client_id.hex().encode() in key]


def test_an_order_to_stop_brings_its_own_grace(
    serve: Callable[..., Program], channel: Channel, executor: RedisExecutor, tmp_path: Path
) -> None:
    program = serve("--processes", "1", "--name", "ours")
    executor.submit(do.hold, str(tmp_path), "runs")
    assert eventually((tmp_path / "runs").exists, WAIT)
    give_orders(channel, [daemon_id(channel, "ours")], OrderKind.STOP, grace=0.1)
    assert program.wait() == 0


def test_an_order_without_the_key_is_not_obeyed(
    start: Callable[..., Program], url: str, queue_name: str, channel: Channel, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("secret-of-many-letters\n")
    program = start(url, "--queue", queue_name, "--key-file", str(key), "--name", "ours")
    assert program.says("processes serve")
    daemon = daemon_id(channel, "ours")
    assert give_orders(channel, [daemon], OrderKind.STOP, timeout=1.0) == {daemon: None}
    assert program.says("an order is ignored")
    assert program.process.poll() is None
