"""Cancelling at any moment: nothing is lost, nothing comes twice, nothing is left at the server."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Coroutine
from typing import Any

import pytest
import redis

import pressure
from pressure import Settings
from pressure.aio import PressureQueue, QueueEmptyError
from tests.aio.running import run
from tests.support.account import Account
from tests.support.proxy import FaultyProxy

LARGE = b"x" * 200_000


async def cancel_at_random(work: Coroutine[Any, Any, Any], longest: float) -> Any:
    """Run in a task that is cancelled after up to `longest` seconds, if it is not done by then."""
    task = asyncio.create_task(work)
    if random.random() < 0.3:
        for _ in range(random.randrange(12)):
            await asyncio.sleep(0)
    else:
        await asyncio.wait({task}, timeout=random.uniform(0, longest))
    task.cancel()
    try:
        return await task
    except asyncio.CancelledError:
        return None


async def drain(queue: PressureQueue[Any], account: Account) -> None:
    """Get until the closed queue is empty."""
    while True:
        try:
            item = await queue.get(timeout=10)
        except pressure.ShutDown:
            return
        except pressure.QueueClosedError:
            return
        account.delivered(item if isinstance(item, int) else item[0])


def nothing_held(client: redis.Redis, name: str) -> bool:
    return not client.keys(f"*{name}:taken:*") and not client.hlen(f"__pressure__:{name}:waiters")


@pytest.mark.parametrize("how", ["get", "lease"])
def test_who_gets_next_has_what_a_cancelled_get_gives_back(
    url: str, queue_name: str, how: str
) -> None:
    """Its reply was on the way: what comes after that item, such as the one that says that there is
    no more, must not overtake it."""

    async def main(url: str, slow: FaultyProxy) -> None:
        direct: PressureQueue[int] = PressureQueue(queue_name, url=url)
        await direct.create()
        queue: PressureQueue[int] = PressureQueue(queue_name, url=slow.url)
        # With two connections, so that nothing but the order keeps the next one back.
        await direct.put_many([0, 0])
        assert list(await asyncio.gather(queue.get(), queue.get())) == [0, 0]
        await direct.put_many([1, 2])
        slow.delay(0.1, "to_client")
        taking: asyncio.Future[Any] = asyncio.ensure_future(
            queue.get() if how == "get" else _leased(queue)
        )
        while await direct.qsize() > 1:
            await asyncio.sleep(0)
        got = []
        if taking.cancel():
            with pytest.raises(asyncio.CancelledError):
                await taking
        else:
            got.append(taking.result())
        got += [await queue.get(), await queue.get()][: 2 - len(got)]
        slow.delay(0.0)
        assert got == [1, 2]
        await direct.delete()
        await queue.disconnect()
        await direct.disconnect()

    with FaultyProxy(url) as slow:
        run(main(url, slow))


async def _leased(queue: PressureQueue[int]) -> int:
    async with queue.lease() as item:
        return item


def test_who_gets_next_has_what_a_slow_loop_gives_back(
    url: str, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had fetched ahead is on its way back when it goes on."""

    async def main(url: str, slow: FaultyProxy) -> None:
        queue: PressureQueue[int] = PressureQueue(queue_name, url=slow.url)
        await queue.create()
        await queue.put_many(range(200))
        await queue.close()
        got = []
        core = queue._core
        async for item in queue:
            got.append(item)
            if len(core.buffer) > 10:
                slow.delay(0.02, "to_server")
                back = asyncio.create_task(queue._handle.pool.give_back_ahead())
                while core.buffer:
                    await asyncio.sleep(0)
                got.append(await queue.get())
                await back
                slow.delay(0.0)
        assert got == list(range(200))
        await queue.delete()
        await queue.disconnect()

    with FaultyProxy(url) as slow:
        run(main(url, slow))


@pytest.mark.parametrize("payload", [b"", LARGE], ids=["small", "large"])
def test_storm_of_cancelled_gets(
    url: str, queue_name: str, account: Account, client: redis.Redis, payload: bytes
) -> None:
    count = 150 if payload else 600

    async def main() -> None:
        queue: PressureQueue[Any] = PressureQueue(queue_name, url=url)
        await queue.create()

        async def produce() -> None:
            for number in range(count):
                account.sent(number)
                await queue.put((number, payload))
                account.acknowledged(number)
                if random.random() < 0.5:
                    await asyncio.sleep(random.uniform(0, 0.004))
            await queue.close()

        async def consume() -> None:
            while not producing.done():
                how = random.random()
                if how < 0.6:
                    got = await cancel_at_random(queue.get(), 0.01)
                    batch = [] if got is None else [got]
                elif how < 0.8:
                    batch = await cancel_at_random(queue.get_many(5, timeout=1), 0.01) or []
                else:
                    try:
                        batch = [await asyncio.wait_for(queue.get(), random.uniform(0, 0.01))]
                    except TimeoutError:
                        continue
                for number, _ in batch:
                    account.delivered(number)

        async def consume_suppressed() -> None:
            while not producing.done():
                with contextlib.suppress(pressure.QueueClosedError, pressure.QueueEmptyError):
                    await consume()

        producing = asyncio.create_task(produce())
        await asyncio.gather(*(consume_suppressed() for _ in range(4)))
        await producing
        await drain(queue, account)
        await queue.disconnect()
        # A get that was cancelled at the very end may have given its item back after that.
        async with PressureQueue[Any](queue_name, url=url) as rest:
            await drain(rest, account)
        assert nothing_held(client, queue_name)

    run(main())
    balance = account.check(at_least=count)
    assert balance.duplicates == 0


def test_storm_of_cancelled_iterations(url: str, queue_name: str, account: Account) -> None:
    async def main() -> None:
        queue: PressureQueue[int] = PressureQueue(queue_name, url=url)
        await queue.create()
        for number in range(3000):
            account.sent(number)
        await queue.put_many(range(3000))
        for number in range(3000):
            account.acknowledged(number)

        async def consume() -> None:
            async for number in queue:
                account.delivered(number)
                if random.random() < 0.05:
                    await asyncio.sleep(0)

        for _ in range(40):
            await cancel_at_random(consume(), 0.02)
        await queue.close()
        await drain(queue, account)

    run(main())
    assert account.check(at_least=3000).duplicates == 0


def test_storm_of_cancelled_puts(
    url: str, queue_name: str, account: Account, client: redis.Redis
) -> None:
    async def main() -> None:
        queue: PressureQueue[Any] = PressureQueue(queue_name, url=url)
        await queue.create(5)
        numbers = iter(range(600))

        async def produce() -> None:
            for number in numbers:
                account.sent(number)

                async def put(number: int = number) -> bool:
                    payload = LARGE if random.random() < 0.1 else b""
                    await queue.put((number, payload))
                    return True

                if await cancel_at_random(put(), 0.004):
                    account.acknowledged(number)

        async def consume() -> None:
            async for number, _ in queue:
                account.delivered(number)
                await asyncio.sleep(random.uniform(0, 0.003))

        consumer = asyncio.create_task(consume())
        await asyncio.gather(*(produce() for _ in range(4)))
        # Every verdict is in: what is to come is in the queue.
        await queue.close()
        await consumer
        assert client.hlen(f"__pressure__:{queue_name}:blobs") == 0

    run(main())
    assert account.check(at_least=50).duplicates == 0


def test_storm_of_cancelled_leases(url: str, queue_name: str, account: Account) -> None:
    async def main() -> None:
        queue: PressureQueue[int] = PressureQueue(queue_name, url=url)
        await queue.create()
        for number in range(200):
            account.sent(number)
            await queue.put(number)
            account.acknowledged(number)

        async def work() -> None:
            async with queue.lease() as number:
                await asyncio.sleep(random.uniform(0, 0.004))
                done.append(number)

        done: list[int] = []
        for _ in range(50):
            await asyncio.gather(*(cancel_at_random(work(), 0.01) for _ in range(4)))
        await queue.close()
        # One that was cancelled while it acknowledged has run: that is what a lease means.
        assert await queue.unfinished_tasks() == await queue.qsize()
        for number in done:
            account.delivered(number)
            account.touched(number)
        await drain(queue, account)

    run(main())
    account.check(at_least=200)


def test_cancelled_get_gives_back_without_another_call(
    url: str, queue_name: str, client: redis.Redis
) -> None:
    async def main() -> None:
        queue: PressureQueue[int] = PressureQueue(queue_name, url=url)
        await queue.create()
        other: pressure.PressureQueue[int] = pressure.PressureQueue(queue_name, url=url)
        for number in range(100):
            getter = asyncio.create_task(queue.get())
            await asyncio.sleep(random.uniform(0.001, 0.006))
            putter = asyncio.create_task(queue.put(number))
            for _ in range(number % 10):
                await asyncio.sleep(0)
            getter.cancel()
            results = await asyncio.gather(getter, putter, return_exceptions=True)
            if isinstance(results[0], asyncio.CancelledError):
                # In another thread, so that this handle has nothing to do but its upkeep.
                assert await asyncio.to_thread(other.get, True, 10) == number
            else:
                assert results[0] == number
        other.disconnect()

    run(main())


def test_cancelling_costs_no_connections(url: str, queue_name: str, client: redis.Redis) -> None:
    async def main() -> None:
        queue: PressureQueue[int] = PressureQueue(queue_name, url=url)
        await queue.create()
        made = client.info("stats")["total_connections_received"]
        for _ in range(100):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(queue.get(), 0.002)
        assert client.info("stats")["total_connections_received"] - made < 50
        await queue.put(1)
        assert await queue.get() == 1

    run(main())


def test_cancel_does_not_wait_for_a_server_that_is_away(
    proxy: FaultyProxy, queue_name: str
) -> None:
    async def main() -> None:
        queue: PressureQueue[int] = PressureQueue(queue_name, url=proxy.url)
        await queue.create(1)
        getter = asyncio.create_task(queue.get())
        await asyncio.sleep(0.1)
        proxy.stall()
        started = time.monotonic()
        getter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await getter
        putter = asyncio.create_task(queue.put(1))
        await asyncio.sleep(0.1)
        putter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putter
        assert time.monotonic() - started < 10
        proxy.resume()
        # The put is in the queue or never will be.
        length = await queue.qsize()
        await queue.close()
        got = [number async for number in queue]
        assert len(got) == length

    run(main())


@pytest.mark.parametrize("lost", ["BLMOVE", "EVALSHA"])
def test_cancel_while_the_reply_is_lost(proxy: FaultyProxy, queue_name: str, lost: str) -> None:
    async def main() -> None:
        settings = Settings(lease=5.0)
        queue: PressureQueue[int] = PressureQueue(queue_name, url=proxy.url, settings=settings)
        await queue.create()
        await queue.put(0)
        assert await queue.get() == 0
        for number in range(1, 6):
            if lost == "EVALSHA":
                await queue.put(number)
                fault = proxy.drop_next_reply(lost, cut=False)
                getter = asyncio.create_task(queue.get())
                await asyncio.to_thread(fault.wait)
            else:
                getter = asyncio.create_task(queue.get())
                fault = proxy.drop_next_reply(lost, cut=False)
                await asyncio.sleep(0.05)
                await queue.put(number)
                await asyncio.to_thread(fault.wait)
            getter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await getter
            assert await queue.get(timeout=20) == number

    run(main())


def test_a_closed_queue_does_not_end_before_a_cancelled_get_has(
    proxy: FaultyProxy, queue_name: str
) -> None:
    """It takes a second until the reply is given up, and what it brought is given back."""

    async def main() -> None:
        queue: PressureQueue[int] = PressureQueue(queue_name, url=proxy.url)
        await queue.create()
        getter = asyncio.create_task(queue.get())
        fault = proxy.drop_next_reply("BLMOVE", cut=False)
        await asyncio.sleep(0.05)
        await queue.put(1)
        await asyncio.to_thread(fault.wait)
        await queue.close()
        getter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await getter
        with pytest.raises(QueueEmptyError):
            await queue.get_nowait()
        assert [number async for number in queue] == [1]

    run(main())


def test_second_cancel_ends_a_put_at_once(proxy: FaultyProxy, queue_name: str) -> None:
    async def main() -> None:
        queue: PressureQueue[int] = PressureQueue(queue_name, url=proxy.url)
        await queue.create()
        proxy.stall()
        putter = asyncio.create_task(queue.put(1))
        await asyncio.sleep(0.05)
        putter.cancel()
        await asyncio.sleep(0.05)
        assert not putter.done()
        putter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putter
        proxy.resume()

    run(main())
