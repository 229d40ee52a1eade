"""Lost replies, cut connections and a server that dies, seen from an event loop."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable

import pytest
import redis

import pressure
from pressure import Settings
from pressure.aio import PressureQueue
from pressure.retry import Broken
from tests.aio.running import run, until
from tests.support.account import Account
from tests.support.processes import Child, report
from tests.support.proxy import FaultyProxy
from tests.support.servers import ServerProcess


def test_lost_replies_lose_and_double_nothing(
    proxy: FaultyProxy, queue_name: str, account: Account
) -> None:
    async def main() -> None:
        queue: PressureQueue[int] = PressureQueue(queue_name, url=proxy.url)
        await queue.create(10)

        async def produce() -> None:
            for number in range(150):
                account.sent(number)
                await queue.put(number)
                account.acknowledged(number)
            await queue.close()

        async def consume() -> None:
            try:
                while True:
                    account.delivered(await queue.get())
            except pressure.QueueClosedError:
                return

        async def harm() -> None:
            while True:
                # One at a time, or else every new connection would meet the next fault.
                fault = proxy.drop_next_reply(random.choice(["EVALSHA", "BLMOVE", "BLPOP"]))
                await until(lambda: fault.struck, 0.5)  # noqa: B023
                await asyncio.sleep(0.02)

        harming = asyncio.create_task(harm())
        await asyncio.gather(produce(), consume(), consume())
        harming.cancel()

    run(main())
    assert account.check(at_least=150).duplicates == 0


@pytest.mark.parametrize("ends", ["cancelled", "timeout"])
def test_what_ends_a_wait_cannot_be_reached(
    make_server: Callable[..., ServerProcess],
    queue_name: str,
    monkeypatch: pytest.MonkeyPatch,
    ends: str,
) -> None:
    """An item comes at the last moment, and the connection over which the wait is to be ended
    can't be made: whether it came is found out."""

    server = make_server()
    client = server.client()

    async def main() -> None:
        queue: PressureQueue[int] = PressureQueue(queue_name, url=server.url)
        other: PressureQueue[int] = PressureQueue(queue_name, url=server.url)
        await queue.create()
        came = asyncio.Event()

        async def unreachable(waiter: str) -> None:
            await other.put(1)
            monkeypatch.undo()
            came.set()
            raise Broken(ConnectionRefusedError(), sent=False)

        monkeypatch.setattr(queue._handle.pool._control, "unblock", unreachable)
        if ends == "timeout":
            assert await queue.get(timeout=0.2) == 1
        else:
            getting = asyncio.create_task(queue.get())
            assert await until(lambda: any("b" in one["flags"] for one in client.client_list()))
            getting.cancel()
            await asyncio.wait_for(came.wait(), 20)
            assert await queue.get(timeout=20) == 1

    run(main())


def test_cut_connections_and_cancelled_gets_at_once(
    proxy: FaultyProxy, queue_name: str, account: Account
) -> None:
    async def main() -> None:
        queue: PressureQueue[int] = PressureQueue(queue_name, url=proxy.url)
        await queue.create()

        async def produce() -> None:
            for number in range(200):
                account.sent(number)
                await queue.put(number)
                account.acknowledged(number)
                await asyncio.sleep(random.uniform(0, 0.005))

        async def consume() -> None:
            while not producing.done():
                try:
                    number = await asyncio.wait_for(queue.get(), random.uniform(0.001, 0.05))
                except TimeoutError:
                    continue
                account.delivered(number)

        async def harm() -> None:
            while True:
                await asyncio.sleep(0.1)
                await asyncio.to_thread(proxy.cut)

        producing = asyncio.create_task(produce())
        harming = asyncio.create_task(harm())
        await asyncio.gather(producing, consume(), consume())
        harming.cancel()
        await asyncio.wait({harming})
        await queue.close()
        async for number in queue:
            account.delivered(number)

    run(main())
    assert account.check(at_least=200).duplicates == 0


def test_blocked_getters_ride_out_a_restart(fresh_server: ServerProcess, queue_name: str) -> None:
    async def main() -> None:
        queue: PressureQueue[int] = PressureQueue(queue_name, url=fresh_server.url)
        await queue.create()
        getters = [asyncio.create_task(queue.get()) for _ in range(5)]
        await asyncio.sleep(0.2)
        await asyncio.to_thread(fresh_server.kill)
        await asyncio.to_thread(fresh_server.restart)
        for number in range(5):
            await queue.put(number)
        assert sorted(await asyncio.gather(*getters)) == list(range(5))

    run(main())


@pytest.mark.parametrize("operation", ["task_done", "purge"])
def test_what_is_sent_beforehand_waits_for_the_server_too(
    proxy: FaultyProxy, queue_name: str, operation: str
) -> None:
    async def main() -> None:
        queue: PressureQueue[int] = PressureQueue(queue_name, url=proxy.url)
        await queue.create()
        await queue.put_many(range(50))
        items = aiter(queue)
        got = [await anext(items)]
        while not queue._core.buffer:
            got.append(await anext(items))
        proxy.refuse()
        proxy.cut()
        back = asyncio.get_running_loop().call_later(1.5, proxy.accept)
        if operation == "purge":
            assert await queue.purge() == 50 - len(got)
        else:
            await queue.task_done()
        assert back.when() <= asyncio.get_running_loop().time()

    run(main())


def test_a_server_that_stays_away_is_reported(make_server: Callable[..., ServerProcess]) -> None:
    server = make_server()

    async def main() -> None:
        settings = Settings(reconnect_timeout=0.5)
        queue: PressureQueue[int] = PressureQueue("q", url=server.url, settings=settings)
        await queue.create()
        getter = asyncio.create_task(queue.get())
        await asyncio.sleep(0.1)
        await asyncio.to_thread(server.kill)
        with pytest.raises(pressure.ServerUnavailableError):
            await getter
        with pytest.raises(ConnectionError):
            await queue.put(1)

    run(main())


def test_no_server_is_reported_at_once() -> None:
    async def main() -> None:
        queue: PressureQueue[int] = PressureQueue("q", url="unix:///nowhere/at/all")
        with pytest.raises(pressure.ServerUnavailableError):
            await queue.get()

    run(main())


def test_fifty_waiters_wake_on_close(url: str, queue_name: str) -> None:
    async def main() -> None:
        queue: PressureQueue[int] = PressureQueue(queue_name, url=url)
        await queue.create(1)
        getters = [asyncio.create_task(queue.get()) for _ in range(50)]
        await asyncio.sleep(0.2)
        await queue.close()
        results = await asyncio.wait_for(asyncio.gather(*getters, return_exceptions=True), 10)
        assert all(isinstance(result, pressure.QueueClosedError) for result in results)

    run(main())


def test_fifty_waiters_wake_on_delete(url: str, queue_name: str) -> None:
    async def main() -> None:
        queue: PressureQueue[int] = PressureQueue(queue_name, url=url)
        await queue.create(1)
        await queue.put(0)
        putters = [asyncio.create_task(queue.put(number)) for number in range(50)]
        await asyncio.sleep(0.2)
        await queue.delete()
        results = await asyncio.wait_for(asyncio.gather(*putters, return_exceptions=True), 20)
        assert all(isinstance(result, pressure.QueueDoesNotExistError) for result in results)

    run(main())


def hold_a_lease(url: str, name: str) -> None:
    async def main() -> None:
        queue: PressureQueue[int] = PressureQueue(name, url=url, settings=Settings(lease=2.0))
        async with queue.lease() as item:
            report("leased", item)
            await asyncio.sleep(60)

    asyncio.run(main())


def test_the_lease_of_a_killed_consumer_comes_back(
    url: str, queue_name: str, spawn_child: Callable[..., Child]
) -> None:
    async def main() -> None:
        queue: PressureQueue[int] = PressureQueue(queue_name, url=url)
        await queue.create()
        await queue.put(7)
        child = spawn_child(hold_a_lease, url, queue_name)
        assert await asyncio.to_thread(child.wait_for, "leased") == 7
        joiner = asyncio.create_task(queue.join())
        await asyncio.sleep(2.5)
        assert await queue.qsize() == 0, "the lease was not renewed"
        child.kill()
        assert child.wait() == -signal.SIGKILL
        lease = await queue.lease(timeout=20)
        assert (lease.item, lease.deliveries) == (7, 1)
        assert not joiner.done()
        await lease.ack()
        await asyncio.wait_for(joiner, 10)

    run(main())


def end_without_closing(url: str, name: str) -> None:
    async def main() -> None:
        # On a busy machine everything takes long, which is not what is looked for.
        asyncio.get_running_loop().slow_callback_duration = 60
        queue: PressureQueue[int] = PressureQueue(name, url=url)
        report("got", await queue.get())
        await queue.lease()
        report("leased")

    asyncio.run(main())


def test_the_end_of_asyncio_run_signs_off(
    url: str, queue_name: str, spawn_child: Callable[..., Child], client: redis.Redis
) -> None:
    queue: pressure.PressureQueue[int] = pressure.PressureQueue(queue_name, url=url)
    queue.create()
    queue.put_many([1, 2])
    child = spawn_child(end_without_closing, url, queue_name, env={"PYTHONDEVMODE": "1"})
    assert child.wait_for("got") == 1
    child.wait_for("leased")
    assert child.wait() == 0
    assert child.output == ""
    assert client.zcard(f"__pressure__:{queue_name}:leases") == 0
    assert queue.get(timeout=10) == 2
    queue.disconnect()
