"""taskiq: its list broker, as many worker processes, results in Redis."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager

from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

from benchmarks.peers.driving import Pool, main, processes

VARIABLE = "BENCHMARK_URL"
POLL = 0.001

_url = os.environ.get(VARIABLE, "redis://localhost")
broker = ListQueueBroker(_url).with_result_backend(RedisAsyncResultBackend(_url))


@broker.task("noop")
async def noop() -> None:
    pass


@contextmanager
def pool(url: str, workers: int) -> Iterator[Pool]:
    if VARIABLE not in os.environ:
        # The broker is made when this is imported.
        raise SystemExit(f"set {VARIABLE}")
    loop = asyncio.new_event_loop()
    loop.run_until_complete(broker.startup())

    async def gather(count: int) -> None:
        tasks = [await noop.kiq() for _ in range(count)]
        for task in tasks:
            await task.wait_result(check_interval=POLL, timeout=60)

    command = ["taskiq", "worker", "benchmarks.peers.taskiq_broker:broker"]
    command += ["--workers", str(workers), "--log-level", "ERROR"]
    try:
        with processes(command):
            yield Pool(
                lambda count: loop.run_until_complete(gather(count)),
                lambda: loop.run_until_complete(gather(1)),
            )
    finally:
        loop.run_until_complete(broker.shutdown())
        loop.close()


if __name__ == "__main__":
    main(pool)
