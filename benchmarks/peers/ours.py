"""`pressure.RedisExecutor`, as it is by default: leases, signatures, numbered puts, cancelling."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pressure
from benchmarks.peers.driving import Pool, main
from benchmarks.peers.tasks import noop


@contextmanager
def pool(url: str, workers: int) -> Iterator[Pool]:
    with pressure.RedisExecutor(workers) as executor:

        def many(count: int) -> None:
            for future in [executor.submit(noop) for _ in range(count)]:
                future.result()

        yield Pool(many, lambda: executor.submit(noop).result())


if __name__ == "__main__":
    main(pool)
