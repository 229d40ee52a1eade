"""arq: one worker per process, polling as often as it can be told to."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from arq import create_pool
from arq.connections import RedisSettings

from benchmarks.peers.driving import Pool, main, processes

VARIABLE = "BENCHMARK_URL"
POLL = 0.001


async def noop(context: Any) -> None:
    pass


def settings(url: str) -> RedisSettings:
    if url.startswith("unix://"):
        return RedisSettings(unix_socket_path=url.removeprefix("unix://").partition("?")[0])
    return RedisSettings.from_dsn(url)


class WorkerSettings:
    functions: ClassVar[list[Any]] = [noop]
    redis_settings = settings(os.environ.get(VARIABLE, "redis://localhost"))
    max_jobs = 100
    poll_delay = POLL


@contextmanager
def pool(url: str, workers: int) -> Iterator[Pool]:
    loop = asyncio.new_event_loop()
    redis = loop.run_until_complete(create_pool(settings(url)))

    async def gather(count: int) -> None:
        jobs = [await redis.enqueue_job("noop") for _ in range(count)]
        for job in jobs:
            assert job is not None
            await job.result(poll_delay=POLL, timeout=60)

    command = ["arq", "benchmarks.peers.arq_jobs.WorkerSettings"]
    try:
        with processes(command, count=workers, environment={VARIABLE: url}):
            yield Pool(
                lambda count: loop.run_until_complete(gather(count)),
                lambda: loop.run_until_complete(gather(1)),
            )
    finally:
        loop.run_until_complete(redis.aclose())
        loop.close()


if __name__ == "__main__":
    main(pool)
