"""dask.distributed: a local cluster of single-threaded processes, without the dashboard; all
futures are gathered by one call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dask.distributed import Client, LocalCluster

from benchmarks.peers.driving import Pool, main
from benchmarks.peers.tasks import noop


@contextmanager
def pool(url: str, workers: int) -> Iterator[Pool]:
    with (
        LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs=50
        ) as cluster,
        Client(cluster) as client,
    ):

        def many(count: int) -> None:
            client.gather([client.submit(noop, pure=False) for _ in range(count)])

        yield Pool(many, lambda: client.submit(noop, pure=False).result())


if __name__ == "__main__":
    main(pool)
