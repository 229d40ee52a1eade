"""`pressure-worker --burst`: it ends when there is nothing left to do."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from pressure.executor import RedisExecutor, current_executor
from pressure.keys import Keys
from tests.contract import executing as do
from tests.executor.programs import Program
from tests.support.waiting import eventually

WAIT = 30.0


def spawn(directory: str, count: int) -> None:
    """Submit tasks, and end without waiting for them."""
    executor = current_executor()
    for x in range(count):
        executor.submit(do.mark, directory, str(x))


@pytest.fixture
def start(url: str) -> Iterator[Callable[..., Program]]:
    programs: list[Program] = []

    def start_one(*queues: str, processes: int = 2) -> Program:
        named = [word for queue in queues for word in ("--queue", queue)]
        number = str(processes)
        programs.append(Program(url, *named, "--burst", "--lease", "2", "--processes", number))
        return programs[-1]

    yield start_one
    for program in programs:
        program.close()


@pytest.fixture(params=[1, 3])
def queues(request: pytest.FixtureRequest, queue_name: str) -> list[str]:
    return [f"{queue_name}-{number}" for number in range(request.param)]


def all_sent(client: redis.Redis, queue: str, count: int) -> bool:
    """Whether so many tasks are in the queue, as they are a moment after they were submitted."""
    base = Keys("__pressure__", queue, hash_tag=queue).base
    return eventually(lambda: client.llen(base) == count, WAIT)


def left(client: redis.Redis, queue: str) -> int:
    keys = Keys("__pressure__", queue, hash_tag=queue)
    return int(client.llen(keys.base)) + int(client.zcard(keys.leases))


def test_it_ends_when_all_queues_are_empty(
    start: Callable[..., Program], url: str, client: redis.Redis, queues: list[str]
) -> None:
    executors = [RedisExecutor(url=url, queue=queue) for queue in queues]
    futures = [executor.submit(do.slowly, x) for x in range(8) for executor in executors]
    assert all(all_sent(client, queue, 8) for queue in queues)
    program = start(*queues)
    assert program.wait() == 0, program.output
    # Nobody is left who could run one now; the last answers may be on their way.
    results = [future.result(WAIT) for future in futures]
    assert results == [x for x in range(8) for _ in executors]
    assert all(left(client, queue) == 0 for queue in queues)
    assert "died" not in program.output
    for executor in executors:
        executor.shutdown()


def test_without_tasks_it_ends_at_once(start: Callable[..., Program], queues: list[str]) -> None:
    program = start(*queues)
    assert program.wait() == 0, program.output


def test_it_does_what_its_last_task_leaves_behind(
    start: Callable[..., Program], url: str, client: redis.Redis, queue_name: str, tmp_path: Path
) -> None:
    with RedisExecutor(url=url, queue=queue_name) as executor:
        runs = executor.submit(do.hold, str(tmp_path), "runs")
        assert all_sent(client, queue_name, 1)
        program = start(queue_name)
        assert eventually((tmp_path / "runs").exists, WAIT)
        # The other process has nothing to do, and ends.
        assert eventually(lambda: len(program.children()) == 1, WAIT)
        more = [executor.submit(do.square, x) for x in range(50)]
        assert all_sent(client, queue_name, 50)
        (tmp_path / "go").touch()
        assert runs.result(WAIT) == "runs"
        assert [future.result(WAIT) for future in more] == [x * x for x in range(50)]
        assert program.wait() == 0, program.output
    assert left(client, queue_name) == 0


def test_what_tasks_have_submitted_is_done(
    start: Callable[..., Program], url: str, client: redis.Redis, queues: list[str], tmp_path: Path
) -> None:
    with RedisExecutor(url=url, queue=queues[-1]) as executor:
        future = executor.submit(spawn, str(tmp_path), 20)
        assert all_sent(client, queues[-1], 1)
        program = start(*queues, processes=1)
        assert program.wait() == 0, program.output
        assert future.result(WAIT) is None
    assert len(list(tmp_path.iterdir())) == 20
    assert left(client, queues[-1]) == 0


def test_a_worker_that_dies_does_not_end_it(
    start: Callable[..., Program], url: str, client: redis.Redis, queue_name: str, tmp_path: Path
) -> None:
    with RedisExecutor(url=url, queue=queue_name) as executor:
        runs = executor.submit(do.hold, str(tmp_path), "runs")
        assert all_sent(client, queue_name, 1)
        program = start(queue_name, processes=1)
        assert eventually((tmp_path / "runs").exists, WAIT)
        (tmp_path / "go").touch()
        for pid in program.children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert runs.result(WAIT) == "runs"
        assert program.wait() == 0, program.output
    assert left(client, queue_name) == 0
