"""One daemon that serves several queues."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import pytest
import redis

from pressure import PressureQueue
from pressure.address import Address
from pressure.channel import Channel
from pressure.executor import (
    RedisExecutor,
    TaskFuture,
    TaskTerminatedError,
    TaskTimeoutError,
    WorkerLostError,
    context,
    current_executor,
)
from pressure.keys import Keys
from pressure.settings import Settings
from tests.contract import executing as do
from tests.executor.programs import Program
from tests.support.fixtures import keys_left
from tests.support.servers import ServerProcess
from tests.support.waiting import eventually

WAIT = 30.0
PREFIX = "__pressure__"
LETTERS = "abc"


# What runs in workers


def note(path: str, name: str, seconds: float = 0.0) -> None:
    time.sleep(seconds)
    with open(path, "a") as file:
        file.write(name + "\n")


def queue_of_this() -> str:
    here = context.here()
    assert here is not None
    return here.queue()


def family(levels: int) -> list[str]:
    """The queue of this task, and those of its descendants."""
    child = current_executor().submit(family, levels - 1) if levels else None
    return [queue_of_this(), *(child.result() if child is not None else [])]


def hold_the_interpreter(path: str) -> bool:
    Path(path).touch()
    return re.match(r"(a+)+$", "a" * 64 + "b") is None


class Served:
    """A daemon, and an executor for each of its queues."""

    def __init__(self, daemon: Program, url: str, names: list[str]) -> None:
        self.daemon = daemon
        self.url = url
        self.names = names
        self.executors = [RedisExecutor(url=url, queue=name) for name in names]

    def keys(self, number: int) -> Keys:
        return Keys(PREFIX, self.names[number], hash_tag=self.names[number])

    @contextlib.contextmanager
    def channel(self, number: int) -> Iterator[Channel]:
        name = self.names[number]
        channel = Channel(name, Address.of(self.url), tag=name, prefix=PREFIX, settings=Settings())
        yield channel
        channel.disconnect()

    def close(self) -> None:
        for executor in self.executors:
            executor.shutdown(wait=False, cancel_futures=True)
        self.daemon.close()
        # Shown if the test has failed.
        print(self.daemon.output)


@pytest.fixture
def serve(url: str, queue_name: str) -> Iterator[Callable[..., Served]]:
    made: list[Served] = []

    def start(*arguments: str, at: str = url) -> Served:
        names = [f"{queue_name}-{letter}" for letter in LETTERS]
        queues = [word for name in names for word in ("--queue", name)]
        daemon = Program(at, *queues, "--lease", "3", *arguments)
        made.append(Served(daemon, at, names))
        return made[-1]

    yield start
    for served in made:
        served.close()


@pytest.fixture(scope="module")
def shared(server: ServerProcess) -> Iterator[Served]:
    """One with a single process, for tests that leave it as it was."""
    name = f"shared-{uuid.uuid4().hex[:12]}"
    names = [f"{name}-{letter}" for letter in LETTERS]
    queues = [word for one in names for word in ("--queue", one)]
    daemon = Program(server.url, *queues, "--lease", "3", "--processes", "1")
    served = Served(daemon, server.url, names)
    yield served
    served.close()
    with server.client() as client:
        left = keys_left(client, name)
        if left:
            client.delete(*(key.encode(errors="surrogateescape") for key in left))


def results(futures: list[TaskFuture[Any]]) -> list[Any]:
    return [future.result(WAIT) for future in futures]


# Fairness


def test_an_idle_worker_hears_of_each_queue_at_once(shared: Served) -> None:
    assert shared.executors[0].submit(do.square, 1).result(WAIT) == 1
    began = time.monotonic()
    for number in range(60):
        executor = shared.executors[number * 7 % 3]
        assert executor.submit(do.square, number).result(WAIT) == number * number
    # With slices of two seconds it would take two minutes.
    assert time.monotonic() - began < 40


@pytest.mark.parametrize("busy, lonely", [(0, 2), (2, 0)])
def test_a_long_queue_does_not_hold_up_a_single_task(
    shared: Served, busy: int, lonely: int
) -> None:
    large = RedisExecutor(url=shared.url, queue=shared.names[busy])
    many = [large.submit(time.sleep, 0.01) for _ in range(3000)]
    assert many[20].result(WAIT) is None
    assert shared.executors[lonely].submit(do.square, 3).result(WAIT) == 9
    assert not many[-1].done()
    large.shutdown(wait=False, cancel_futures=True)


def test_full_queues_are_served_in_turn(
    serve: Callable[..., Served], client: redis.Redis, tmp_path: Path
) -> None:
    served = serve("--processes", "1")
    runs = served.executors[2].submit(do.hold, str(tmp_path), "runs")
    assert eventually((tmp_path / "runs").exists, WAIT)
    log = tmp_path / "log"
    futures = [
        served.executors[number].submit(note, str(log), name, 0.04)
        for number, name in enumerate("ab")
        for _ in range(15)
    ]
    keys = [served.keys(number).base for number in range(2)]
    assert eventually(lambda: [client.llen(key) for key in keys] == [15, 15], WAIT)
    (tmp_path / "go").touch()
    wait(list[Future[Any]]([runs, *futures]), WAIT)
    order = log.read_text().split()
    assert len(order) == 30
    ahead = [order[:n].count("a") - order[:n].count("b") for n in range(1, 31)]
    assert max(map(abs, ahead)) <= 2, order


def test_a_long_task_holds_up_no_queue(serve: Callable[..., Served], tmp_path: Path) -> None:
    served = serve("--processes", "2")
    first, second, _ = served.executors
    results([executor.submit(do.square, x) for x in range(200) for executor in served.executors])
    before = [executor.submit(do.square, x) for x in range(100) for executor in served.executors]
    long = first.submit(do.hold, str(tmp_path), "runs")
    after = [executor.submit(do.square, x) for x in range(300) for executor in (first, second)]
    results(before + after)
    assert not long.done()
    (tmp_path / "go").touch()
    assert long.result(WAIT) == "runs"


# Nothing is lost


def test_workers_are_killed_again_and_again(
    serve: Callable[..., Served], client: redis.Redis, tmp_path: Path
) -> None:
    served = serve("--processes", "2")
    log = tmp_path / "log"
    futures = {
        f"{number}-{x}": executor.options(max_deliveries=50).submit(note, str(log), f"{number}-{x}")
        for x in range(400)
        for number, executor in enumerate(served.executors)
    }
    slow = [executor.submit(do.slowly, 1) for executor in served.executors for _ in range(10)]
    for _ in range(6):
        victims: list[int] = []

        def some_live(victims: list[int] = victims) -> bool:
            victims[:] = served.daemon.children()
            return bool(victims)

        assert eventually(some_live, WAIT)
        with contextlib.suppress(ProcessLookupError):
            os.kill(victims[0], signal.SIGKILL)
        time.sleep(0.1)
    results([*futures.values(), *slow])
    assert set(log.read_text().split()) == set(futures)
    served.daemon.process.terminate()
    assert served.daemon.wait() == 0
    for number in range(3):
        keys = served.keys(number)
        assert client.llen(keys.base) == 0
        assert client.zcard(keys.leases) == 0
        name = served.names[number]
        assert not [
            key for key in keys_left(client, name) if ":taken:" in key and ":reply:" not in key
        ]


def test_a_death_is_held_against_the_running_task_alone(shared: Served) -> None:
    first, second, third = shared.executors
    others = [executor.submit(do.square, x) for x in range(50) for executor in (first, third)]
    poison: Future[Any] = second.options(max_deliveries=1).submit(os._exit, 3)
    others += [executor.submit(do.square, x) for x in range(50) for executor in (first, third)]
    with pytest.raises(WorkerLostError):
        poison.result(WAIT)
    results(others)
    assert all(future.info()["deliveries"] == 0 for future in others)


def test_connections_are_cut_again_and_again(
    serve: Callable[..., Served], make_server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    server = make_server()
    served = serve("--processes", "1", at=server.url)
    log = tmp_path / "log"
    names = []
    client: Any = server.client()
    for round in range(8):
        futures = []
        for number, executor in enumerate(served.executors):
            for x in range(5):
                names.append(f"{round}-{number}-{x}")
                futures.append(executor.submit(note, str(log), names[-1]))
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        results(futures)
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    client.close()
    # A task's outcome is sent again under the same lease: none ran twice.
    assert sorted(log.read_text().split()) == sorted(names)


def test_a_server_comes_back_empty(
    serve: Callable[..., Served], make_server: Callable[..., ServerProcess]
) -> None:
    server = make_server()
    served = serve("--processes", "1", at=server.url)
    assert results([one.submit(do.square, 2) for one in served.executors]) == [4, 4, 4]
    server.restart(keep_data=False)
    assert results([one.submit(do.square, 3) for one in served.executors]) == [9, 9, 9]


def test_one_queue_is_deleted_and_another_is_closed(serve: Callable[..., Served]) -> None:
    served = serve("--processes", "1")
    assert results([one.submit(do.square, 2) for one in served.executors]) == [4, 4, 4]
    with served.channel(1) as channel:
        channel.ensure()
        channel.delete()
    closing: PressureQueue[Any] = PressureQueue(
        served.names[2], url=served.url, settings=Settings(hash_tag=served.names[2])
    )
    closing.close()
    closing.disconnect()
    with RedisExecutor(url=served.url, queue=served.names[1]) as anew:
        for x in range(20):
            assert served.executors[0].submit(do.square, x).result(WAIT) == x * x
            assert anew.submit(do.square, x).result(WAIT) == x * x


def test_one_queue_is_paused(shared: Served, tmp_path: Path) -> None:
    assert results([one.submit(do.square, 2) for one in shared.executors]) == [4, 4, 4]
    paused: PressureQueue[Any] = PressureQueue(
        shared.names[1], url=shared.url, settings=Settings(hash_tag=shared.names[1])
    )
    paused.pause()
    waits = shared.executors[1].submit(do.mark, str(tmp_path), "ran")
    for x in range(20):
        assert shared.executors[x % 2 * 2].submit(do.square, x).result(WAIT) == x * x
    assert not (tmp_path / "ran").exists()
    paused.resume()
    paused.disconnect()
    assert waits.result(WAIT) is None
    assert (tmp_path / "ran").exists()


# Tasks belong to their queue


def test_tasks_submit_to_the_queue_that_they_came_from(shared: Served) -> None:
    futures = [one.submit(family, 3) for _ in range(3) for one in shared.executors]
    for number, future in enumerate(futures):
        assert future.result(WAIT) == [shared.names[number % 3]] * 4


def test_functions_and_shared_arguments_of_each_queue(shared: Served) -> None:
    text = "x" * 5000

    def by_value(number: int, many: list[int]) -> tuple[int, int]:
        return number + len(text), len(many)

    for number, executor in enumerate(shared.executors):
        with executor.share(list(range(1000 + number))) as many:
            futures = [executor.submit(by_value, x, many) for x in range(3)]
            assert results(futures) == [(5000 + x, 1000 + number) for x in range(3)]


def test_each_queue_runs_tasks_at_most_once(shared: Served) -> None:
    futures = [one.options(max_deliveries=1).submit(do.square, 2) for one in shared.executors * 5]
    assert results(futures) == [4] * 15


def test_large_answers(shared: Served) -> None:
    futures = [one.submit(do.blob, 300_000 + n) for n, one in enumerate(shared.executors)]
    assert [len(data) for data in results(futures)] == [300_000, 300_001, 300_002]


@pytest.mark.parametrize("number", [0, 2])
def test_tasks_are_ended(shared: Served, number: int, tmp_path: Path) -> None:
    executor = shared.executors[number]
    others = [one.submit(do.square, 2) for one in shared.executors]
    late = executor.options(timeout=0.2).submit(time.sleep, 60)
    with pytest.raises(TaskTimeoutError):
        late.result(WAIT)
    stuck = executor.submit(hold_the_interpreter, str(tmp_path / "stuck"))
    assert eventually((tmp_path / "stuck").exists, WAIT)
    # What waits behind it is given back, though the worker itself can't do so.
    executor.options(grace=0.1).terminate(stuck)
    with pytest.raises(TaskTerminatedError):
        stuck.result(WAIT)
    assert results(others) == [4, 4, 4]
    assert executor.submit(do.square, 3).result(WAIT) == 9


def test_processes_are_replaced_after_so_many_tasks(serve: Callable[..., Served]) -> None:
    served = serve("--processes", "1", "--max-tasks-per-child", "4")
    pids = [one.submit(do.pid).result(WAIT) for _ in range(4) for one in served.executors]
    assert [len(set(pids[n : n + 4])) for n in (0, 4, 8)] == [1, 1, 1]
    assert len(set(pids)) == 3


def test_sigterm_gives_back_to_each_queue(
    serve: Callable[..., Served], client: redis.Redis, tmp_path: Path
) -> None:
    served = serve("--processes", "1")
    runs = served.executors[1].submit(do.hold, str(tmp_path), "runs")
    assert eventually((tmp_path / "runs").exists, WAIT)
    waits = [one.submit(do.square, 2) for one in served.executors for _ in range(5)]
    served.daemon.process.terminate()
    assert served.daemon.says("stopping")
    (tmp_path / "go").touch()
    assert runs.result(WAIT) == "runs"
    assert served.daemon.wait() == 0
    keys = [served.keys(number).base for number in range(3)]
    assert eventually(lambda: [client.llen(key) for key in keys] == [5, 5, 5], WAIT)
    assert not any(future.done() for future in waits)


def test_an_idle_daemon_stops_at_once(serve: Callable[..., Served]) -> None:
    served = serve("--processes", "2")
    assert results([one.submit(do.square, 2) for one in served.executors]) == [4, 4, 4]
    began = time.monotonic()
    served.daemon.process.terminate()
    assert served.daemon.wait() == 0
    assert time.monotonic() - began < 10


def test_idleness_costs_little(
    serve: Callable[..., Served], make_server: Callable[..., ServerProcess]
) -> None:
    """Per queue and process: a claim and a block for each slice of two seconds."""
    server = make_server()
    served = serve("--processes", "1", at=server.url)
    assert results([one.submit(do.square, 2) for one in served.executors]) == [4, 4, 4]
    for executor in served.executors:
        executor.shutdown()
    with server.client() as client:

        def blocks() -> int:
            return int(client.info("commandstats")["cmdstat_blmove"]["calls"])

        before, began = blocks(), time.monotonic()
        threading.Event().wait(3.0)
        # The supervisor's wait for orders is one more of each queue's.
        rate = (blocks() - before) / (time.monotonic() - began)
    assert rate <= 3 * 2 * 0.5 * 2
