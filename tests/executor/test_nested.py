"""`current_executor()`: tasks that submit tasks and wait for them, with few workers."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, as_completed, wait
from concurrent.futures import TimeoutError as FuturesTimeoutError
from pathlib import Path
from typing import Any

import pytest
import redis

from pressure.executor import (
    NestingError,
    RedisExecutor,
    TaskTerminatedError,
    TaskTimeoutError,
    current_executor,
)
from tests.executor.crews import MODES, PATIENCE, executor
from tests.support.waiting import eventually

# What runs in workers


def double(number: int) -> int:
    return number * 2


class Holder:
    def __init__(self, executor: Executor) -> None:
        self.executor = executor

    def run(self) -> int:
        return self.executor.submit(double, 1).result()


def nested_holder() -> int:
    return current_executor().submit(Holder(current_executor()).run).result()


def deep(levels: int) -> int:
    if levels == 0:
        return 0
    inner: int = current_executor().submit(deep, levels - 1).result()
    return inner + 1


def deep_by(how: str, levels: int) -> int:
    """Each level waits in another way."""
    if levels == 0:
        return 0
    ex = current_executor()
    if how == "map":
        return int(next(ex.map(deep_by, [how], [levels - 1]))) + 1
    child = ex.submit(deep_by, how, levels - 1)
    if how == "wait":
        wait([child])
    elif how == "first":
        wait([child, ex.submit(double, 1)], return_when=FIRST_COMPLETED)
    elif how == "as_completed":
        next(as_completed([child]))
    elif how == "exception":
        assert child.exception() is None
    elif how == "shutdown":
        ex.shutdown()
    elif how == "poll":
        while not child.done():
            time.sleep(0.01)
    elif how == "callback":
        done = threading.Event()
        child.add_done_callback(lambda _: done.set())
        done.wait()
    result: int = child.result()
    return result + 1


async def deep_in_asyncio(levels: int) -> int:
    if levels == 0:
        return 0
    child = current_executor().submit(deep_in_asyncio, levels - 1)
    inner: int = await asyncio.wrap_future(child)
    return inner + 1


def thread_name() -> str:
    time.sleep(0.001)
    return threading.current_thread().name


async def who_runs_them(children: int) -> list[str]:
    ex = current_executor()
    names: list[str] = await asyncio.gather(
        *(asyncio.wrap_future(ex.submit(thread_name)) for _ in range(children))
    )
    return names


def fibonacci(number: int) -> int:
    if number < 2:
        return number
    ex = current_executor()
    first, second = ex.submit(fibonacci, number - 1), ex.submit(fibonacci, number - 2)
    return int(first.result() + second.result())


def fan_out(children: int) -> int:
    ex = current_executor()
    futures = [ex.submit(double, number) for number in range(children)]
    return sum(future.result() for future in as_completed(futures))


def fail_below(levels: int) -> None:
    if levels == 0:
        raise LookupError("at the bottom")
    current_executor().submit(fail_below, levels - 1).result()


def recurse(frames: int) -> int:
    return 0 if frames == 0 else recurse(frames - 1) + 1


def recurse_at(levels: int, frames: int) -> int:
    if levels == 0:
        return recurse(frames)
    result: int = current_executor().submit(recurse_at, levels - 1, frames).result()
    return result


def large_child(size: int) -> int:
    ex = current_executor()
    return len(ex.submit(bytes.upper, b"x" * size).result())


def share_with_children(size: int) -> tuple[list[int], int]:
    ex = current_executor()
    with ex.share(b"x" * size) as shared:
        lengths = [child.result() for child in [ex.submit(len, shared) for _ in range(3)]]
    # A future is resolved before it is counted.
    eventually(lambda: ex.stats().done == 3, PATIENCE)
    return lengths, ex.stats().done


def sleep_child(seconds: float) -> Any:
    return current_executor().submit(time.sleep, seconds).result()


def timed_child() -> str:
    try:
        current_executor().options(timeout=0.2).submit(time.sleep, PATIENCE).result()
    except TaskTimeoutError as exc:
        return f"{exc}"
    return "no time-out"


def note_and_sleep(path: str, levels: int, swallow: bool) -> None:
    if levels > 1:
        return current_executor().submit(note_and_sleep, path, levels - 1, swallow).result()
    Path(path).touch()
    while True:
        try:
            time.sleep(2 * PATIENCE)
        except TaskTerminatedError:
            if not swallow:
                raise


def terminate_child(
    path: str, levels: int, grace: float = 2 * PATIENCE, swallow: bool = False
) -> tuple[str, list[bool]]:
    ex = current_executor().options(grace=grace)
    child = ex.submit(note_and_sleep, path, levels, swallow)
    said: list[bool] = []

    def terminate() -> None:
        if eventually(Path(path).exists, PATIENCE):
            said.append(ex.terminate(child))

    thread = threading.Thread(target=terminate)
    thread.start()
    try:
        child.result()
    except TaskTerminatedError as exc:
        thread.join()
        return str(exc), said
    return "not terminated", said


def note_and_wait(directory: str) -> str:
    path = Path(directory)
    (path / "runs").touch()
    eventually((path / "go").exists, PATIENCE)
    return "ended"


def terminate_in_a_thread(directory: str) -> tuple[bool, str]:
    path = Path(directory)
    ex = current_executor()
    child = ex.submit(note_and_wait, directory)
    thread = threading.Thread(target=child.result)
    thread.start()
    eventually((path / "runs").exists, PATIENCE)
    terminated = ex.terminate(child)
    (path / "go").touch()
    thread.join()
    return terminated, str(child.result())


def short_wait() -> str:
    child = current_executor().submit(double, 21)
    try:
        return str(child.result(timeout=0))
    except FuturesTimeoutError:
        return f"not yet, {child.result()}"


def cancel_child() -> bool:
    ex = current_executor()
    child = ex.submit(double, 1)
    return child.cancel() or child.result() == 2


def leave_behind(path: str) -> int:
    current_executor().submit(Path.touch, Path(path))
    return os.getpid()


def retry_child(path: str) -> int:
    child = current_executor().options(retries=3, backoff=0.01).submit(third_time, path)
    return int(child.result())


def third_time(path: str) -> int:
    with open(path, "a") as file:
        file.write("x")
    times = os.path.getsize(path)
    if times < 3:
        raise ValueError(times)
    return times


def crash_once(path: str) -> int:
    """Its first worker dies while its children wait in the queue."""
    ex = current_executor()
    children = [ex.submit(double, number) for number in range(10)]
    if not os.path.exists(path):
        Path(path).touch()
        time.sleep(0.1)
        os._exit(3)
    return sum(child.result() for child in children)


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def ex(mode: str, url: str, queue_name: str) -> Iterator[RedisExecutor]:
    """One worker."""
    with executor(mode, url, queue_name, 1) as made:
        yield made


def test_outside_of_a_task_there_is_none() -> None:
    with pytest.raises(RuntimeError, match="task"):
        current_executor()


def test_an_executor_itself_is_not_for_tasks(ex: RedisExecutor) -> None:
    class Here:
        executor = ex.options(retries=1)

        def run(self) -> None:
            self.executor.submit(double, 1)

    futures: list[Future[Any]] = [
        ex.submit(Holder(ex).run),
        ex.submit(Holder(ex.options(timeout=1)).run),
        ex.submit(Here().run),
        ex.submit(lambda: ex.submit(double, 1)),
        ex.submit(list, [lambda: 1, ex]),
        ex.submit(nested_holder),
    ]
    for future in futures:
        with pytest.raises(TypeError, match=r"cannot pickle a .*pressure\.current_executor\(\)"):
            future.result(PATIENCE)
    assert ex.submit(double, 1).result(PATIENCE) == 2


def test_a_hundred_levels_with_one_worker(ex: RedisExecutor) -> None:
    assert ex.submit(deep, 100).result(PATIENCE) == 100
    assert ex.submit(deep, 100).result(PATIENCE) == 100


def test_too_many_levels_are_an_error(ex: RedisExecutor) -> None:
    with pytest.raises(NestingError, match="100"):
        ex.submit(deep, 120).result(PATIENCE)
    assert ex.submit(deep, 3).result(PATIENCE) == 3


def test_two_workers_and_many_deep_tasks(mode: str, url: str, queue_name: str) -> None:
    with executor(mode, url, queue_name, 2) as ex:
        futures = [ex.submit(deep, 30) for _ in range(20)]
        assert [future.result(PATIENCE) for future in futures] == [30] * 20


@pytest.mark.parametrize(
    "how",
    ["result", "exception", "map", "wait", "first", "as_completed", "shutdown", "poll", "callback"],
)
def test_every_way_to_wait(ex: RedisExecutor, how: str) -> None:
    levels = 4 if how in ("poll", "callback") else 20
    assert ex.submit(deep_by, how, levels).result(PATIENCE) == levels


def test_waiting_in_an_event_loop(ex: RedisExecutor) -> None:
    assert ex.submit(deep_in_asyncio, 3).result(PATIENCE) == 3


def test_one_thread_runs_many_children_of_an_event_loop(ex: RedisExecutor) -> None:
    """A new one comes only after a while in which little was done."""
    names = ex.submit(who_runs_them, 60).result(PATIENCE)
    assert len(set(names)) < 20


@pytest.mark.parametrize("workers", [1, 2])
def test_a_tree_of_tasks(mode: str, url: str, queue_name: str, workers: int) -> None:
    with executor(mode, url, queue_name, workers) as ex:
        assert ex.submit(fibonacci, 10).result(PATIENCE) == 55


def test_many_children(ex: RedisExecutor) -> None:
    assert ex.submit(fan_out, 300).result(PATIENCE) == 300 * 299


def test_children_may_exceed_the_bound_and_go_first(ex: RedisExecutor) -> None:
    """A queue that is full of the client's own tasks doesn't hold up its workers."""
    futures = [ex.submit(fan_out, 10) for _ in range(200)]
    assert [future.result(PATIENCE) for future in futures] == [90] * 200


def test_errors_come_up(ex: RedisExecutor) -> None:
    with pytest.raises(LookupError, match="at the bottom"):
        ex.submit(fail_below, 10).result(PATIENCE)


def test_a_child_may_recurse_as_deeply_as_its_parent(ex: RedisExecutor) -> None:
    assert ex.submit(recurse_at, 50, 800).result(PATIENCE) == 800
    with pytest.raises(RecursionError):
        ex.submit(recurse_at, 5, 1_000_000).result(PATIENCE)


def test_large_arguments_and_results(ex: RedisExecutor) -> None:
    assert ex.submit(large_child, 3_000_000).result(PATIENCE) == 3_000_000


def test_the_timeout_of_a_child_ends_the_child_alone(ex: RedisExecutor) -> None:
    assert "0.2 s" in ex.submit(timed_child).result(PATIENCE)


def test_the_timeout_of_a_parent_reaches_it_through_its_child(ex: RedisExecutor) -> None:
    future = ex.options(timeout=0.3).submit(sleep_child, PATIENCE)
    with pytest.raises(TaskTimeoutError, match=r"0\.3 s"):
        future.result(PATIENCE)
    assert ex.submit(double, 2).result(PATIENCE) == 4


def test_a_parent_that_waits_for_its_child_can_be_terminated(ex: RedisExecutor) -> None:
    future = ex.submit(sleep_child, PATIENCE)
    assert eventually(future.running, PATIENCE)
    assert ex.terminate(future)
    with pytest.raises(TaskTerminatedError):
        future.result(PATIENCE)
    assert ex.submit(double, 2).result(PATIENCE) == 4


@pytest.mark.parametrize("levels", [1, 2])
def test_a_child_that_its_parent_runs_can_be_terminated(
    ex: RedisExecutor, tmp_path: Path, levels: int
) -> None:
    """Also if it waits for a child itself."""
    future = ex.submit(terminate_child, str(tmp_path / "runs"), levels)
    assert future.result(PATIENCE) == ("the task was terminated", [True])


def test_a_child_that_swallows_its_end_is_ended_with_its_parent(
    ex: RedisExecutor, tmp_path: Path
) -> None:
    future = ex.submit(terminate_child, str(tmp_path / "runs"), 1, 0.1, swallow=True)
    with pytest.raises(TaskTimeoutError, match="waited for one of its own"):
        future.result(PATIENCE)
    assert ex.submit(double, 2).result(PATIENCE) == 4


def test_a_child_in_another_thread_cannot_be_terminated(ex: RedisExecutor, tmp_path: Path) -> None:
    assert ex.submit(terminate_in_a_thread, str(tmp_path)).result(PATIENCE) == (False, "ended")


@pytest.mark.parametrize("task", [short_wait, cancel_child])
def test_other_methods_of_a_child(ex: RedisExecutor, task: Callable[[], object]) -> None:
    assert ex.submit(task).result(PATIENCE) in (True, "not yet, 42", "42")


def test_a_child_is_retried(ex: RedisExecutor, tmp_path: Path) -> None:
    assert ex.submit(retry_child, str(tmp_path / "times")).result(PATIENCE) == 3


def test_what_a_task_leaves_behind_is_done(ex: RedisExecutor, tmp_path: Path) -> None:
    path = tmp_path / "touched"
    ex.submit(leave_behind, str(path)).result(PATIENCE)
    assert eventually(path.exists, PATIENCE)


def test_a_parent_dies_and_starts_over(ex: RedisExecutor, tmp_path: Path) -> None:
    assert ex.submit(crash_once, str(tmp_path / "crashed")).result(PATIENCE) == 90


@pytest.mark.parametrize("task", [deep, fan_out])
def test_no_reply_queue_is_left(
    url: str, queue_name: str, client: redis.Redis, task: Callable[[int], int], tmp_path: Path
) -> None:
    with executor("daemon", url, queue_name, 2) as ex:
        ex.submit(task, 20).result(PATIENCE)
        ex.submit(crash_once, str(tmp_path / "crashed")).result(PATIENCE)
    left = [key for key in client.scan_iter(f"*{queue_name}*") if b":reply:" in key]
    assert left == []


def test_a_task_shares_with_its_children(ex: RedisExecutor) -> None:
    assert ex.submit(share_with_children, 100_000).result(PATIENCE) == ([100_000] * 3, 3)
