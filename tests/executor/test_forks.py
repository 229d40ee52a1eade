"""What a forked child does with its copy of an executor does not touch the parent's work."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pressure.executor import RedisExecutor
from pressure.executor.client.futures import TaskFuture, cancel_many
from tests.contract import executing as do
from tests.support.waiting import eventually

WAIT = 30.0


@pytest.fixture
def executor() -> Iterator[RedisExecutor]:
    with RedisExecutor(1) as executor:
        assert executor.submit(do.square, 2).result(WAIT) == 4
        yield executor


def in_a_child(function: Callable[..., Any], *args: Any) -> None:
    process = multiprocessing.get_context("fork").Process(target=function, args=args)
    process.start()
    process.join(WAIT)
    assert process.exitcode == 0


def submit(executor: RedisExecutor) -> None:
    with pytest.raises(RuntimeError, match="parent"):
        executor.submit(do.square, 3)


def test_a_child_submits_nothing(executor: RedisExecutor) -> None:
    in_a_child(submit, executor)
    assert executor.submit(do.square, 4).result(WAIT) == 16


def drop(futures: list[TaskFuture[Any]]) -> None:
    assert not any(future.cancel() for future in futures)
    cancel_many(futures)


def test_a_child_cancels_nothing(executor: RedisExecutor, tmp_path: Path) -> None:
    executor.submit(do.hold, str(tmp_path), "held")
    futures = [executor.submit(do.square, x) for x in range(20)]
    assert eventually(lambda: executor.stats().queue_depth == 20)
    in_a_child(drop, futures)
    (tmp_path / "go").touch()
    assert [future.result(WAIT) for future in futures] == [x * x for x in range(20)]


def test_a_child_releases_nothing(executor: RedisExecutor) -> None:
    with executor.share(b"x" * 100_000) as shared:
        in_a_child(shared.release)
        assert executor.submit(do.length, shared).result(WAIT) == 100_000


_inherited: list[RedisExecutor] = []


def use(how: str) -> str:
    """A task that finds its parent's executor in its process, as a global name, say."""
    with pytest.raises(RuntimeError, match="parent") as caught:
        _inherited[0].submit(do.square, 3) if how == "submit" else _inherited[0].share([1])
    return str(caught.value)


@pytest.mark.parametrize("how", ["submit", "share"])
def test_a_task_that_uses_its_parent_s_executor_is_told(how: str) -> None:
    with RedisExecutor(1, mp_context=multiprocessing.get_context("fork")) as executor:
        _inherited[:] = [executor]
        if how == "share":
            # That starts the workers, too.
            executor.share([1]).release()
        assert "make one of your own" in executor.submit(use, how).result(WAIT)
