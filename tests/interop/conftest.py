"""Both kinds of clients on one queue, and threads that cannot hang the test run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

import pytest
import redis

from pressure import PressureQueue
from pressure.keys import Keys
from tests.support.published import PublishedClient
from tests.support.waiting import eventually

T = TypeVar("T")

LIMIT = 30.0
"""No wait in these tests takes longer (seconds), whatever goes wrong."""

Old = Callable[..., PublishedClient]
Ours = Callable[..., PressureQueue[bytes]]


class Table:
    """One queue's place at the server, and who sits there."""

    def __init__(self, name: str, prefix: str, url: str, client: redis.Redis) -> None:
        self.keys = Keys(prefix, name)
        self.client = client
        self._place = (name, url, prefix)
        self._old: list[PublishedClient] = []
        self._ours: list[PressureQueue[bytes]] = []

    def old(self, **options: Any) -> PublishedClient:
        """A client of protocol 0.15."""
        name, url, prefix = self._place
        self._old.append(PublishedClient(name, url, prefix, **options))
        return self._old[-1]

    def ours(self, **options: Any) -> PressureQueue[bytes]:
        """A client of this library."""
        name, url, prefix = self._place
        self._ours.append(PressureQueue(name, url=url, prefix=prefix, codec="raw", **options))
        return self._ours[-1]

    def leave(self) -> None:
        for old in self._old:
            old.disconnect()
        for ours in self._ours:
            ours.disconnect()

    def blocked(self, command: str) -> int:
        """How many clients of the server are blocked in `command` now."""
        return sum(
            "b" in each["flags"] and each["cmd"] == command for each in self.client.client_list()
        )

    def await_blocked(self, command: str, count: int = 1) -> None:
        """Return once `count` clients are blocked in `command`."""
        assert eventually(lambda: self.blocked(command) >= count, LIMIT), f"nobody in {command}"

    def tokens(self) -> tuple[int, int, int]:
        """How many elements the two role lists and `not_full` have."""
        client, keys = self.client, self.keys
        lists = (keys.producer_free, keys.consumer_free, keys.not_full)
        producer, consumer, room = (client.llen(each) for each in lists)
        return producer, consumer, room

    def number(self, key: bytes) -> int:
        return int(self.client.get(key) or 0)


@pytest.fixture
def table(queue_name: str, namespace: str, url: str, client: redis.Redis) -> Iterator[Table]:
    table = Table(queue_name, namespace, url, client)
    yield table
    table.leave()


@pytest.fixture
def old(table: Table) -> Old:
    """Makes clients of protocol 0.15, all of the test's queue."""
    return table.old


@pytest.fixture
def ours(table: Table) -> Ours:
    """Makes clients of this library, all of the test's queue, with raw items."""
    return table.ours


def start(run: Callable[..., T], *args: Any) -> Future[T]:
    """Run it in a thread that does not hold up the interpreter's exit."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(run(*args))
        except BaseException as exc:
            future.set_exception(exc)

    threading.Thread(target=work, daemon=True).start()
    return future
