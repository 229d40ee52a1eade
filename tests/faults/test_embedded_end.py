"""The embedded server ends under those who use it: they are told at once, for it won't be back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

import pressure
import pressure.aio
import pressure.multiprocessing as mp
from pressure import PressureQueue
from pressure.executor import RedisExecutor
from pressure.server import LocalServer
from tests.support.waiting import eventually

WAIT = 30.0
"""A minute is what a server of one's own is waited for."""


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with LocalServer() as server:
        yield server


def kill(server: LocalServer) -> None:
    os.kill(server.pid, signal.SIGKILL)


@pytest.mark.parametrize("end", [LocalServer.stop, kill])
def test_a_blocked_get_ends(server: LocalServer, end: Callable[[LocalServer], None]) -> None:
    q: PressureQueue[int] = PressureQueue("q", url=server.url)
    q.create()
    errors: list[Exception] = []

    def get() -> None:
        try:
            q.get()
        except pressure.ServerUnavailableError as exc:
            errors.append(exc)

    thread = threading.Thread(target=get)
    thread.start()
    assert eventually(lambda: bool(q.stats().consumers))
    end(server)
    thread.join(WAIT)
    assert not thread.is_alive()
    (error,) = errors
    assert "this embedded server has ended" in str(error)
    with pytest.raises(pressure.ServerUnavailableError, match="has ended"):
        q.put(1)
    q.disconnect()


def test_an_asyncio_get_ends(server: LocalServer) -> None:
    async def main() -> None:
        made: pressure.aio.PressureQueue[int] = pressure.aio.PressureQueue("q", url=server.url)
        async with made as q:
            await q.create()
            getting = asyncio.create_task(q.get())
            await asyncio.sleep(0.1)
            await asyncio.to_thread(server.stop)
            with pytest.raises(pressure.ServerUnavailableError, match="has ended"):
                await asyncio.wait_for(getting, WAIT)

    asyncio.run(main())


def test_shared_queues_say_so(server: LocalServer) -> None:
    bounded: Any = mp.Queue(5, url=server.url)
    unbounded: Any = mp.Queue(url=server.url)
    for made in (bounded, unbounded):
        made.put(1)
    server.stop()
    for use in (bounded.get, unbounded.get, lambda: bounded.put(2)):
        with pytest.raises(pressure.ServerUnavailableError, match="has ended"):
            use()
    # It may say so for an earlier one.
    with contextlib.suppress(pressure.ServerUnavailableError):
        unbounded.put(3)
    for made in (bounded, unbounded):
        made.close()
    started = time.monotonic()
    unbounded.join_thread()
    assert time.monotonic() - started < WAIT


def test_futures_of_an_executor_fail(server: LocalServer) -> None:
    with RedisExecutor(url=server.url, queue="tasks") as executor:
        future = executor.submit(abs, -1)
        assert eventually(lambda: executor.stats().queued == 1)
        kill(server)
        with pytest.raises(pressure.ServerUnavailableError, match="has ended"):
            future.result(WAIT)


def test_a_local_executor_whose_server_is_killed() -> None:
    with RedisExecutor(1) as executor:
        assert executor.submit(abs, -1).result(WAIT) == 1
        local: Any = executor._engine
        pid = _server_of(local)
        future = executor.submit(time.sleep, WAIT)
        assert eventually(future.running)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(pressure.ServerUnavailableError):
            future.result(WAIT)


def _server_of(engine: Any) -> int:
    with redis.Redis.from_url(engine.dispatcher._channel.handle.address.url) as client:
        said: Any = client.info("server")
        return int(said["process_id"])
