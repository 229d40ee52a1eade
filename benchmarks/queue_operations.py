"""Queue operations beside bare redis-py commands, interleaved in one run on the embedded server.

    python -m benchmarks.queue_operations [--rounds 5] [--count 2000]

Items are signed pickles of 100 bytes; idempotent put and acknowledgement are on, as always. Two
rows tell how far a `put` is from what the machine allows: the same LPUSH over a redis-py
connection without a client around it, and over its socket without anything.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import redis

import pressure
from benchmarks.results import Row, beside, publish

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


TARGETS = {
    "`put` / redis-py's `lpush`, p50": ("<= 1.15", "us"),
    "`get` / redis-py's `brpop`, p50": ("<= 1.15", "us"),
    "`put` / LPUSH over a bare redis-py connection, p50": ("", "us"),
    "`put` / LPUSH over a bare socket, p50": ("", "us"),
    "`put_many` and `get_many` / LPUSH and BRPOP, one call per item": (">= 20", "items/s"),
}


def one_round(url: str, count: int, items: int) -> list[tuple[float, float]]:
    """Pairs (ours, theirs), in the order of `TARGETS`."""
    bare = redis.from_url(url)
    queue: pressure.PressureQueue[bytes] = pressure.PressureQueue("bench", url=url)
    queue.create()
    many: pressure.PressureQueue[bytes] = pressure.PressureQueue("bench-many", url=url)
    many.create()
    connection: Any = bare.connection_pool.get_connection()
    connection.connect()
    packed = b"".join(connection.pack_command("LPUSH", "bare-socket", BODY))

    def over_connection() -> None:
        connection.send_command("LPUSH", "bare-connection", BODY)
        connection.read_response()

    def over_socket() -> None:
        connection._sock.sendall(packed)
        connection._sock.recv(64)

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

    put = median_us(lambda: queue.put(BODY), count)
    pairs = [
        (put, median_us(lambda: bare.lpush("bare", BODY), count)),
        (median_us(queue.get, count), median_us(lambda: bare.brpop(["bare"]), count)),
        (put, median_us(over_connection, count)),
        (put, median_us(over_socket, count)),
        (per_second(put_and_get_many, items), per_second(push_each, items // 10)),
    ]
    for each in (queue, many):
        each.delete()
        each.disconnect()
    connection.disconnect()
    bare.close()
    return pairs


def backlog(url: str, small: int, large: int, rounds: int) -> list[float]:
    """The rate of put and get with `large` items queued, relative to that with `small`."""
    queues = []
    for queued in (small, large):
        queue: pressure.PressureQueue[bytes] = pressure.PressureQueue(f"with-{queued}", url=url)
        queue.create()
        queue.put_many(BODY for _ in range(queued))
        queues.append(queue)

    def rate(queue: pressure.PressureQueue[bytes]) -> float:
        def put_and_get() -> None:
            for _ in range(500):
                queue.put(BODY)
                queue.get()

        return per_second(put_and_get, 500)

    few, many = queues
    # The median over several turns, in each round.
    ratios = [statistics.median(rate(many) / rate(few) for _ in range(5)) for _ in range(rounds)]
    for queue in queues:
        queue.delete()
        queue.disconnect()
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--backlog", type=int, default=1_000_000)
    arguments = parser.parse_args()
    publish("queue_operations", measured(arguments))


def measured(arguments: argparse.Namespace) -> Iterator[Row]:
    with pressure.local_server() as url:
        rounds = [one_round(url, arguments.count, arguments.items) for _ in range(arguments.rounds)]
        for (what, (target, unit)), pairs in zip(
            TARGETS.items(), zip(*rounds, strict=True), strict=True
        ):
            yield beside(what, target, pairs, unit)
        shares = backlog(url, 10_000, arguments.backlog, arguments.rounds)
        yield Row(f"rate with {arguments.backlog:,} items queued / with 10,000", ">= 0.9", shares)


if __name__ == "__main__":
    main()
