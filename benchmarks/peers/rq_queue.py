"""RQ: `SimpleWorker`s, which don't fork for each job; jobs enqueued by `enqueue_many`, as its
documentation advises; results waited for on the job's result stream."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from redis import Redis
from rq import Queue

from benchmarks.peers.driving import Pool, main, processes
from benchmarks.peers.tasks import noop

TIMEOUT = 60


@contextmanager
def pool(url: str, workers: int) -> Iterator[Pool]:
    connection = Redis.from_url(url)
    queue = Queue("bench", connection=connection)

    def many(count: int) -> None:
        jobs = queue.enqueue_many([Queue.prepare_data(noop) for _ in range(count)])
        for job in jobs:
            job.latest_result(timeout=TIMEOUT)

    def one() -> None:
        queue.enqueue(noop).latest_result(timeout=TIMEOUT)

    command = ["rq", "worker", "--quiet", "--url", url, "-w", "rq.worker.SimpleWorker", "bench"]
    with processes(command, count=workers, environment={"HOME": os.environ.get("HOME", "/")}):
        yield Pool(many, one)


if __name__ == "__main__":
    main(pool)
