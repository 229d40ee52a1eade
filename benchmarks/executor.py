"""The executor beside `ProcessPoolExecutor`, interleaved in one run on the embedded server.

    python benchmarks/executor.py [--rounds 5] [--tasks 20000]

Prints a Markdown table: medians of the rounds, and the median of the rounds' ratios. Nothing else
should run on the machine. Leases, signing, idempotent put and cancelling are on, as by default.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from typing import Any

import pressure


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
        "no-op tasks/s": throughput(executor, tasks),
        "p50 of one (us)": single[len(single) // 2] * 1e6,
        "p99 of one (us)": single[len(single) * 99 // 100] * 1e6,
        "map(chunksize=100)/s": mapping(executor, tasks * 10),
    }


def beside(rounds: int, work: Callable[[Executor], dict[str, float]]) -> list[dict[str, Any]]:
    with pressure.RedisExecutor(2) as ours, ProcessPoolExecutor(2) as theirs:
        for executor in (ours, theirs):
            throughput(executor, 500)
        samples = [(work(ours), work(theirs)) for _ in range(rounds)]
    rows = []
    for name in samples[0][0]:
        pairs = [(mine[name], their[name]) for mine, their in samples]
        ratios = [mine / their for mine, their in pairs]
        rows.append(
            {
                "name": name,
                "ours": statistics.median(mine for mine, _ in pairs),
                "theirs": statistics.median(their for _, their in pairs),
                "ratio": statistics.median(ratios),
                "spread": f"{min(ratios):.2f}-{max(ratios):.2f}",
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=20_000)
    arguments = parser.parse_args()
    print("| 2 processes | RedisExecutor | ProcessPoolExecutor | ratio | spread of ratios |")
    print("|---|---|---|---|---|")
    for row in beside(arguments.rounds, lambda executor: measure(executor, arguments.tasks)):
        print(
            f"| {row['name']} | {row['ours']:,.0f} | {row['theirs']:,.0f} "
            f"| {row['ratio']:.2f} | {row['spread']} |"
        )


if __name__ == "__main__":
    main()
