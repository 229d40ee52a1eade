"""Dramatiq: as many processes of one thread, the Redis broker, results in Redis."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.peers.driving import Pool, main, processes
from benchmarks.peers.tasks import noop

VARIABLE = "BENCHMARK_URL"
TIMEOUT_MS = 60_000


def actor(url: str) -> dramatiq.Actor:
    broker = RedisBroker(url=url)
    broker.add_middleware(Results(backend=RedisBackend(url=url)))
    dramatiq.set_broker(broker)
    return dramatiq.actor(noop, store_results=True)


if VARIABLE in os.environ:
    # In the workers.
    actor(os.environ[VARIABLE])


@contextmanager
def pool(url: str, workers: int) -> Iterator[Pool]:
    send = actor(url).send

    def many(count: int) -> None:
        for message in [send() for _ in range(count)]:
            message.get_result(block=True, timeout=TIMEOUT_MS)

    command = ["dramatiq", "benchmarks.peers.dramatiq_actors", "-p", str(workers), "-t", "1"]
    with processes(command, environment={VARIABLE: url}):
        yield Pool(many, lambda: send().get_result(block=True, timeout=TIMEOUT_MS))


if __name__ == "__main__":
    main(pool)
