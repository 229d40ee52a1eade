"""What ours has beyond `asyncio.Queue`, event loops and their ends, and both kinds of clients."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis
import redis.asyncio

import pressure
from pressure import Settings, aio
from pressure.aio import PressureQueue
from pressure.aio.link import AsyncLink
from pressure.aio.pool import MOST
from pressure.commands import Command
from tests.aio.running import run, until


def test_the_queues_life(url: str, queue_name: str) -> None:
    async def main() -> None:
        queue: PressureQueue[int] = PressureQueue(queue_name, url=url)
        assert queue.name == queue_name and queue_name in repr(queue)
        assert not await queue.exists()
        with pytest.raises(pressure.QueueDoesNotExistError):
            await queue.put(1)
        with pytest.raises(pressure.QueueDoesNotExistError):
            await queue.get()
        await queue.create(3)
        with pytest.raises(pressure.QueueAlreadyExistsError):
            await queue.create()
        assert await queue.exists() and not await queue.closed()
        assert await queue.maxsize() == 3
        await queue.set_maxsize(1)
        await queue.put(1)
        assert await queue.full()
        await queue.overfill(2)
        assert await queue.qsize() == 2
        assert (await queue.peek(), await queue.peek_reverse()) == (1, 2)
        await queue.close()
        assert await queue.closed()
        with pytest.raises(pressure.QueueClosedError):
            await queue.close()
        with pytest.raises(aio.QueueClosedError):
            await queue.put(3)
        await queue.delete()
        assert not await queue.exists()
        with pytest.raises(pressure.QueueDoesNotExistError):
            await queue.qsize()

    run(main())


def test_a_handle_that_has_not_seen_the_bound_refuses_negative_timeouts(
    url: str, queue_name: str
) -> None:
    async def main() -> None:
        first: PressureQueue[int] = PressureQueue(queue_name, url=url)
        await first.create(2)
        with pytest.raises(ValueError, match="non-negative"):
            await PressureQueue[int](queue_name, url=url).put(1, timeout=-1)
        with pytest.raises(ValueError, match="non-negative"):
            await PressureQueue[int](queue_name, url=url).put_many([1], timeout=-1)
        assert await first.empty()
        await first.set_maxsize(0)
        await first.put(1, timeout=-1)
        assert await first.get() == 1

    run(main())


def test_errors_fit_both_worlds(url: str, queue_name: str) -> None:
    async def main() -> None:
        queue: PressureQueue[int] = PressureQueue(queue_name, url=url)
        await queue.create(1)
        with pytest.raises(asyncio.QueueEmpty) as empty:
            await queue.get(timeout=0.01)
        assert isinstance(empty.value, pressure.QueueEmptyError)
        await queue.put(1)
        with pytest.raises(asyncio.QueueFull) as full:
            await queue.put(2, timeout=0.01)
        assert isinstance(full.value, pressure.QueueFullError)
        with pytest.raises(ValueError):
            await queue.get(timeout=-1)
        await queue.shutdown()
        with pytest.raises(pressure.ShutDown):
            await queue.put(2)
        with pytest.raises(pressure.LeaseLostError):
            lease = await queue.lease()
            await lease.ack()
            await lease.ack()

    run(main())


def test_put_many_streams_and_says_how_many(url: str, queue_name: str) -> None:
    async def main() -> None:
        queue: PressureQueue[int] = PressureQueue(queue_name, url=url)
        await queue.create(50)

        async def slowly() -> AsyncIterator[int]:
            for number in range(5):
                yield number
                await asyncio.sleep(0.03)

        assert await queue.put_many(slowly()) == 5
        assert await queue.get_many(100) == list(range(5))
        with pytest.raises(pressure.QueueFullError) as full:
            await queue.put_many(range(1000), timeout=0.2)
        assert full.value.accepted == await queue.qsize() == 50

        async def failing() -> AsyncIterator[int]:
            yield 1
            yield 2
            raise RuntimeError("on purpose")

        await queue.get_many(50)
        with pytest.raises(RuntimeError, match="on purpose"):
            await queue.put_many(failing())
        assert await queue.get_many(50) == [1, 2]

        async def waiting() -> AsyncIterator[int]:
            yield 1
            yield 2
            yield 3
            await asyncio.sleep(60)

        putter = asyncio.create_task(queue.put_many(waiting()))
        # What it gave is not held back while it makes us wait.
        assert [await queue.get(timeout=10) for _ in range(3)] == [1, 2, 3]
        putter.cancel()

    run(main())


def test_any_error_of_put_many_says_how_many(url: str, queue_name: str) -> None:
    async def main() -> None:
        queue: PressureQueue[Any] = PressureQueue(
            queue_name, url=url, settings=Settings(max_item_bytes=1000)
        )
        await queue.create(10)
        with pytest.raises(pressure.ItemTooLargeError) as large:
            await queue.put_many([1, 2, 3, b"x" * 2000])
        assert large.value.accepted == 3
        other = pressure.PressureQueue[Any](queue_name, url=url)
        putting = asyncio.create_task(queue.put_many(range(100)))
        assert await until(lambda: other.full())
        await asyncio.to_thread(other.delete)
        with pytest.raises(pressure.QueueDoesNotExistError) as deleted:
            await putting
        assert deleted.value.accepted == 7
        other.disconnect()

    run(main())


def test_what_iteration_has_handed_out_counts_no_more(url: str, queue_name: str) -> None:
    async def main() -> None:
        queue: PressureQueue[int] = PressureQueue(queue_name, url=url)
        await queue.create(300)
        await queue.put_many(range(300))
        async for number in queue:
            left = 299 - number
            assert (await queue.qsize(), await queue.full()) == (left, False)
            if left == 0:
                break
        await queue.delete()

    run(main())


def test_iteration_ends_with_the_queue_and_hoards_nothing(url: str, queue_name: str) -> None:
    async def main() -> None:
        queue: PressureQueue[int] = PressureQueue(queue_name, url=url)
        await queue.create()
        await queue.put_many(range(1000))
        got = []
        async for number in queue:
            got.append(number)
            if len(got) == 500:
                break
        other: PressureQueue[int] = PressureQueue(queue_name, url=url)
        await other.close()
        rest = [number async for number in other]
        assert got == list(range(500))
        assert sorted(got + rest) == list(range(1000))

    run(main())


def test_dead_letters(url: str, queue_name: str) -> None:
    async def main() -> None:
        settings = Settings(max_deliveries=1)
        queue: PressureQueue[int] = PressureQueue(queue_name, url=url, settings=settings)
        await queue.create()
        await queue.put_many([1, 2])
        for _ in range(2):
            with pytest.raises(RuntimeError):
                async with queue.lease():
                    raise RuntimeError("on purpose")
        with pytest.raises(asyncio.QueueEmpty):
            await queue.get_nowait()
        letters = [letter async for letter in queue.dead_letters]
        assert [letter.reason for letter in letters] == ["max_deliveries"] * 2
        assert await queue.dead_letters.count() == 2
        assert await queue.dead_letters.purge([letters[0].id]) == 1
        assert await queue.dead_letters.replay() == 1
        assert await queue.get() == 1
        assert (await queue.stats()).dead_letters == 0

    run(main())


def test_a_lease_is_of_the_oldest_item_though_others_were_fetched_ahead(
    url: str, queue_name: str
) -> None:
    async def main() -> None:
        queue = PressureQueue[int](queue_name, url=url)
        await queue.create()
        await queue.put_many(range(30))
        got = []
        async for item in queue:
            got.append(item)
            if len(got) == 8:
                break
        for _ in range(4):
            async with queue.lease(timeout=10) as item:
                got.append(item)
        got += [await queue.get(timeout=10) for _ in range(18)]
        assert got == list(range(30))
        await queue.delete()
        await queue.disconnect()

    run(main())


def test_a_cancelled_lease_is_given_back_uncharged(url: str, queue_name: str) -> None:
    async def main() -> None:
        queue: PressureQueue[int] = PressureQueue(queue_name, url=url)
        await queue.create()
        await queue.put(1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1), queue.lease():
                await asyncio.sleep(60)
        lease = await queue.lease(timeout=10)
        assert lease.deliveries == 0
        await lease.give_back()
        assert (await queue.lease()).deliveries == 1

    run(main())


def test_a_lease_outlives_a_loop_that_is_held_up(url: str, queue_name: str) -> None:
    async def main() -> None:
        settings = Settings(lease=2.0)
        queue: PressureQueue[int] = PressureQueue(queue_name, url=url, settings=settings)
        await queue.create()
        await queue.put(1)
        # A second consumer, which reaps what has run out.
        with pressure.PressureQueue[int](queue_name, url=url, settings=settings) as other:
            async with queue.lease():
                deadline = time.monotonic() + 3.0
                while time.monotonic() < deadline:
                    with pytest.raises(pressure.QueueEmptyError):
                        other.get_nowait()
                    time.sleep(0.1)
            assert other.unfinished_tasks == 0

    run(main())


def test_acknowledgements_do_not_wait_for_another_call(
    url: str, queue_name: str, client: redis.Redis
) -> None:
    async def main() -> None:
        queue: PressureQueue[int] = PressureQueue(queue_name, url=url)
        await queue.create()
        await queue.put(1)
        await queue.get()
        assert await until(lambda: not client.keys(f"*{queue_name}:taken:*"))

    run(main())


def test_acknowledgements_do_not_wait_behind_a_put_that_blocks(
    url: str, queue_name: str, client: redis.Redis
) -> None:
    async def main() -> None:
        queue: PressureQueue[int] = PressureQueue(queue_name, url=url)
        await queue.create(1)
        await queue.put(1)
        assert await queue.get() == 1
        await queue.put(2)
        putter = asyncio.create_task(queue.put(3))
        assert await until(lambda: not client.keys(f"*{queue_name}:taken:*"))
        assert not putter.done()
        assert await queue.get_many(2) == [2]
        await putter

    run(main())


def test_sync_and_async_share_a_queue(url: str, queue_name: str) -> None:
    blocking: pressure.PressureQueue[int] = pressure.PressureQueue(queue_name, url=url)
    blocking.create(5)
    got: list[int] = []

    def consume() -> None:
        for number in blocking:
            got.append(number)
            blocking.task_done()

    consumer = threading.Thread(target=consume)
    consumer.start()

    async def main() -> None:
        queue: PressureQueue[int] = PressureQueue(queue_name, url=url)
        for number in range(200):
            await queue.put(number)
        await queue.join()
        await queue.close()

    run(main())
    consumer.join(20)
    assert got == list(range(200))
    blocking.disconnect()


@pytest.fixture(params=["blocking", "asyncio"])
def own_client(
    request: pytest.FixtureRequest, url: str
) -> Iterator[redis.Redis | redis.asyncio.Redis]:
    if request.param == "asyncio":
        yield redis.asyncio.Redis.from_url(url)
    else:
        with redis.Redis.from_url(url) as client:
            yield client


def test_a_client_of_ones_own(
    own_client: redis.Redis | redis.asyncio.Redis, queue_name: str
) -> None:
    async def main() -> None:
        settings = Settings(lease=1.5)
        queue: PressureQueue[int] = PressureQueue(queue_name, client=own_client, settings=settings)
        await queue.create()
        await queue.put(1)
        async with queue.lease() as item:
            await asyncio.sleep(2.0)
        assert item == 1
        assert await queue.unfinished_tasks() == 0

    run(main())


def test_another_loop_is_refused_while_the_first_is_open(url: str, queue_name: str) -> None:
    queue: PressureQueue[int] = PressureQueue(queue_name, url=url)

    async def main() -> None:
        await queue.create()

        def elsewhere() -> None:
            with pytest.raises(RuntimeError, match="another event loop"):
                asyncio.run(queue.qsize())

        await asyncio.to_thread(elsewhere)
        await queue.put(1)

    run(main())


def test_one_loop_after_another(url: str, queue_name: str, client: redis.Redis) -> None:
    queue: PressureQueue[int] = PressureQueue(queue_name, url=url)

    async def put() -> None:
        await queue.create()
        await queue.put_many([1, 2])
        assert await queue.get() == 1

    run(put())
    assert client.zcard(f"__pressure__:{queue_name}:leases") == 0

    async def get() -> int:
        return await queue.get()

    assert run(get()) == 2


def test_a_loop_that_ended_roughly(url: str, queue_name: str, client: redis.Redis) -> None:
    """Without the courtesies of `asyncio.run`: the next loop takes over what was held."""
    queue: PressureQueue[int] = PressureQueue(queue_name, url=url)

    async def put_and_lease() -> aio.AsyncLease[int]:
        await queue.create()
        await queue.put_many([1, 2])
        return await queue.lease()

    loop = asyncio.new_event_loop()
    lease = loop.run_until_complete(put_and_lease())
    loop.close()

    async def finish() -> None:
        assert await queue.get() == 2
        await lease.ack()
        await queue.task_done()
        await queue.join(timeout=10)

    with warnings.catch_warnings():
        # asyncio and redis-py both complain of what the closed loop left open, and rightly so.
        warnings.simplefilter("ignore", ResourceWarning)
        run(finish())
        gc.collect()


def test_a_dropped_handle_signs_off(url: str, queue_name: str, client: redis.Redis) -> None:
    async def main() -> None:
        keeping: PressureQueue[int] = PressureQueue(queue_name, url=url)
        await keeping.create()
        await keeping.put(1)
        await keeping.disconnect()

        async def use() -> None:
            queue: PressureQueue[int] = PressureQueue(queue_name, url=url)
            await queue.get()

        await use()
        gc.collect()
        assert await until(lambda: client.zcard(f"__pressure__:{queue_name}:leases") == 0)

    run(main())


def test_a_handle_dropped_as_its_loop_ends(url: str, queue_name: str, client: redis.Redis) -> None:
    """All was closed already, and what would be begun now would never come to its end."""

    async def use() -> PressureQueue[int]:
        queue: PressureQueue[int] = PressureQueue(queue_name, url=url)
        await queue.create()
        await queue.put(1)
        assert await queue.get() == 1
        return queue

    loop = asyncio.new_event_loop()
    dropped = [loop.run_until_complete(use())]
    loop.run_until_complete(loop.shutdown_asyncgens())
    assert client.zcard(f"__pressure__:{queue_name}:leases") == 0
    dropped.clear()
    gc.collect()
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert not asyncio.all_tasks(loop)
    loop.close()


def test_async_with_releases_only_the_handle(url: str, queue_name: str) -> None:
    async def main() -> None:
        async with PressureQueue[int](queue_name, url=url) as queue:
            await queue.create()
            await queue.put(1)
        async with PressureQueue[int](queue_name, url=url) as queue:
            assert await queue.get() == 1

    run(main())


def test_a_forked_child_starts_over(url: str, queue_name: str) -> None:
    queue: PressureQueue[int] = PressureQueue(queue_name, url=url)
    read_end, write_end = os.pipe()

    async def child() -> None:
        await queue.put(2)
        assert await queue.get() == 1

    async def main() -> None:
        await queue.create()
        await queue.put(1)
        await asyncio.to_thread(fork)
        assert os.read(read_end, 10) == b"ok"
        assert await queue.get() == 2

    def fork() -> None:
        pid = os.fork()
        if pid == 0:
            try:
                asyncio.run(child())
                os.write(write_end, b"ok")
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        os.close(write_end)

    run(main())
    os.close(read_end)


def test_a_thousand_waiting_tasks_are_no_thousand_connections(
    url: str, queue_name: str, client: redis.Redis
) -> None:
    async def main() -> None:
        queue: PressureQueue[int] = PressureQueue(queue_name, url=url)
        await queue.create()
        getters = [asyncio.create_task(queue.get()) for _ in range(1000)]
        await asyncio.sleep(0.3)
        assert len(client.client_list()) < 100
        assert await queue.put_many(range(1000)) == 1000
        assert sorted(await asyncio.gather(*getters)) == list(range(1000))

    run(main())


def test_nobody_takes_while_what_was_fetched_ahead_goes_back(
    url: str, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        queue: PressureQueue[int] = PressureQueue(queue_name, url=url)
        await queue.create()
        await queue.put_many(range(100))
        pool = queue._handle.pool
        items = aiter(queue)
        got = []
        while not pool.core.buffer:
            got.append(await anext(items))
        popped = asyncio.Event()
        execute = AsyncLink.execute

        async def late(link: AsyncLink, command: Command) -> Any:
            if asyncio.current_task() is giving:
                popped.set()
                await asyncio.sleep(0.2)
            return await execute(link, command)

        monkeypatch.setattr(AsyncLink, "execute", late)
        giving = asyncio.create_task(pool.give_back_ahead())
        await popped.wait()
        got.append(await queue.get())
        await giving
        monkeypatch.undo()
        while len(got) < 100:
            got.append(await anext(items))
        assert got == list(range(100))

    run(main())


def test_gets_that_come_too_late_for_what_was_fetched_ahead_hold_up_nobody_else(
    url: str, queue_name: str
) -> None:
    """They begin while something is there, behind other calls; until it is their turn it is gone,
    and so they wait as any other get."""

    async def main() -> None:
        queue: PressureQueue[int] = PressureQueue(queue_name, url=url)
        await queue.create()
        await queue.put_many(range(200))
        items = aiter(queue)
        got = [await anext(items)]
        while not queue._core.buffer:
            got.append(await anext(items))
        asking = [asyncio.create_task(queue.qsize()) for _ in range(MOST)]
        getting = [asyncio.create_task(queue.get()) for _ in range(200 - len(got) + 2 * MOST)]
        await asyncio.gather(*asking)
        assert await until(lambda: sum(one.done() for one in getting) == 200 - len(got))
        async with asyncio.timeout(10):
            assert await queue.qsize() == 0
            await queue.put_nowait(200)
            await queue.close()
        results = await asyncio.gather(*getting, return_exceptions=True)
        got += [one for one in results if isinstance(one, int)]
        assert sorted(got) == list(range(201))
        assert all(isinstance(one, int | aio.QueueClosedError) for one in results)

    run(main())
