"""Everything at once on one address: producers, consumers, an executor, asyncio. And the books.

A fault may strike at any time while it runs. Afterwards nothing that was acknowledged is missing,
nothing came that nobody sent, every future has its result, and everybody is still at work.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from types import TracebackType
from typing import Any, Self

import pressure
import pressure.aio
from tests.faults import executing as do
from tests.support.account import Account, Balance
from tests.support.waiting import eventually

__all__ = ["Load"]

WAIT = 40.0
PAUSE = 0.002
OUTSTANDING = 40
BOUND = 500


class Load:
    """Runs from `with` on; `finish` ends it and settles the account.

    Args:
        url: where.
        name: what the queues' names begin with; a daemon must serve the queue `executor_queue`.
        books: where the items are accounted for.
        min_replicas, replica_timeout: as for `Settings`. What is not known to be replicated in time
            may get lost, and does not count as acknowledged.
    """

    def __init__(
        self,
        url: str,
        name: str,
        books: Account,
        *,
        min_replicas: int = 0,
        replica_timeout: float = WAIT,
    ) -> None:
        self.url, self.name, self.books = url, name, books
        self.executor_queue = f"{name}-x"
        self.done: Counter[str] = Counter()
        self.unreplicated = 0
        self._settings = pressure.Settings(
            reconnect_timeout=WAIT, min_replicas=min_replicas, replica_timeout=replica_timeout
        )
        self._errors: list[BaseException] = []
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._busy: list[threading.Thread] = []
        self._queues = [self._queue() for _ in range(4)]

    def _queue(self) -> pressure.PressureQueue[str]:
        return pressure.PressureQueue(self.name, url=self.url, settings=self._settings)

    def __enter__(self) -> Self:
        self._queues[0].create(BOUND)
        work: list[tuple[Callable[..., None], tuple[Any, ...]]] = [
            (self._produce, (self._queues[0], "a")),
            (self._produce, (self._queues[1], "b")),
            (self._consume, (self._queues[2],)),
            (self._consume, (self._queues[3],)),
            (self._execute, ()),
            (self._run_loop, ()),
        ]
        for function, arguments in work:
            thread = threading.Thread(target=self._guarded, args=(function, *arguments))
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(2 * WAIT)

    def _guarded(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            function(*arguments)
        except BaseException as exc:
            self._errors.append(exc)
            self._over.set()

    def progress(self) -> None:
        """Return when each kind of work has gone on since the call."""
        before = self.done.copy()
        kinds = ("put", "got", "task", "aio")
        assert eventually(
            lambda: bool(self._errors) or all(self.done[k] > before[k] + 5 for k in kinds), WAIT
        ), f"no progress: {self.done - before}"
        self._check()

    def finish(self, *, at_least: int = 50) -> Balance:
        """End the work in good order once there was enough of it, and settle the account."""
        assert eventually(
            lambda: bool(self._errors) or self.books.count("acknowledged") >= at_least, WAIT
        )
        self._over.set()
        for thread in self._threads:
            thread.join(2 * WAIT)
        assert not any(thread.is_alive() for thread in self._threads)
        self._check()
        for queue in self._queues:
            queue.disconnect()
        self._queues[0].delete()
        self._queues[0].disconnect()
        return self.books.check(at_least=at_least)

    def _check(self) -> None:
        if self._errors:
            raise AssertionError(f"{len(self._errors)} went wrong") from self._errors[0]

    def _produce(self, queue: pressure.PressureQueue[str], who: str) -> None:
        number = 0
        while not self._over.wait(PAUSE):
            item = f"{who}{number}"
            number += 1
            self.books.sent(item)
            # Both the fault and the time around it concern everything that is on its way.
            self.books.touched(item)
            try:
                queue.put(item, timeout=WAIT)
                self.books.acknowledged(item)
            except pressure.NotReplicatedError:
                self.unreplicated += 1
            self.done["put"] += 1

    def _consume(self, queue: pressure.PressureQueue[str]) -> None:
        while True:
            try:
                with queue.lease(timeout=0.5) as item:
                    self.books.delivered(item)
                    self.done["got"] += 1
            except pressure.QueueEmptyError:
                if self._over.is_set() and queue.qsize() == 0:
                    return
            except (pressure.LeaseLostError, pressure.ServerUnavailableError):
                # Somebody else has it now; or there was no primary for longer than the time-out.
                continue

    def _execute(self) -> None:
        settings = pressure.Settings(reconnect_timeout=WAIT)
        with pressure.RedisExecutor(
            url=self.url, queue=self.executor_queue, settings=settings
        ) as executor:
            futures: dict[Future[Any], int] = {}
            number = 0
            while not self._over.is_set():
                while len(futures) < OUTSTANDING:
                    futures[executor.submit(do.square, number)] = number
                    number += 1
                self._collect(futures)
            deadline = time.monotonic() + WAIT
            while futures:
                assert time.monotonic() < deadline, f"{len(futures)} futures hang"
                self._collect(futures)

    def _collect(self, futures: dict[Future[Any], int]) -> None:
        done, _ = wait(futures, timeout=0.5, return_when=FIRST_COMPLETED)
        for future in done:
            assert future.result() == futures.pop(future) ** 2
            self.done["task"] += 1

    def _run_loop(self) -> None:
        asyncio.run(self._echo())

    async def _echo(self) -> None:
        """What goes in comes out, one at a time, perhaps again."""
        name = f"{self.name}-aio"
        async with pressure.aio.PressureQueue[int](
            name, url=self.url, settings=self._settings
        ) as queue:
            await queue.create(10)
            number = 0
            while not self._over.is_set():
                number += 1
                await asyncio.gather(self._await_number(queue, number), self._put(queue, number))
                self.done["aio"] += 1
            await queue.delete()

    async def _put(self, queue: pressure.aio.PressureQueue[int], number: int) -> None:
        await asyncio.sleep(PAUSE)
        with contextlib.suppress(pressure.NotReplicatedError):
            await queue.put(number)

    async def _await_number(self, queue: pressure.aio.PressureQueue[int], number: int) -> None:
        while await queue.get(timeout=WAIT) != number:
            pass
