"""`pressure.multiprocessing.Queue` beside `multiprocessing.Queue` and hand-written redis-py.

One producer process sends 100-byte messages to one consumer process; then two processes play
ping-pong. The contenders take turns in every round, since a machine's speed drifts more than their
ratio does. What counts are the ratios: the median over the rounds of each contender's rate by the
standard library's (or, for ping-pong, of its median round trip by redis-py's) in the same round.

    python -m benchmarks.mp_queue [--messages N] [--rounds N]
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import pickle
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import redis

import pressure
import pressure.multiprocessing
from benchmarks.results import Row, beside, publish

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


class Contest(NamedTuple):
    """`names`: of ours, and of what it is beside."""

    what: str
    target: str
    names: tuple[str, str]
    unit: str = "messages/s"


CONTESTS = (
    Contest("`mp.Queue`, 100 bytes / `multiprocessing.Queue`", ">= 1.0", ("ours", "stdlib")),
    Contest("`mp.Queue` / `Manager().Queue`", "", ("ours", "manager")),
    Contest("`mp.Queue` / LPUSH and BRPOP by hand with redis-py", "", ("ours", "by hand")),
    Contest("`mp.Queue(100)` / `multiprocessing.Queue(100)`", ">= 0.8", ("ours 100", "stdlib 100")),
    Contest("`SimpleQueue` / `multiprocessing.SimpleQueue`", "", ("our simple", "simple")),
    Contest("ping-pong p50 / by hand with redis-py", "<= 1.2", ("our pong", "hand pong"), "us"),
    Contest("ping-pong p50 / `multiprocessing.Queue`", "", ("our pong", "std pong"), "us"),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pings", type=int, default=3000)
    publish("mp_queue", measured(parser.parse_args()))


def measured(options: argparse.Namespace) -> Iterator[Row]:
    ours: Any = pressure.multiprocessing
    messages, pings = options.messages, options.pings
    with pressure.local_server() as url, CONTEXT.Manager() as manager:
        keys = itertools.count()

        def by_hand() -> HandWritten:
            return HandWritten(url, f"by-hand-{next(keys)}")

        works: dict[str, Callable[[], float]] = {
            "stdlib": lambda: throughput(CONTEXT.Queue, messages),
            "ours": lambda: throughput(ours.Queue, messages),
            "manager": lambda: throughput(manager.Queue, messages // 20),
            "by hand": lambda: throughput(by_hand, messages // 20),
            "stdlib 100": lambda: throughput(lambda: CONTEXT.Queue(BOUND), messages),
            "ours 100": lambda: throughput(lambda: ours.Queue(BOUND), messages),
            "simple": lambda: throughput(CONTEXT.SimpleQueue, messages // 20),
            "our simple": lambda: throughput(ours.SimpleQueue, messages // 20),
            "hand pong": lambda: ping_pong(by_hand, pings),
            "our pong": lambda: ping_pong(ours.Queue, pings),
            "std pong": lambda: ping_pong(CONTEXT.Queue, pings),
        }
        rounds = [{name: work() for name, work in works.items()} for _ in range(options.rounds)]
    for what, target, (mine, other), unit in CONTESTS:
        pairs = [(one[mine], one[other]) for one in rounds]
        yield beside(what, target, pairs, unit, 1e6 if unit == "us" else 1.0)


if __name__ == "__main__":
    main()
