"""What an operation costs in commands and bytes: counts, not seconds, so no load can upset them.

The bounds are a little above what the design needs, and far below what a lost batch, a second round
trip or an envelope that has grown would cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import wait
from typing import NamedTuple

import pytest
import redis

from pressure import PressureQueue
from pressure.executor import RedisExecutor
from tests.executor.crews import PATIENCE, daemon
from tests.support.servers import ServerProcess

BODY = b"x" * 100
# What scripts call in turn is in the server's statistics, too.
SENT = ("evalsha", "eval", "blmove", "brpop", "lmove", "client|unblock")


class Cost(NamedTuple):
    """For each operation: commands, and bytes to and from the server."""

    commands: float
    received: float
    sent: float


def nothing() -> None:
    pass


@pytest.fixture
def server_alone(make_server: Callable[..., ServerProcess]) -> ServerProcess:
    """A server that nobody else uses meanwhile."""
    return make_server()


@pytest.fixture
def measure(server_alone: ServerProcess) -> Iterator[Callable[[Callable[[], object], int], Cost]]:
    with server_alone.client() as client:

        def measured(work: Callable[[], object], operations: int) -> Cost:
            before = reading(client)
            work()
            return Cost(
                *(
                    (now - then) / operations
                    for now, then in zip(reading(client), before, strict=True)
                )
            )

        yield measured


def reading(client: redis.Redis) -> tuple[int, int, int]:
    calls = client.info("commandstats")
    stats = client.info("stats")
    commands = sum(calls.get(f"cmdstat_{name}", {}).get("calls", 0) for name in SENT)
    return commands, stats["total_net_input_bytes"], stats["total_net_output_bytes"]


def test_single_operations(server_alone: ServerProcess, measure: Callable[..., Cost]) -> None:
    with PressureQueue[bytes]("costs", url=server_alone.url) as queue:
        queue.create()
        queue.put(BODY)
        queue.get()

        def put() -> None:
            for _ in range(200):
                queue.put(BODY)

        def get() -> None:
            for _ in range(200):
                queue.get()

        cost = measure(put, 200)
        assert cost.commands <= 1.1
        assert cost.received <= 960
        assert cost.sent <= 150
        cost = measure(get, 200)
        # On a machine that stands still now and then, the keeper sends some acknowledgements.
        assert cost.commands <= 2.1
        assert cost.received <= 2400
        queue.delete()


def test_batches(server_alone: ServerProcess, measure: Callable[..., Cost]) -> None:
    with PressureQueue[bytes]("costs", url=server_alone.url) as queue:
        queue.create()

        def get_all() -> None:
            left = 10_000
            while left:
                left -= len(queue.get_many(1000))

        cost = measure(lambda: queue.put_many([BODY] * 10_000), 10_000)
        assert cost.commands <= 0.02
        assert cost.received <= 230
        cost = measure(get_all, 10_000)
        assert cost.commands <= 0.02
        assert cost.received + cost.sent <= 250
        queue.delete()


def test_tasks(server_alone: ServerProcess, measure: Callable[..., Cost]) -> None:
    with (
        daemon(server_alone.url, "costs", 2),
        RedisExecutor(url=server_alone.url, queue="costs") as ex,
    ):
        wait([ex.submit(nothing) for _ in range(500)], PATIENCE)

        def gather() -> None:
            assert not wait([ex.submit(nothing) for _ in range(4000)], PATIENCE).not_done

        cost = measure(gather, 4000)
        # Without batches it would be four.
        assert cost.commands <= 1.0
        assert cost.received <= 800
        assert cost.sent <= 600

        def one_by_one() -> None:
            for _ in range(100):
                ex.submit(nothing).result(PATIENCE)

        cost = measure(one_by_one, 100)
        # The task, its claim and its answer, and who waits for these.
        assert cost.commands <= 8
        assert cost.received <= 6000
