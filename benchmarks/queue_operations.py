"""Queue operations beside bare redis-py commands, interleaved in one run on the embedded server.

    python benchmarks/queue_operations.py [--rounds 5] [--count 2000]

Prints a Markdown table: medians of the rounds, and the median of the rounds' ratios. Items are
signed pickles of 100 bytes; idempotent put and acknowledgement are on, as always.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import redis

import pressure

BODY = b"x" * 100


def median_us(operation: Callable[[], object], count: int) -> float:
    times = []
    for _ in range(count):
        began = time.perf_counter()
        operation()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


def per_second(work: Callable[[], object], items: int) -> float:
    began = time.perf_counter()
    work()
    return items / (time.perf_counter() - began)


def one_round(url: str, count: int, items: int) -> dict[str, tuple[float, float]]:
    """Pairs (ours, bare redis-py) by name."""
    bare = redis.from_url(url)
    queue: pressure.PressureQueue[bytes] = pressure.PressureQueue("bench", url=url)
    queue.create()
    many: pressure.PressureQueue[bytes] = pressure.PressureQueue("bench-many", url=url)
    many.create()

    def get_all() -> None:
        left = items
        while left:
            left -= len(many.get_many(min(left, 1000)))

    def push_each() -> None:
        for _ in range(items // 10):
            bare.lpush("bare-many", BODY)
        for _ in range(items // 10):
            bare.brpop(["bare-many"])

    def put_and_get_many() -> None:
        many.put_many(BODY for _ in range(items))
        get_all()

    results = {
        "put / lpush, p50 (us)": (
            median_us(lambda: queue.put(BODY), count),
            median_us(lambda: bare.lpush("bare", BODY), count),
        ),
        "get / brpop, p50 (us)": (
            median_us(queue.get, count),
            median_us(lambda: bare.brpop(["bare"]), count),
        ),
        "put_many + get_many / LPUSH + BRPOP each, items/s": (
            per_second(put_and_get_many, items),
            per_second(push_each, items // 10),
        ),
    }
    for each in (queue, many):
        each.delete()
        each.disconnect()
    bare.close()
    return results


def backlog(url: str, small: int, large: int) -> float:
    """The rate of put and get with `large` items queued, relative to that with `small`."""

    def rate(queued: int) -> float:
        queue: pressure.PressureQueue[bytes] = pressure.PressureQueue("backlog", url=url)
        queue.create()
        queue.put_many(BODY for _ in range(queued))
        rates = []
        for _ in range(5):
            began = time.perf_counter()
            for _ in range(500):
                queue.put(BODY)
                queue.get()
            rates.append(500 / (time.perf_counter() - began))
        queue.delete()
        queue.disconnect()
        return max(rates)

    few = rate(small)
    return rate(large) / few


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--backlog", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with pressure.local_server() as url:
        rounds = [one_round(url, arguments.count, arguments.items) for _ in range(arguments.rounds)]
        print("| operation | pressure | redis-py | ratio | spread of ratios |")
        print("|---|---|---|---|---|")
        for name in rounds[0]:
            pairs = [one[name] for one in rounds]
            ratios = [ours / theirs for ours, theirs in pairs]
            ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
            print(
                f"| {name} | {ours:,.1f} | {theirs:,.1f} | {statistics.median(ratios):.2f} "
                f"| {min(ratios):.2f}-{max(ratios):.2f} |"
            )
        share = backlog(url, 10_000, arguments.backlog)
        print(f"| rate with {arguments.backlog:,} items queued / with 10,000 | | | {share:.2f} | |")


if __name__ == "__main__":
    main()
