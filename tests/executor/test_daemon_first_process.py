"""`pressure-worker` as the first process of a container: a process namespace of its own."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pressure.executor import RedisExecutor
from tests.contract import executing as do
from tests.executor import daemon_tasks as tasks
from tests.executor.programs import Program, program
from tests.support.waiting import eventually

WAIT = 40.0
WAYS = (
    ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child"),
    ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"),
)


@functools.cache
def way() -> tuple[str, ...]:
    """A command that runs another as process 1; empty if this machine permits none."""
    for command in WAYS:
        try:
            subprocess.run([*command, "true"], check=True, capture_output=True, timeout=20)
        except (OSError, subprocess.SubprocessError):
            continue
        return command
    return ()


class Container:
    """A daemon in it. Pids are those seen from outside."""

    def __init__(self, running: Program) -> None:
        self.program = running
        assert running.says("processes serve queue"), running.output
        (self.first,) = running.children()

    def children(self, pid: int) -> list[int]:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(child) for child in found.split()]

    @property
    def supervisor(self) -> int:
        return self.children(self.first)[0]


@pytest.fixture
def container(url: str, queue_name: str) -> Iterator[Container]:
    if not way():
        pytest.skip("no process namespace can be made here")
    arguments = [url, "--queue", queue_name, "--processes", "2"]
    with program(*arguments, wrapper=way()) as running:
        yield Container(running)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_heeded(
    container: Container, executor: RedisExecutor, number: int, tmp_path: Path
) -> None:
    """The kernel gives process 1 none that it has no handler for."""
    runs = executor.submit(do.hold, str(tmp_path), "runs")
    assert eventually((tmp_path / "runs").exists, WAIT)
    os.kill(container.first, number)
    assert container.program.says("stopping")
    (tmp_path / "go").touch()
    assert runs.result(WAIT) == "runs"
    assert container.program.wait() == 0


def test_sighup_replaces_workers(container: Container, executor: RedisExecutor) -> None:
    before = set(container.children(container.supervisor))
    os.kill(container.first, signal.SIGHUP)
    assert container.program.says("are replaced")
    assert eventually(lambda: not before & set(container.children(container.supervisor)), WAIT)
    assert executor.submit(do.square, 3).result(WAIT) == 9


def test_orphans_are_reaped_and_workers_seen_to_die(
    container: Container, executor: RedisExecutor, tmp_path: Path
) -> None:
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        executor.submit(tasks.orphan, str(tmp_path / str(number))).result(WAIT)
    supervisor = container.supervisor
    # The orphans were given to process 1, which has none of them any more, dead or alive.
    assert eventually(lambda: container.children(container.first) == [supervisor], WAIT)
    victim = container.children(supervisor)[0]
    os.kill(victim, signal.SIGKILL)
    assert container.program.says("died: SIGKILL")
    assert eventually(lambda: victim not in container.children(supervisor), WAIT)
    assert executor.submit(do.square, 3).result(WAIT) == 9


def test_the_container_ends_with_its_daemon(container: Container) -> None:
    os.kill(container.supervisor, signal.SIGKILL)
    assert container.program.wait() == 128 + signal.SIGKILL


def test_a_refusal_has_its_exit_code(start: Callable[..., Program], tmp_path: Path) -> None:
    if not way():
        pytest.skip("no process namespace can be made here")
    running = start(f"unix://{tmp_path}/none", wrapper=way())
    assert running.wait() == 1
    assert "no usable server" in running.output
