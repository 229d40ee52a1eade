"""Huey: process workers that block on Redis, without the scheduler's and the signals' work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huey import RedisHuey

from benchmarks.peers.driving import Pool, main, processes
from benchmarks.peers.tasks import noop

VARIABLE = "BENCHMARK_URL"
TIMEOUT = 60

huey: Any = RedisHuey("bench", url=os.environ.get(VARIABLE), blocking=True, store_none=True)
task = huey.task()(noop)


@contextmanager
def pool(url: str, workers: int) -> Iterator[Pool]:
    huey.storage.pool.disconnect()
    huey.storage = RedisHuey("bench", url=url, blocking=True).storage

    def many(count: int) -> None:
        for result in [task() for _ in range(count)]:
            result.get(blocking=True, timeout=TIMEOUT, backoff=1.0, max_delay=0.001)

    def one() -> None:
        task().get(blocking=True, timeout=TIMEOUT, backoff=1.0, max_delay=0.0005)

    command = ["huey_consumer", "benchmarks.peers.huey_tasks.huey", "-w", str(workers)]
    command += ["-k", "process", "-n", "-q"]
    with processes(command, environment={VARIABLE: url}):
        yield Pool(many, one)


if __name__ == "__main__":
    main(pool)
