"""The executor beside `ProcessPoolExecutor`, and `Pool` beside `multiprocessing.Pool`.

    python -m benchmarks.executor [--rounds 5] [--tasks 20000]

Interleaved in one run on the embedded server. Nothing else should run on the machine. Leases,
signing, idempotent put and cancelling are on, as by default.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from itertools import chain
from typing import Any

import pressure
import pressure.multiprocessing
from benchmarks.results import Row, beside, publish

ROWS = (
    (
        "no-op tasks, submit all and gather all, 2 processes / `ProcessPoolExecutor`",
        ">= 6",
        "tasks/s",
        1.0,
    ),
    ("one submit and its result, p50 / `ProcessPoolExecutor`", "<= 1.25", "us", 1e6),
    ("one submit and its result, p99 / `ProcessPoolExecutor`", "<= 1.75", "us", 1e6),
    ("`map(chunksize=100)` / `ProcessPoolExecutor`", ">= 0.7", "calls/s", 1.0),
)


def noop() -> None:
    pass


def square(x: int) -> int:
    return x * x


def throughput(executor: Executor, tasks: int) -> float:
    """No-op tasks per second: submit all, then gather all."""
    began = time.perf_counter()
    futures = [executor.submit(noop) for _ in range(tasks)]
    for future in futures:
        future.result()
    return tasks / (time.perf_counter() - began)


def latencies(executor: Executor, count: int = 1000) -> list[float]:
    """Seconds from submit to result, one at a time, sorted."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        executor.submit(noop).result()
        times.append(time.perf_counter() - began)
    return sorted(times)


def mapping(executor: Executor, tasks: int) -> float:
    """Calls per second of map(chunksize=100)."""
    began = time.perf_counter()
    for _ in executor.map(square, range(tasks), chunksize=100):
        pass
    return tasks / (time.perf_counter() - began)


def measure(executor: Executor, tasks: int) -> dict[str, float]:
    single = latencies(executor)
    return {
        "rate": throughput(executor, tasks),
        "p50": single[len(single) // 2],
        "p99": single[len(single) * 99 // 100],
        "map": mapping(executor, tasks * 10),
    }


def pool_throughput(pool: Any, tasks: int) -> float:
    """As `throughput`, with `Pool.apply_async`."""
    began = time.perf_counter()
    results = [pool.apply_async(noop) for _ in range(tasks)]
    for result in results:
        result.get()
    return tasks / (time.perf_counter() - began)


def pool_mapping(pool: Any, tasks: int) -> float:
    """Calls per second of Pool.map(chunksize=100)."""
    began = time.perf_counter()
    pool.map(square, range(tasks), chunksize=100)
    return tasks / (time.perf_counter() - began)


def executors(rounds: int, tasks: int) -> Iterator[Row]:
    with pressure.RedisExecutor(2) as ours, ProcessPoolExecutor(2) as theirs:
        for executor in (ours, theirs):
            throughput(executor, 500)
        samples = [(measure(ours, tasks), measure(theirs, tasks)) for _ in range(rounds)]
    for (what, target, unit, scale), name in zip(ROWS, samples[0][0], strict=True):
        yield beside(what, target, [(a[name], b[name]) for a, b in samples], unit, scale)


def pools(rounds: int, tasks: int) -> Iterator[Row]:
    works = {"apply_async": pool_throughput, "map(chunksize=100)": pool_mapping}
    with pressure.multiprocessing.Pool(2) as ours, multiprocessing.Pool(2) as theirs:
        for name, work in works.items():
            for pool in (ours, theirs):
                work(pool, 500)
            pairs = [(work(ours, tasks), work(theirs, tasks)) for _ in range(rounds)]
            yield beside(f"`Pool.{name}` / `multiprocessing.Pool`", "", pairs, "calls/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=20_000)
    options = parser.parse_args()
    measured = executors(options.rounds, options.tasks), pools(options.rounds, options.tasks)
    publish("executor", chain.from_iterable(measured))


if __name__ == "__main__":
    main()
