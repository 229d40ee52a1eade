"""Objects that fail while they are pickled, unpickled or run, on each side and in each way."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

import pressure
import pressure.aio
import pressure.multiprocessing as mp
from pressure import PressureQueue, Settings
from pressure.executor import RedisExecutor, ResultPayloadError, TaskPayloadError, WorkerLostError
from pressure.executor.supervision import crew
from tests.faults.kit import crashing
from tests.faults.kit.crashing import EXIT_CODE, WAYS, Crash, CrashError, How
from tests.support.processes import Child, report
from tests.support.waiting import eventually

WAIT = 30.0
LEASE = 0.5


@pytest.fixture(scope="module")
def executor() -> Iterator[RedisExecutor]:
    """One whose workers are replaced quickly, however many die."""
    with pytest.MonkeyPatch.context() as patched, RedisExecutor(2) as executor:
        patched.setattr(crew, "LONGEST_PAUSE", 0.05)
        yield executor


def check_death(error: BaseException | None, how: How) -> None:
    assert isinstance(error, WorkerLostError)
    assert error.deliveries == 1
    (death,) = error.deaths
    if how == "exit":
        assert (death["exit_code"], death["signal"]) == (EXIT_CODE, None)
    else:
        assert (death["exit_code"], death["signal"]) == (None, signal.Signals.SIGSEGV.name)


def test_tasks(executor: RedisExecutor) -> None:
    """All at once, so that each future has to be told from the others."""
    here = os.getpid()
    once = executor.options(max_deliveries=1)
    unharmed = [executor.submit(abs, -number) for number in range(20)]
    not_sent = executor.submit(repr, Crash("pickled", "error"))
    unreadable = {how: once.submit(repr, Crash("unpickled", how, not_in=here)) for how in WAYS}
    failing = {how: once.submit(crashing.run, how) for how in WAYS}
    mute = {how: once.submit(crashing.give_made, "pickled", how) for how in WAYS}
    broken = {how: once.submit(crashing.give_made, "unpickled", how) for how in WAYS}
    raising: dict[How, Future[Any]] = {
        how: once.submit(crashing.raise_made, "unpickled", how) for how in WAYS
    }
    only_here = executor.submit(crashing.give_made, "unpickled", "error", here)
    unharmed += [executor.submit(abs, -number) for number in range(20)]

    def error(future: Future[Any]) -> BaseException | None:
        return future.exception(WAIT)

    assert isinstance(error(not_sent), CrashError)
    assert isinstance(error(unreadable["error"]), TaskPayloadError)
    assert crashing.SAID in str(error(unreadable["error"]))
    assert isinstance(error(failing["error"]), CrashError)
    assert isinstance(error(mute["error"]), CrashError)
    assert isinstance(error(broken["error"]), ResultPayloadError)
    assert isinstance(error(raising["error"]), ResultPayloadError)
    assert isinstance(error(only_here), ResultPayloadError)
    for futures in (unreadable, failing, mute, broken, raising):
        for how in ("exit", "segfault"):
            check_death(error(futures[how]), how)
    assert [future.result(WAIT) for future in unharmed] == [*range(20)] * 2


def test_tasks_of_a_pool() -> None:
    here = os.getpid()
    with mp.Pool(2) as pool:
        with pytest.raises(CrashError):
            pool.apply(crashing.run, ("error",))
        with pytest.raises((TaskPayloadError, CrashError)):
            pool.apply(abs, (Crash("unpickled", "error", not_in=here),))
        with pytest.raises(WorkerLostError):
            pool.apply(crashing.run, ("exit",))
        with pytest.raises(WorkerLostError):
            pool.apply(crashing.give_made, ("pickled", "segfault"))
        with pytest.raises((ResultPayloadError, CrashError)):
            pool.apply(crashing.give_made, ("unpickled", "error"))
        assert pool.map(abs, range(-5, 0)) == [5, 4, 3, 2, 1]


def test_items_of_a_queue(url: str, queue_name: str) -> None:
    q: PressureQueue[Any] = PressureQueue(queue_name, url=url)
    q.create()
    with pytest.raises(CrashError):
        q.put(Crash("pickled", "error"))
    q.put("before")
    q.put(Crash("unpickled", "error"))
    q.put("after")
    assert q.get(timeout=WAIT) == "before"
    with pytest.raises(pressure.PayloadError, match=crashing.SAID):
        q.get(timeout=WAIT)
    assert q.get(timeout=WAIT) == "after"
    assert q.empty()
    assert len(q.dead_letters) == 1
    q.delete()
    q.disconnect()


def test_items_of_an_asyncio_queue(url: str, queue_name: str) -> None:
    async def main() -> None:
        made: pressure.aio.PressureQueue[Any] = pressure.aio.PressureQueue(queue_name, url=url)
        async with made as q:
            await q.create()
            with pytest.raises(CrashError):
                await q.put(Crash("pickled", "error"))
            for item in ("before", Crash("unpickled", "error"), "after"):
                await q.put(item)
            assert await q.get(timeout=WAIT) == "before"
            with pytest.raises(pressure.PayloadError, match=crashing.SAID):
                await q.get(timeout=WAIT)
            assert await q.get(timeout=WAIT) == "after"
            await q.delete()

    asyncio.run(main())


def test_items_of_a_shared_queue(url: str) -> None:
    made: Any = mp.Queue(url=url)
    with pytest.raises(CrashError):
        made.put(Crash("pickled", "error"))
    for item in ("before", Crash("unpickled", "error"), "after"):
        made.put(item)
    assert made.get(timeout=WAIT) == "before"
    with pytest.raises(pressure.PayloadError, match=crashing.SAID):
        made.get(timeout=WAIT)
    assert made.get(timeout=WAIT) == "after"
    made.delete()
    made.close()


SETTINGS = Settings(lease=LEASE, max_deliveries=1)


def consume(url: str, name: str) -> None:
    """Get what comes, until an item kills this process."""
    q: PressureQueue[Any] = PressureQueue(name, url=url, settings=SETTINGS)
    for item in q:
        report("got", item)


def consume_asynchronously(url: str, name: str) -> None:
    async def main() -> None:
        made: pressure.aio.PressureQueue[Any] = pressure.aio.PressureQueue(
            name, url=url, settings=SETTINGS
        )
        async with made as q:
            async for item in q:
                report("got", item)

    asyncio.run(main())


@pytest.mark.parametrize("consumer", [consume, consume_asynchronously])
def test_an_item_that_kills_its_consumer(
    consumer: Callable[[str, str], None],
    url: str,
    queue_name: str,
    spawn_child: Callable[..., Child],
) -> None:
    """It becomes a dead letter, and what is behind it is unharmed."""
    q: PressureQueue[Any] = PressureQueue(queue_name, url=url, settings=SETTINGS)
    q.create()
    q.put(Crash("unpickled", "exit"))
    q.put("behind")
    child = spawn_child(consumer, url, queue_name)
    assert child.wait() == EXIT_CODE
    assert child.count("got") == 0
    assert q.get(timeout=WAIT) == "behind"

    def buried() -> bool:
        # Whoever comes upon the other one, when the lease of the dead is over, finds it at its cap.
        with pytest.raises(pressure.QueueEmptyError):
            q.get(timeout=0.1)
        return len(q.dead_letters) == 1

    assert eventually(buried, WAIT)
    q.delete()
    q.disconnect()
