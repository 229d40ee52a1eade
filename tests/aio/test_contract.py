"""What `asyncio.Queue` promises, held by it and by ours alike."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pressure.aio import PressureQueue
from pressure.aio.errors import QueueShutDown
from tests.aio.running import run

Make = Callable[[int], Awaitable[Any]]


class Awaited:
    """An `asyncio.Queue` all of whose methods can be awaited, as ours."""

    def __init__(self, maxsize: int) -> None:
        self._queue: asyncio.Queue[Any] = asyncio.Queue(maxsize)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._queue, name)

        async def call(*args: Any) -> Any:
            result = method(*args)
            return await result if inspect.isawaitable(result) else result

        return call


@pytest.fixture(params=["asyncio", "pressure"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def shutdown(kind: str) -> None:
    if kind == "asyncio" and sys.version_info < (3, 13):
        pytest.skip("asyncio.Queue.shutdown is new in Python 3.13")


@pytest.fixture
def make(kind: str, url: str, queue_name: str) -> Make:
    async def standard(maxsize: int = 0) -> Any:
        return Awaited(maxsize)

    async def ours(maxsize: int = 0) -> Any:
        queue: PressureQueue[Any] = PressureQueue(queue_name, url=url)
        await queue.create(maxsize)
        return queue

    return standard if kind == "asyncio" else ours


def test_first_in_first_out(make: Make) -> None:
    async def main() -> None:
        queue = await make(0)
        for number in range(20):
            await queue.put(number)
        assert [await queue.get() for _ in range(20)] == list(range(20))

    run(main())


def test_sizes(make: Make) -> None:
    async def main() -> None:
        queue = await make(2)
        assert await queue.empty() and not await queue.full()
        await queue.put("a")
        assert not await queue.empty() and not await queue.full()
        assert await queue.qsize() == 1
        await queue.put_nowait("b")
        assert await queue.full()
        with pytest.raises(asyncio.QueueFull):
            await queue.put_nowait("c")
        assert await queue.qsize() == 2
        assert await queue.get_nowait() == "a"
        assert await queue.get() == "b"
        assert await queue.empty()
        with pytest.raises(asyncio.QueueEmpty):
            await queue.get_nowait()

    run(main())


def test_get_waits_for_an_item(make: Make) -> None:
    async def main() -> None:
        queue = await make(0)
        getter = asyncio.create_task(queue.get())
        await asyncio.sleep(0.1)
        assert not getter.done()
        await queue.put("late")
        assert await getter == "late"

    run(main())


def test_put_waits_for_room(make: Make) -> None:
    async def main() -> None:
        queue = await make(1)
        await queue.put(1)
        putter = asyncio.create_task(queue.put(2))
        await asyncio.sleep(0.1)
        assert not putter.done()
        assert await queue.get() == 1
        await putter
        assert await queue.get() == 2

    run(main())


def test_join_waits_for_task_done(make: Make) -> None:
    async def main() -> None:
        queue = await make(0)
        await queue.join()
        for number in range(3):
            await queue.put(number)
        joiner = asyncio.create_task(queue.join())
        for _ in range(3):
            await asyncio.sleep(0.02)
            assert not joiner.done()
            await queue.get()
            await queue.task_done()
        await joiner
        with pytest.raises(ValueError):
            await queue.task_done()

    run(main())


def test_a_time_out_ends_a_get_and_the_next_one_works(make: Make) -> None:
    async def main() -> None:
        queue = await make(0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await queue.get()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(queue.get(), 0.05)
        await queue.put("kept")
        assert await asyncio.wait_for(queue.get(), 10) == "kept"

    run(main())


def test_a_time_out_ends_a_put_that_then_has_not_happened(make: Make) -> None:
    async def main() -> None:
        queue = await make(1)
        await queue.put(1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(queue.put(2), 0.05)
        assert await queue.get() == 1
        assert await queue.empty()
        await queue.put(3)
        assert await queue.get() == 3

    run(main())


def test_a_task_group_of_producers_and_consumers(make: Make) -> None:
    async def main() -> None:
        queue = await make(5)
        got: list[int] = []

        async def produce(start: int) -> None:
            for number in range(start, start + 50):
                await queue.put(number)

        async def consume() -> None:
            for _ in range(50):
                got.append(await queue.get())

        async with asyncio.TaskGroup() as group:
            for start in (0, 50, 100):
                group.create_task(produce(start))
                group.create_task(consume())
        assert sorted(got) == list(range(150))

    run(main())


def test_a_failing_task_group_cancels_its_getters(make: Make) -> None:
    async def main() -> None:
        queue = await make(0)

        async def fail() -> None:
            await asyncio.sleep(0.05)
            raise RuntimeError("on purpose")

        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                for _ in range(5):
                    group.create_task(queue.get())
                group.create_task(fail())
        await queue.put("kept")
        assert await queue.get() == "kept"

    run(main())


def test_many_getters_and_putters(make: Make) -> None:
    async def main() -> None:
        queue = await make(3)
        getters = [asyncio.create_task(queue.get()) for _ in range(100)]
        await asyncio.sleep(0)
        await asyncio.gather(*(queue.put(number) for number in range(100)))
        assert sorted(await asyncio.gather(*getters)) == list(range(100))

    run(main())


@pytest.mark.usefixtures("shutdown")
def test_shutdown_lets_get_drain(make: Make) -> None:
    async def main() -> None:
        queue = await make(0)
        await queue.put("left")
        await queue.shutdown()
        await queue.shutdown()
        with pytest.raises(QueueShutDown):
            await queue.put("late")
        with pytest.raises(QueueShutDown):
            await queue.put_nowait("late")
        assert await queue.get() == "left"
        with pytest.raises(QueueShutDown):
            await queue.get()
        with pytest.raises(QueueShutDown):
            await queue.get_nowait()
        await queue.task_done()
        await queue.join()

    run(main())


@pytest.mark.usefixtures("shutdown")
def test_immediate_shutdown_drops_what_is_queued(make: Make) -> None:
    async def main() -> None:
        queue = await make(0)
        await queue.put(1)
        await queue.put(2)
        joiner = asyncio.create_task(queue.join())
        await queue.shutdown(True)
        await joiner
        with pytest.raises(QueueShutDown):
            await queue.get()

    run(main())


@pytest.mark.usefixtures("shutdown")
def test_shutdown_wakes_all_who_wait(make: Make) -> None:
    async def main() -> None:
        queue = await make(1)
        getters = [asyncio.create_task(queue.get()) for _ in range(5)]
        await asyncio.sleep(0.1)
        await queue.shutdown()
        results = await asyncio.gather(*getters, return_exceptions=True)
        assert all(isinstance(result, QueueShutDown) for result in results)

    run(main())


@pytest.mark.usefixtures("shutdown")
def test_shutdown_wakes_putters(make: Make) -> None:
    async def main() -> None:
        queue = await make(1)
        await queue.put(0)
        putters = [asyncio.create_task(queue.put(number)) for number in range(5)]
        await asyncio.sleep(0.1)
        await queue.shutdown()
        results = await asyncio.gather(*putters, return_exceptions=True)
        assert all(isinstance(result, QueueShutDown) for result in results)

    run(main())
