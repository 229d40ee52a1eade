"""loky: its reusable executor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from loky import get_reusable_executor

from benchmarks.peers.driving import Pool, main
from benchmarks.peers.tasks import noop


@contextmanager
def pool(url: str, workers: int) -> Iterator[Pool]:
    executor = get_reusable_executor(max_workers=workers)

    def many(count: int) -> None:
        for future in [executor.submit(noop) for _ in range(count)]:
            future.result()

    try:
        yield Pool(many, lambda: executor.submit(noop).result())
    finally:
        executor.shutdown(wait=True)


if __name__ == "__main__":
    main(pool)
