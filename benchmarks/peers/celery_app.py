"""Celery: a prefork pool, without gossip, mingling and heartbeats, that prefetches many tasks;
results in Redis, gathered by `ResultSet.join_native`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from celery import Celery
from celery.result import ResultSet

from benchmarks.peers.driving import Pool, main, processes
from benchmarks.peers.tasks import noop

VARIABLE = "BENCHMARK_URL"


def celery_url(url: str) -> str:
    return url.replace("unix://", "redis+socket://")


app = Celery("bench", broker=os.environ.get(VARIABLE), backend=os.environ.get(VARIABLE))
app.conf.update(
    worker_prefetch_multiplier=64, task_acks_late=False, worker_hijack_root_logger=False
)
task = app.task(name="noop")(noop)


@contextmanager
def pool(url: str, workers: int) -> Iterator[Pool]:
    where = celery_url(url)
    app.conf.update(broker_url=where, result_backend=where)

    def many(count: int) -> None:
        ResultSet([task.delay() for _ in range(count)]).join_native()

    command = ["celery", "-A", "benchmarks.peers.celery_app", "worker", "-c", str(workers)]
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "ERROR"]
    with processes(command, environment={VARIABLE: where}):
        yield Pool(many, lambda: task.delay().get())


if __name__ == "__main__":
    main(pool)
