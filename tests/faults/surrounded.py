"""What the children of `test_surroundings.py` do: traffic in a process with its own troubles."""

from __future__ import annotations

import asyncio
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import pressure
import pressure.aio
import pressure.multiprocessing as mp
from pressure.executor import RedisExecutor
from tests.faults import executing
from tests.faults.kit.surroundings import NoDescriptors, WrongClock
from tests.faults.kit.traffic import TRAFFIC, Traffic, carry_text
from tests.support.account import Account
from tests.support.child import at, report

LEASE = 1.0


def serve_in_the_past(url: str, queue: str, lease: float) -> None:
    """A daemon whose clock is slow, and that of its workers."""
    WrongClock(-600.0).strike()
    executing.serve(url, queue, 2, lease)


def with_a_wrong_clock(interface: str, url: str, name: str, books: Account) -> None:
    """Traffic in the future, for longer than its leases."""
    WrongClock(600.0).strike()
    with TRAFFIC[interface](url, name, books, lease=LEASE) as traffic:
        traffic.flows()
        time.sleep(1.5 * LEASE)
        traffic.flows()
    report("duplicates", traffic.finish().duplicates)


def without_descriptors(interface: str, url: str, direct: str, name: str, books: Account) -> None:
    """Traffic that loses its connections while new ones can't be opened."""
    exhausted = NoDescriptors()
    with TRAFFIC[interface](url, name, books, direct=direct) as traffic:
        traffic.flows()
        with exhausted:
            report("exhausted")
            at("cut")
            time.sleep(0.3)
        traffic.flows()
    report("duplicates", traffic.finish().duplicates)


def forking(interface: str, url: str, name: str, books: Account) -> None:
    """Traffic in a process that forks; the children take part in it."""
    warnings.simplefilter("ignore", DeprecationWarning)
    with TRAFFIC[interface](url, name, books) as traffic:
        traffic.flows()
        for index in range(3):
            pid = os.fork()
            if pid == 0:
                try:
                    _take_part(interface, traffic, f"fork {index}")
                except BaseException as exc:
                    report("failed", repr(exc))
                finally:
                    os._exit(0)
            os.waitpid(pid, 0)
            traffic.flows()
    report("duplicates", traffic.finish().duplicates)


def _take_part(interface: str, traffic: Traffic, item: str) -> None:
    """Put one more item: with the handle that was forked if that can be, else with another."""
    books = traffic.account
    books.sent(item)
    parts: dict[str, Callable[[Any, str], None]] = {
        "queue": lambda traffic, item: traffic._direct.put(item, timeout=executing.WAIT),
        "asyncio": _put_asynchronously,
        "executor": _submit,
        "shim": _put_and_flush,
        "shim, unbounded": _put_and_flush,
    }
    parts[interface](traffic, item)
    books.acknowledged(item)


def _put_asynchronously(traffic: Traffic, item: str) -> None:
    async def put() -> None:
        made: pressure.aio.PressureQueue[str] = pressure.aio.PressureQueue(
            traffic.name, url=traffic.url
        )
        async with made as handle:
            await handle.put(item)

    asyncio.run(put())


def _submit(traffic: Traffic, item: str) -> None:
    with RedisExecutor(url=traffic.url, queue=traffic.name) as executor:
        executor.submit(carry_text, str(traffic.account.directory), item).result(executing.WAIT)


def _put_and_flush(traffic: Any, item: str) -> None:
    handle: mp.Queue[Any] = traffic._direct
    handle.put(item)
    handle.close()
    handle.join_thread()
