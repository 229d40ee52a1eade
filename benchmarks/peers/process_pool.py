"""`concurrent.futures.ProcessPoolExecutor`."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

from benchmarks.peers.driving import Pool, main
from benchmarks.peers.tasks import noop


@contextmanager
def pool(url: str, workers: int) -> Iterator[Pool]:
    with ProcessPoolExecutor(workers) as executor:

        def many(count: int) -> None:
            for future in [executor.submit(noop) for _ in range(count)]:
                future.result()

        yield Pool(many, lambda: executor.submit(noop).result())


if __name__ == "__main__":
    main(pool)
