"""ray: remote functions on as many CPUs; all results are fetched by one call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import ray

from benchmarks.peers.driving import Pool, main
from benchmarks.peers.tasks import noop


@contextmanager
def pool(url: str, workers: int) -> Iterator[Pool]:
    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="error")
    remote = ray.remote(noop)
    try:
        yield Pool(
            lambda count: ray.get([remote.remote() for _ in range(count)]),
            lambda: ray.get(remote.remote()),
        )
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main(pool)
