"""`ex.terminate(future)`: what is queued is withdrawn, what runs is ended, wherever it runs."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import pytest
import redis

from pressure.executor import RedisExecutor, TaskFuture, TaskTerminatedError, interrupts
from tests.executor.crews import MODES, PATIENCE, daemon, executor
from tests.executor.programs import program
from tests.support.waiting import eventually

# What runs in workers


def note_and_sleep(path: str, seconds: float = PATIENCE) -> str:
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(seconds)
    return "slept"


def note_and_swallow(path: str) -> str:
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(CancelledError):
            time.sleep(PATIENCE)
    return "swallowed"


def note_and_hold_the_interpreter(path: str) -> bool:
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")
    return re.match(r"(a+)+$", "a" * 64 + "b") is None


def clean_up(path: str) -> None:
    try:
        note_and_sleep(path)
    finally:
        Path(path + ".cleaned").touch()


def pid() -> int:
    return os.getpid()


def fail() -> None:
    raise ValueError("of its own")


@pytest.fixture(params=MODES)
def ex(request: pytest.FixtureRequest, url: str, queue_name: str) -> Iterator[RedisExecutor]:
    with executor(request.param, url, queue_name, 1) as made:
        yield made


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "started")


def started(path: str, times: int = 1) -> bool:
    return eventually(
        lambda: os.path.exists(path) and len(Path(path).read_text().splitlines()) >= times, PATIENCE
    )


def test_a_running_task_is_ended_where_it_stands(ex: RedisExecutor, path: str) -> None:
    future = ex.submit(clean_up, path)
    assert started(path)
    assert ex.terminate(future)
    with pytest.raises(TaskTerminatedError) as caught:
        future.result(PATIENCE)
    assert isinstance(caught.value, CancelledError)
    assert "note_and_sleep" in str(caught.value.__cause__)
    assert os.path.exists(path + ".cleaned")
    assert str(ex.submit(pid).result(PATIENCE)) == Path(path).read_text().strip()
    assert not ex.terminate(future)


def test_a_task_that_swallows_it_is_killed(ex: RedisExecutor, path: str) -> None:
    strict = ex.options(grace=0.2)
    future = strict.submit(note_and_swallow, path)
    assert started(path)
    assert strict.terminate(future)
    with pytest.raises(TaskTerminatedError, match="killed"):
        future.result(PATIENCE)
    assert str(ex.submit(pid).result(PATIENCE)) != Path(path).read_text().strip()
    assert started(path) and len(Path(path).read_text().splitlines()) == 1


@pytest.mark.timeout(90)
def test_a_task_s_own_grace_counts_but_on_a_view(ex: RedisExecutor, path: str) -> None:
    quick, slow = ex.options(grace=0.2), ex.options(grace=60.0)
    for number, (of, by) in enumerate([(quick, ex), (slow, quick)]):
        future = of.submit(note_and_swallow, path)
        assert started(path, number + 1)
        began = time.monotonic()
        assert by.terminate(future)
        with pytest.raises(TaskTerminatedError, match="killed"):
            future.result(PATIENCE)
        # By default it is 5 s.
        assert time.monotonic() - began < 4.5


def test_a_task_that_holds_the_interpreter_is_killed(ex: RedisExecutor, path: str) -> None:
    strict = ex.options(grace=0.2)
    future = strict.submit(note_and_hold_the_interpreter, path)
    assert started(path)
    time.sleep(0.2)
    assert strict.terminate(future)
    with pytest.raises(TaskTerminatedError, match="killed"):
        future.result(PATIENCE)


def test_a_queued_task_is_withdrawn(ex: RedisExecutor, path: str) -> None:
    blocker = ex.submit(note_and_sleep, path)
    assert started(path)
    future = ex.submit(pid)
    assert ex.terminate(future)
    assert future.cancelled()
    assert ex.terminate(blocker)
    assert isinstance(blocker.exception(PATIENCE), TaskTerminatedError)


def test_a_task_is_ended_right_after_its_submit(ex: RedisExecutor, path: str) -> None:
    """However far it has come: it may be unsent, queued, claimed or running."""
    ex.submit(pid).result(PATIENCE)
    for delay in (0.0, 0.001, 0.005, 0.02):
        future = ex.submit(note_and_sleep, path)
        time.sleep(delay)
        assert ex.terminate(future)
        with pytest.raises((CancelledError, TaskTerminatedError)):
            future.result(PATIENCE)
    assert ex.submit(pid).result(PATIENCE)


def test_a_done_task_can_not_be_terminated(ex: RedisExecutor) -> None:
    future = ex.submit(pid)
    assert future.result(PATIENCE)
    assert not ex.terminate(future)


def test_only_own_futures_are_taken(ex: RedisExecutor) -> None:
    with pytest.raises(TypeError, match="future"):
        ex.terminate(Future())  # type: ignore[arg-type]


def test_nothing_that_was_terminated_is_retried(ex: RedisExecutor, path: str) -> None:
    future = ex.options(retries=5, backoff=0.01).submit(note_and_sleep, path)
    assert started(path)
    assert ex.terminate(future)
    assert isinstance(future.exception(PATIENCE), TaskTerminatedError)
    assert len(Path(path).read_text().splitlines()) == 1


def test_it_finds_the_right_one_of_many(url: str, queue_name: str, tmp_path: Path) -> None:
    """Two daemons with two processes each; each task is ended by itself."""
    with (
        daemon(url, queue_name, 2),
        daemon(url, queue_name, 2),
        RedisExecutor(url=url, queue=queue_name) as ex,
    ):
        paths = [str(tmp_path / str(number)) for number in range(4)]
        futures = [ex.submit(note_and_sleep, path) for path in paths]
        assert all(map(started, paths))
        for future in futures[::2]:
            assert ex.terminate(future)
        for future in futures[::2]:
            assert isinstance(future.exception(PATIENCE), TaskTerminatedError)
        assert not any(future.done() for future in futures[1::2])
        for future in futures[1::2]:
            assert ex.terminate(future)
            assert isinstance(future.exception(PATIENCE), TaskTerminatedError)


@pytest.mark.parametrize("how", ["stopped", "killed", "killed as it is terminated"])
def test_a_task_whose_daemon_is_gone_is_withdrawn(
    url: str, queue_name: str, path: str, how: str
) -> None:
    """It runs no more, whatever its future says: it is in the queue again, or on its way there."""
    arguments = ("--queue", queue_name, "--processes", "1", "--grace", "0", "--lease", "1")
    with (
        program(url, *arguments) as worker,
        RedisExecutor(url=url, queue=queue_name) as ex,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(ex.shutdown, wait=False, cancel_futures=True)
        future = ex.submit(note_and_sleep, path)
        assert started(path) and eventually(future.running, PATIENCE)
        if how == "stopped":
            worker.process.terminate()
        else:
            worker.process.kill()
        worker.wait()
        if how == "killed":
            time.sleep(1.5)
        assert ex.terminate(future)
        if how == "killed as it is terminated":
            # Its lease is not over yet, so that it is looked for again.
            assert eventually(future.done, PATIENCE)
        assert future.cancelled()
        assert not ex._engine.dispatcher._ending.unended(())
    assert len(Path(path).read_text().splitlines()) == 1


@pytest.mark.leaves_no_keys
def test_nothing_is_left_behind(url: str, queue_name: str, path: str, client: redis.Redis) -> None:
    with executor("daemon", url, queue_name, 1) as ex:
        future: TaskFuture[Any] = ex.submit(note_and_sleep, path)
        assert started(path)
        assert ex.terminate(future)
        assert future.exception(PATIENCE)
    replies = [key for key in client.scan_iter(f"*{queue_name}*") if b":reply:" in key]
    assert replies == []
    # The queue itself is the daemons', which stay.
    for key in client.scan_iter(f"*{queue_name}*"):
        client.delete(key)


def test_a_task_that_is_told_to_end_as_it_fails_costs_no_worker(
    url: str, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave = interrupts.Guard.leave
    asked: list[bool] = []

    def interrupted(guard: interrupts.Guard, depth: int) -> None:
        # A signal's handler may raise wherever a function begins.
        if guard.stack and not asked:
            asked.append(True)
            raise TaskTerminatedError("the task was terminated")
        leave(guard, depth)

    monkeypatch.setattr(interrupts.Guard, "leave", interrupted)
    with executor("local", url, queue_name, 1) as made:
        assert isinstance(made.submit(fail).exception(PATIENCE), TaskTerminatedError)
        first = made.submit(pid).result(PATIENCE)
        assert first in made._processes
        assert isinstance(made.submit(fail).exception(PATIENCE), ValueError)
        assert made.submit(pid).result(PATIENCE) == first
