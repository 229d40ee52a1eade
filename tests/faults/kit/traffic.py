"""Numbers on their way through one of the interfaces, while faults strike; the books are kept.

    with QueueTraffic(url, name, account) as traffic:
        traffic.flows()               # some have arrived
        with fault: ...
        traffic.flows()               # and more, since the fault
    traffic.finish()                  # nothing was lost, doubled, or unexpected, and nobody hangs

Each number is put once and, unless the put failed for certain, has to arrive. The url is what the
traffic goes through; what ends it uses `direct`, where nothing is in the way.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pressure
import pressure.aio
import pressure.multiprocessing as mp
from pressure import Settings
from pressure.executor import RedisExecutor
from tests.support.account import Account, Balance
from tests.support.waiting import eventually

PATIENCE = 40.0
"""Seconds after which something counts as hung."""
PACE = 0.002
"""A pause after each number (seconds), since this is not about speed. A traffic's own is `pace`."""
BOUND = 20
OUTSTANDING = 30


class Traffic(ABC):
    """The traffic of one queue. Ends with its `with` block, or with `finish`.

    `refusals` are errors that say that the number was not put: it is given up, and the next one is
    tried after a moment. How many were is in `refused`.
    """

    def __init__(
        self,
        url: str,
        name: str,
        account: Account,
        *,
        direct: str = "",
        lease: float = 15.0,
        refusals: tuple[type[Exception], ...] = (),
    ) -> None:
        self.url = url
        self.direct = direct or url
        self.name = name
        self.account = account
        self.settings = Settings(lease=lease, reconnect_timeout=PATIENCE)
        self.refusals = refusals
        self.refused = 0
        self.pace = PACE
        self.stopping = threading.Event()
        self._delivered = 0
        self._counted = threading.Lock()
        self._numbers = itertools.count()
        self._threads: list[threading.Thread] = []
        self._failures: list[BaseException] = []

    def __enter__(self) -> Self:
        self.open()
        for target in self.targets():
            thread = threading.Thread(target=self._guarded, args=(target,), daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stopping.set()
        if kind is not None:
            # A test has failed; what still runs are daemon threads.
            with contextlib.suppress(Exception):
                self.end()

    # What each interface does its own way

    @abstractmethod
    def open(self) -> None:
        """Make what is needed, over the sound way."""

    @abstractmethod
    def targets(self) -> list[Callable[[], None]]:
        """What the threads do: put until `stopping`, and get until all has come."""

    @abstractmethod
    def end(self) -> None:
        """Nothing is put any more: let the consumers end once all has come."""

    def take_one(self) -> None:
        """Get what has come back to the queue after the consumers ended, if anything has."""
        time.sleep(PACE)

    @abstractmethod
    def clear(self) -> None:
        """Remove what is left. Raises if that is not as it should be."""

    # For those

    def numbers(self) -> Any:
        """The next numbers, until it is time to stop."""
        while not self.stopping.is_set():
            yield next(self._numbers)

    def arrived(self, number: object) -> None:
        self.account.delivered(number)
        self.count()

    def count(self) -> None:
        with self._counted:
            self._delivered += 1

    def _guarded(self, target: Callable[[], None]) -> None:
        try:
            target()
        except BaseException as exc:
            self._failures.append(exc)

    # For tests

    def flows(self, count: int = 20, timeout: float = PATIENCE) -> None:
        """Return once `count` more numbers have arrived."""
        before = self._delivered
        came = eventually(
            lambda: bool(self._failures) or self._delivered - before >= count, timeout
        )
        self._raise_failures()
        assert came, f"hung: {self._delivered - before} came in {timeout} s"

    def finish(self, *, at_least: int = 20) -> Balance:
        """End it, and return the balance. Raises `AssertionError` if anything is wrong with it."""
        self.stopping.set()
        until = time.monotonic() + PATIENCE
        self.end()
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        self._raise_failures()
        assert not any(thread.is_alive() for thread in self._threads), "hung at the end"
        while self.account.missing() and time.monotonic() < until:
            self.take_one()
        balance = self.account.check(at_least=at_least)
        self.clear()
        return balance

    def _raise_failures(self) -> None:
        if self._failures:
            raise AssertionError(f"{type(self).__name__} failed") from self._failures[0]


class QueueTraffic(Traffic):
    """Through `PressureQueue`: one producer; consumers that iterate, get, and take on lease."""

    def open(self) -> None:
        self._direct: pressure.PressureQueue[int] = pressure.PressureQueue(
            self.name, url=self.direct, settings=self.settings
        )
        self._direct.create(BOUND)

    def targets(self) -> list[Callable[[], None]]:
        return [self._produce, self._iterate, self._get, self._lease]

    def _handle(self) -> pressure.PressureQueue[int]:
        return pressure.PressureQueue(self.name, url=self.url, settings=self.settings)

    def _produce(self) -> None:
        handle = self._handle()
        for number in self.numbers():
            self.account.sent(number)
            try:
                handle.put(number)
            except self.refusals:
                self.refused += 1
                time.sleep(10 * PACE)
            else:
                self.account.acknowledged(number)
                time.sleep(self.pace)
        handle.disconnect()

    def _iterate(self) -> None:
        handle = self._handle()
        for number in handle:
            self.arrived(number)
        handle.disconnect()

    def _get(self) -> None:
        handle = self._handle()
        with contextlib.suppress(pressure.QueueClosedError):
            while True:
                with contextlib.suppress(pressure.QueueEmptyError):
                    self.arrived(handle.get(timeout=PATIENCE))
        handle.disconnect()

    def _lease(self) -> None:
        handle = self._handle()
        with contextlib.suppress(pressure.QueueClosedError):
            while True:
                with handle.lease() as number:
                    self.arrived(number)
        handle.disconnect()

    def end(self) -> None:
        # The producer is the first.
        self._threads[0].join(PATIENCE)
        self._direct.close()

    def clear(self) -> None:
        stats = self._direct.stats()
        assert (stats.length, stats.fetched_ahead, stats.consumers) == (0, 0, 0), stats
        self._direct.delete()
        self._direct.disconnect()


class AsyncTraffic(Traffic):
    """Through `pressure.aio`: the same on one event loop."""

    def open(self) -> None:
        self._direct: pressure.PressureQueue[int] = pressure.PressureQueue(
            self.name, url=self.direct, settings=self.settings
        )
        self._direct.create(BOUND)

    def targets(self) -> list[Callable[[], None]]:
        return [lambda: asyncio.run(self._main())]

    async def _main(self) -> None:
        made: pressure.aio.PressureQueue[int] = pressure.aio.PressureQueue(
            self.name, url=self.url, settings=self.settings
        )
        async with made as handle, asyncio.TaskGroup() as group:
            for consumer in (self._iterate, self._get, self._lease):
                group.create_task(consumer(handle))
            await self._produce(handle)
            # The consumers end once it is closed, over the sound way.
            await asyncio.to_thread(self._direct.close)

    async def _produce(self, handle: pressure.aio.PressureQueue[int]) -> None:
        for number in self.numbers():
            self.account.sent(number)
            try:
                await handle.put(number)
            except self.refusals:
                self.refused += 1
                await asyncio.sleep(10 * PACE)
            else:
                self.account.acknowledged(number)
                await asyncio.sleep(self.pace)

    async def _iterate(self, handle: pressure.aio.PressureQueue[int]) -> None:
        async for number in handle:
            self.arrived(number)

    async def _get(self, handle: pressure.aio.PressureQueue[int]) -> None:
        with contextlib.suppress(pressure.QueueClosedError):
            while True:
                with contextlib.suppress(pressure.QueueEmptyError):
                    self.arrived(await handle.get(timeout=PATIENCE))

    async def _lease(self, handle: pressure.aio.PressureQueue[int]) -> None:
        with contextlib.suppress(pressure.QueueClosedError):
            while True:
                async with handle.lease() as number:
                    self.arrived(number)

    def end(self) -> None:
        pass

    def clear(self) -> None:
        stats = self._direct.stats()
        assert (stats.length, stats.fetched_ahead, stats.consumers) == (0, 0, 0), stats
        self._direct.delete()
        self._direct.disconnect()


class ShimTraffic(Traffic):
    """Through `pressure.multiprocessing`: a bounded `Queue` (or an unbounded one)."""

    maxsize = BOUND
    CONSUMERS = 2

    def open(self) -> None:
        self._direct: Any = mp.Queue(self.maxsize, name=self.name, url=self.direct)

    def _handle(self) -> Any:
        return mp.Queue(self.maxsize, name=self.name, url=self.url)

    def targets(self) -> list[Callable[[], None]]:
        return [self._produce, *[self._consume] * self.CONSUMERS]

    def _produce(self) -> None:
        handle = self._handle()
        for number in self.numbers():
            self.account.sent(number)
            try:
                handle.put(number)
            except self.refusals:
                self.refused += 1
                time.sleep(10 * PACE)
            else:
                self.account.acknowledged(number)
                time.sleep(self.pace)
        handle.close()
        handle.join_thread()

    def _consume(self) -> None:
        handle = self._handle()
        while True:
            try:
                number = handle.get(timeout=PATIENCE)
            except queue.Empty:
                continue
            if number is None:
                break
            self.arrived(number)
        handle.close()

    def end(self) -> None:
        self._threads[0].join(PATIENCE)
        for _ in range(self.CONSUMERS):
            self._direct.put(None, timeout=PATIENCE)

    def take_one(self) -> None:
        # What a lost reply had brought goes back, and what ends the consumers may overtake it.
        with contextlib.suppress(queue.Empty):
            self.arrived(self._direct.get(timeout=1.0))

    def clear(self) -> None:
        assert eventually(self._direct.empty, PATIENCE), self._direct.qsize()
        self._direct.delete()
        self._direct.close()


class UnboundedShimTraffic(ShimTraffic):
    """The same through an unbounded one, whose puts don't wait for the server."""

    maxsize = 0


class ExecutorTraffic(Traffic):
    """Through `RedisExecutor`: tasks that note that they ran, and a result for each.

    Somebody else has to serve the queue. A number counts as acknowledged once it is submitted.
    """

    def open(self) -> None:
        self._executor = RedisExecutor(url=self.url, queue=self.name, settings=self.settings)

    def targets(self) -> list[Callable[[], None]]:
        return [self._submit]

    def _submit(self) -> None:
        outstanding: deque[tuple[int, Future[int]]] = deque()
        for number in self.numbers():
            self.account.sent(number)
            future = self._executor.submit(carry, str(self.account.directory), number)
            self.account.acknowledged(number)
            outstanding.append((number, future))
            while len(outstanding) > OUTSTANDING:
                self._check(*outstanding.popleft())
            time.sleep(self.pace)
        for each in outstanding:
            self._check(*each)

    def _check(self, number: int, future: Future[int]) -> None:
        result = future.result(PATIENCE)
        assert result == number * number, f"{result} came for {number}"
        self.count()

    def end(self) -> None:
        pass

    def clear(self) -> None:
        self._executor.shutdown()


def carry(books: str, number: int) -> int:
    """The task."""
    _account(books).delivered(number)
    return number * number


def carry_text(books: str, item: str) -> None:
    """A task that is none of the numbers."""
    _account(books).delivered(item)


@functools.lru_cache(maxsize=8)
def _account(books: str) -> Account:
    return Account(Path(books))


TRAFFIC: dict[str, type[Traffic]] = {
    "queue": QueueTraffic,
    "asyncio": AsyncTraffic,
    "executor": ExecutorTraffic,
    "shim": ShimTraffic,
    "shim, unbounded": UnboundedShimTraffic,
}
"""By the names of the interfaces."""
