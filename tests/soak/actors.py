"""What the processes of a soak do. Each notes what it does in its book, until it is told to stop.

They are told by files in the directory of the run, so that a process that stood still for a while
misses nothing: `stop` ends those who put and submit. Consumers go on until the queue is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import itertools
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import Any

import pressure
import pressure.aio
import pressure.multiprocessing as mp
from pressure import Settings
from pressure.executor import RedisExecutor
from pressure.executor.cli import main as worker_main
from tests.soak.books import Book, StallWatch
from tests.support.processes import report

__all__ = ["Scene", "act"]

PATIENCE = 40.0
"""Seconds after which an operation counts as hung."""
PACE = 0.004
OUTSTANDING = 40


@dataclass(frozen=True)
class Scene:
    """What an actor must know."""

    url: str
    name: str
    directory: str
    lease: float
    ttl: float
    actor: str
    seed: int

    @property
    def settings(self) -> Settings:
        return Settings(lease=self.lease, reconnect_timeout=PATIENCE)


class Actor:
    """The surroundings of a role: its book, its pace, and whether it is over."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.random = random.Random(f"{scene.seed} {scene.actor}")
        self.book = Book(scene.directory, scene.actor)
        self._numbers = itertools.count()
        self._stop = os.path.join(scene.directory, "stop")

    def going(self) -> bool:
        return not os.path.exists(self._stop)

    def items(self) -> Iterator[str]:
        """New items, at an uneven pace, until it is over."""
        while self.going():
            item = f"{self.scene.actor}.{next(self._numbers)}"
            self.book.note("sent", item)
            yield item
            time.sleep(self.random.random() * PACE)

    def handle(self) -> pressure.PressureQueue[Any]:
        return pressure.PressureQueue(
            self.scene.name, url=self.scene.url, settings=self.scene.settings
        )


def act(role: str, scene: Scene) -> None:
    """The start of an actor's process."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    actor = Actor(scene)
    if role != "worker":
        StallWatch(actor.book, scene.lease / 4)
    before = len(os.listdir("/proc/self/fd"))
    report("ready")
    try:
        while True:
            try:
                ROLES[role](actor)
                break
            except pressure.ServerUnavailableError:
                # Nobody looks long for a server that he has never reached.
                if actor.book.begun:
                    raise
                time.sleep(0.1)
    except Exception as exc:
        text = f"{type(exc).__name__}: {exc}".replace(" ", "_").replace("\n", "_")
        actor.book.note("error", text)
        raise
    after = len(os.listdir("/proc/self/fd"))
    report("ended", {"descriptors": after - before, "threads": threading.active_count()})


# Items


def body(item: str, actor: Actor) -> Any:
    """What travels: mostly small, now and then so large that it goes beside the queue."""
    size = 150_000 if actor.random.random() < 0.01 else actor.random.randrange(200)
    return item, b"x" * size


def produce(actor: Actor) -> None:
    with actor.handle() as q:
        for item in actor.items():
            q.put(body(item, actor), timeout=PATIENCE)
            actor.book.note("acknowledged", item)


def produce_many(actor: Actor) -> None:
    with actor.handle() as q:
        items = actor.items()
        while batch := list(itertools.islice(items, 20)):
            q.put_many([body(item, actor) for item in batch], timeout=PATIENCE)
            for item in batch:
                actor.book.note("acknowledged", item)


def _consume(actor: Actor, take: Callable[[pressure.PressureQueue[Any]], list[Any]]) -> None:
    with actor.handle() as q:
        while True:
            try:
                found = take(q)
            except (pressure.QueueEmptyError, pressure.ServerUnavailableError):
                # The time-out is over, be it that there was no item or no server.
                continue
            except pressure.QueueClosedError:
                break
            for item, _ in found:
                actor.book.note("delivered", item)
            time.sleep(actor.random.random() * PACE)


def consume(actor: Actor) -> None:
    _consume(actor, lambda q: [q.get(timeout=actor.random.random() * 5)])


def consume_many(actor: Actor) -> None:
    _consume(actor, lambda q: q.get_many(10, timeout=5))


def iterate(actor: Actor) -> None:
    with actor.handle() as q:
        for item, _ in q:
            actor.book.note("delivered", item)
            time.sleep(actor.random.random() * PACE)


def lease(actor: Actor) -> None:
    with actor.handle() as q:
        while True:
            try:
                held = q.lease(timeout=5)
            except (pressure.QueueEmptyError, pressure.ServerUnavailableError):
                continue
            except pressure.QueueClosedError:
                break
            if actor.random.random() < 0.05:
                with contextlib.suppress(pressure.LeaseLostError):
                    held.give_back(charge=False)
                continue
            time.sleep(actor.random.random() * PACE)
            actor.book.note("delivered", held.item[0])
            try:
                held.ack()
            except pressure.LeaseLostError:
                # It is somebody else's now.
                actor.book.note("lease_lost", held.item[0])


def asynchronous(actor: Actor) -> None:
    asyncio.run(_asynchronous(actor))


async def _asynchronous(actor: Actor) -> None:
    made: pressure.aio.PressureQueue[Any] = pressure.aio.PressureQueue(
        actor.scene.name, url=actor.scene.url, settings=actor.scene.settings
    )
    async with made as q, asyncio.TaskGroup() as group:
        group.create_task(_aio_get(actor, q))
        group.create_task(_aio_lease(actor, q))
        number = itertools.count()
        while actor.going():
            item = f"{actor.scene.actor}.a{next(number)}"
            actor.book.note("sent", item)
            await q.put(body(item, actor), timeout=PATIENCE)
            actor.book.note("acknowledged", item)
            await asyncio.sleep(actor.random.random() * PACE)
        report("puts no more")


async def _aio_get(actor: Actor, q: pressure.aio.PressureQueue[Any]) -> None:
    while True:
        try:
            # Cancelled now and then, when it may just be getting something.
            item, _ = await asyncio.wait_for(q.get(), actor.random.random() * 0.5)
        except TimeoutError:
            continue
        except pressure.QueueClosedError:
            return
        actor.book.note("delivered", item)
        await asyncio.sleep(actor.random.random() * PACE)


async def _aio_lease(actor: Actor, q: pressure.aio.PressureQueue[Any]) -> None:
    while True:
        try:
            async with q.lease(timeout=5) as (item, _):
                actor.book.note("delivered", item)
                await asyncio.sleep(actor.random.random() * PACE)
        except (
            pressure.LeaseLostError,
            pressure.QueueEmptyError,
            pressure.ServerUnavailableError,
        ):
            continue
        except pressure.QueueClosedError:
            return


# multiprocessing


def shim_produce(actor: Actor) -> None:
    q: Any = mp.Queue(100, name=f"{actor.scene.name}-mp", url=actor.scene.url)
    for item in actor.items():
        q.put(body(item, actor), timeout=PATIENCE)
        actor.book.note("put", item)
    q.close()
    q.join_thread()
    for number in range(next(actor._numbers)):
        actor.book.note("acknowledged", f"{actor.scene.actor}.{number}")


def shim_consume(actor: Actor) -> None:
    q: Any = mp.Queue(100, name=f"{actor.scene.name}-mp", url=actor.scene.url)
    while True:
        try:
            got = q.get(timeout=5)
        except (Empty, pressure.ServerUnavailableError):
            continue
        if got is None:
            break
        actor.book.note("delivered", got[0])
    q.close()
    q.join_thread()


# Executors


def task(number: int, seconds: float) -> int:
    time.sleep(seconds)
    return number * number


def _submit(actor: Actor, executor: RedisExecutor) -> None:
    numbers = itertools.count()
    outstanding: dict[Future[int], int] = {}

    def finish(future: Future[int], number: int) -> None:
        try:
            result = future.result(PATIENCE * 2)
        except TimeoutError:
            actor.book.note("error", f"hung:_future_{number}_of_{future!r}".replace(" ", "_"))
            return
        except pressure.WorkerLostError as exc:
            actor.book.note("failed", f"{type(exc).__name__}:{number}")
            return
        assert result == number * number, f"{result} came for {number}"
        actor.book.note("result", number)

    with executor:
        while actor.going():
            number = next(numbers)
            seconds = actor.random.choice([0.0, 0.0, 0.0, 0.002, 0.05])
            actor.book.note("task", number)
            outstanding[executor.submit(task, number, seconds)] = number
            while len(outstanding) >= OUTSTANDING:
                first = next(iter(outstanding))
                finish(first, outstanding.pop(first))
            time.sleep(actor.random.random() * PACE)
        for future, number in outstanding.items():
            finish(future, number)


def submit(actor: Actor) -> None:
    settings = Settings(reconnect_timeout=PATIENCE, ttl=actor.scene.ttl)
    queue = f"{actor.scene.name}-x"
    _submit(actor, RedisExecutor(url=actor.scene.url, queue=queue, settings=settings))


def submit_locally(actor: Actor) -> None:
    _submit(actor, RedisExecutor(2))


def work(actor: Actor) -> None:
    """A daemon: `pressure-worker`."""
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    arguments = [actor.scene.url, "--queue", f"{actor.scene.name}-x", "--processes", "2"]
    worker_main([*arguments, "--lease", str(actor.scene.lease)], standalone_mode=False)


ROLES: dict[str, Callable[[Actor], None]] = {
    "producer": produce,
    "batch-producer": produce_many,
    "consumer": consume,
    "batch-consumer": consume_many,
    "iterator": iterate,
    "leaser": lease,
    "asyncio": asynchronous,
    "mp-producer": shim_produce,
    "mp-consumer": shim_consume,
    "executor": submit,
    "local-executor": submit_locally,
    "worker": work,
}


def stop_file(directory: str | Path) -> Path:
    return Path(directory) / "stop"
