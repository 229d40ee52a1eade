"""SAQ: as many workers, each with room for many jobs at once; results waited for by its own
subscription."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis.asyncio import Redis
from saq.queue.redis import RedisQueue

from benchmarks.peers.driving import Pool, main, processes

VARIABLE = "BENCHMARK_URL"


async def noop(context: Any) -> None:
    pass


settings = {
    "queue": RedisQueue(
        Redis.from_url(os.environ.get(VARIABLE, "redis://localhost")), name="bench"
    ),
    "functions": [noop],
    "concurrency": 100,
}


@contextmanager
def pool(url: str, workers: int) -> Iterator[Pool]:
    loop = asyncio.new_event_loop()
    queue = RedisQueue(Redis.from_url(url), name="bench")
    loop.run_until_complete(queue.connect())

    async def gather(count: int) -> None:
        jobs = [await queue.enqueue("noop") for _ in range(count)]
        for job in jobs:
            assert job is not None
            await job.refresh(until_complete=60)

    try:
        with processes(
            ["saq", "benchmarks.peers.saq_queue.settings"],
            count=workers,
            environment={VARIABLE: url},
        ):
            yield Pool(
                lambda count: loop.run_until_complete(gather(count)),
                lambda: loop.run_until_complete(gather(1)),
            )
    finally:
        loop.run_until_complete(queue.disconnect())
        loop.close()


if __name__ == "__main__":
    main(pool)
