"""`pressure.multiprocessing.Queue` beside `multiprocessing.Queue` and hand-written redis-py.

One producer process sends 100-byte messages to one consumer process; then two processes play
ping-pong. The contenders take turns in every round, since a machine's speed drifts more than their
ratio does. What counts are the ratios: the median over the rounds of each contender's rate by the
standard library's (or, for ping-pong, of its median round trip by redis-py's) in the same round.

    python -m benchmarks.mp_queue [--messages N] [--rounds N] [--only unbounded,bounded,pingpong]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import pickle
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import redis

import pressure
import pressure.multiprocessing

MESSAGE = b"x" * 100
BOUND = 100
CONTEXT = multiprocessing.get_context("fork")


class HandWritten:
    """LPUSH and BRPOP, one call per item: what one writes without a library."""

    def __init__(self, url: str, key: str) -> None:
        self._url, self._key = url, key
        self._client: Any = None

    def _connected(self) -> Any:
        if self._client is None:
            self._client = redis.Redis.from_url(self._url)
        return self._client

    def put(self, item: object) -> None:
        self._connected().lpush(self._key, pickle.dumps(item))

    def get(self) -> object:
        return pickle.loads(self._connected().brpop(self._key)[1])


def throughput(make: Callable[[], Any], messages: int) -> float:
    """Messages per second from the first put to the last get."""
    queue = make()
    ready, receiver = CONTEXT.Pipe()

    def produce() -> None:
        queue.put(MESSAGE)
        receiver.recv()
        started = time.perf_counter()
        for _ in range(messages):
            queue.put(MESSAGE)
        receiver.send(started)

    result, reporter = CONTEXT.Pipe()

    def consume() -> None:
        queue.get()
        ready.send(None)
        for _ in range(messages):
            queue.get()
        reporter.send(time.perf_counter() - ready.recv())

    return messages / _run(produce, consume, result)


def ping_pong(make: Callable[[], Any], rounds: int) -> float:
    """The median time (seconds) for a message there and another back."""
    there, back = make(), make()
    result, reporter = CONTEXT.Pipe()

    def play() -> None:
        times = []
        for _ in range(rounds):
            started = time.perf_counter()
            there.put(MESSAGE)
            back.get()
            times.append(time.perf_counter() - started)
        reporter.send(statistics.median(times))

    def answer() -> None:
        for _ in range(rounds):
            there.get()
            back.put(MESSAGE)

    return _run(answer, play, result)


def _run(first: Callable[[], None], second: Callable[[], None], result: Any) -> float:
    processes = [CONTEXT.Process(target=target) for target in (first, second)]
    for process in processes:
        process.start()
    if not result.poll(120):
        for process in processes:
            process.kill()
        raise TimeoutError("a contender got stuck")
    value: float = result.recv()
    for process in processes:
        process.join(30)
    return value


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pings", type=int, default=3000)
    parser.add_argument("--only", default="unbounded,bounded,pingpong")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    ours: Any = pressure.multiprocessing
    results: dict[str, dict[str, list[float]]] = {}
    with pressure.local_server() as url:
        keys = iter(range(1_000_000))

        def by_hand() -> HandWritten:
            return HandWritten(url, f"by-hand-{next(keys)}")

        contests: dict[str, dict[str, Callable[[], float]]] = {
            "unbounded": {
                "stdlib": lambda: throughput(CONTEXT.Queue, options.messages),
                "pressure": lambda: throughput(ours.Queue, options.messages),
                "redis-py": lambda: throughput(by_hand, options.messages // 20),
            },
            "bounded": {
                "stdlib": lambda: throughput(lambda: CONTEXT.Queue(BOUND), options.messages),
                "pressure": lambda: throughput(lambda: ours.Queue(BOUND), options.messages),
            },
            "pingpong": {
                "redis-py": lambda: ping_pong(by_hand, options.pings),
                "pressure": lambda: ping_pong(ours.Queue, options.pings),
                "stdlib": lambda: ping_pong(CONTEXT.Queue, options.pings),
            },
        }
        for name in options.only.split(","):
            results[name] = {contender: [] for contender in contests[name]}
            for _ in range(options.rounds):
                for contender, measure in contests[name].items():
                    results[name][contender].append(measure())
    report = {name: _summary(name, measured) for name, measured in results.items()}
    if options.json:
        json.dump(report, sys.stdout, indent=1)
        print()
        return
    for name, summary in report.items():
        print(name)
        for contender, (value, ratio) in summary.items():
            unit = "us p50" if name == "pingpong" else "messages/s"
            print(f"  {contender:10} {value:12,.0f} {unit:12} {ratio:6.2f}x")


def _summary(name: str, measured: dict[str, list[float]]) -> dict[str, tuple[float, float]]:
    reference = measured["redis-py" if name == "pingpong" else "stdlib"]
    scale = 1e6 if name == "pingpong" else 1
    return {
        contender: (
            statistics.median(values) * scale,
            statistics.median(a / b for a, b in zip(values, reference, strict=True)),
        )
        for contender, values in measured.items()
    }


if __name__ == "__main__":
    main()
