"""asyncio on an executor: `run_in_executor` and `wrap_future`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pressure import RedisExecutor

WAIT = 30.0


def double(x: int) -> int:
    return 2 * x


def fail() -> None:
    raise KeyError("of the task")


def hold(directory: str, number: int) -> None:
    Path(directory, f"started-{number}").touch()
    until = time.monotonic() + WAIT
    while not Path(directory, "go").exists() and time.monotonic() < until:
        time.sleep(0.01)


def touch(path: str) -> None:
    Path(path).touch()


@contextlib.asynccontextmanager
async def all_workers_held(executor: RedisExecutor, directory: Path) -> AsyncIterator[None]:
    """Inside of it nothing that is submitted can start."""
    held = [executor.submit(hold, str(directory), number) for number in range(2)]
    until = time.monotonic() + WAIT
    while len(list(directory.glob("started-*"))) < 2:
        assert time.monotonic() < until
        await asyncio.sleep(0.01)
    try:
        yield
    finally:
        (directory / "go").touch()
        await asyncio.wait_for(asyncio.gather(*map(asyncio.wrap_future, held)), WAIT)


def test_results_and_errors_are_awaited(executor: RedisExecutor) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        doubled = await asyncio.gather(
            *(loop.run_in_executor(executor, double, x) for x in range(100))
        )
        assert doubled == [2 * x for x in range(100)]
        assert await asyncio.wrap_future(executor.submit(double, 4)) == 8
        with pytest.raises(KeyError, match="of the task"):
            await loop.run_in_executor(executor, fail)

    asyncio.run(asyncio.wait_for(main(), WAIT))


def test_cancelling_the_awaitable_cancels_the_task(executor: RedisExecutor, tmp_path: Path) -> None:
    path = tmp_path / "ran"

    async def main() -> None:
        async with all_workers_held(executor, tmp_path):
            future = executor.submit(touch, str(path))
            awaitable = asyncio.wrap_future(future)
            # It waits at the server by then, or still here.
            await asyncio.sleep(0.1)
            assert awaitable.cancel()
            with pytest.raises(asyncio.CancelledError):
                await awaitable
            # asyncio passes it on in the loop's next round.
            await asyncio.sleep(0.01)
            assert future.cancelled()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(
                    asyncio.get_running_loop().run_in_executor(executor, touch, str(path)), 0.1
                )
        await asyncio.wrap_future(executor.submit(double, 1))

    asyncio.run(asyncio.wait_for(main(), WAIT))
    assert not path.exists()


def test_what_runs_cannot_be_cancelled(executor: RedisExecutor, tmp_path: Path) -> None:
    async def main() -> None:
        async with all_workers_held(executor, tmp_path):
            pass
        future = executor.submit(hold, str(tmp_path), 3)
        await asyncio.wrap_future(future)
        assert not future.cancel()
        assert future.done() and not future.cancelled()

    asyncio.run(asyncio.wait_for(main(), WAIT))


def test_submit_does_not_block_the_loop(executor: RedisExecutor, tmp_path: Path) -> None:
    """More than the executor lets out at a time are accepted while nothing can run."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with all_workers_held(executor, tmp_path):
            awaitables = [loop.run_in_executor(executor, double, x) for x in range(5000)]
            assert not any(awaitable.done() for awaitable in awaitables)
        assert await asyncio.gather(*awaitables) == [2 * x for x in range(5000)]

    asyncio.run(asyncio.wait_for(main(), WAIT))
