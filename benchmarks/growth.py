"""How the rate changes as there is more of all: processes, clients, queues, items, bytes, miles.

    python -m benchmarks.growth [--only workers,clients,queues,backlog,payload,delay] [--quick]

Prints a Markdown table for each and writes `benchmarks/measured/growth.json`, of which
`benchmarks.plots` makes the curves. A point is the median of the rounds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import wait
from typing import Any, NamedTuple

import pressure
from benchmarks.delaying import DelayingProxy
from benchmarks.limits import BODY, seconds, workers
from benchmarks.results import save

FORK = multiprocessing.get_context("fork")


class Curve(NamedTuple):
    """`points`: x and the measured y, which is always a rate."""

    name: str
    x: str
    y: str
    points: list[tuple[float, float]]


def noop() -> None:
    pass


def same(data: bytes) -> bytes:
    return data


def no_ops(executor: Any, tasks: int) -> float:
    return tasks / seconds(lambda: wait([executor.submit(noop) for _ in range(tasks)]))


def measured(rounds: int, one: Callable[[], float]) -> float:
    return statistics.median(one() for _ in range(rounds))


def grow_workers(rounds: int, quick: bool) -> Iterable[Curve]:
    points = []
    for processes in (1, 2, 4, 8, 16) if quick else (1, 2, 4, 8, 16, 32, 64):
        with pressure.RedisExecutor(processes) as executor:
            no_ops(executor, 2000)
            points.append(
                (processes, measured(rounds, lambda executor=executor: no_ops(executor, 10_000)))
            )
    yield Curve("worker processes", "processes", "no-op tasks/s", points)


def grow_clients(rounds: int, quick: bool) -> Iterable[Curve]:
    points = []
    with pressure.local_server() as url, workers(url, 2):
        for clients in (1, 2, 5, 10) if quick else (1, 2, 5, 10, 20, 50):
            rate = measured(rounds, lambda clients=clients: together(url, clients, 10_000))
            points.append((clients, rate))
    yield Curve("clients", "client processes", "no-op tasks/s of all", points)


def together(url: str, clients: int, tasks: int) -> float:
    """The rate at which so many client processes together get their tasks done."""
    start = FORK.Barrier(clients + 1)

    def work() -> None:
        with pressure.RedisExecutor(url=url) as executor:
            executor.submit(noop).result()
            start.wait(60)
            no_ops(executor, tasks // clients)

    processes = [FORK.Process(target=work) for _ in range(clients)]
    for process in processes:
        process.start()
    start.wait(60)
    began = time.perf_counter()
    for process in processes:
        process.join(120)
    return tasks / (time.perf_counter() - began)


def grow_queues(rounds: int, quick: bool) -> Iterable[Curve]:
    points = []
    with pressure.local_server() as url:
        for count in (1, 10, 100) if quick else (1, 10, 100, 1000):
            queues = [pressure.PressureQueue[bytes](f"q{n}", url=url) for n in range(count)]
            for queue in queues:
                queue.create()

            def all_in_turn(queues: Any = queues) -> float:
                turns = max(1, 2000 // len(queues))

                def run() -> None:
                    for _ in range(turns):
                        for queue in queues:
                            queue.put(BODY)
                            queue.get()

                return turns * len(queues) / seconds(run)

            points.append((count, measured(rounds, all_in_turn)))
            for queue in queues:
                queue.delete()
                queue.disconnect()
    yield Curve("queues", "queues used in turn", "put and get/s", points)


def grow_backlog(rounds: int, quick: bool) -> Iterable[Curve]:
    points = []
    with pressure.local_server() as url:
        queue: pressure.PressureQueue[bytes] = pressure.PressureQueue("backlog", url=url)
        queue.create()
        queued = 0

        def put_and_get() -> float:
            def run() -> None:
                for _ in range(1000):
                    queue.put(BODY)
                    queue.get()

            return 1000 / seconds(run)

        for length in (100, 1000, 10_000, 100_000) if quick else (100, 10_000, 100_000, 1_000_000):
            queue.put_many(BODY for _ in range(length - queued))
            queued = length
            points.append((length, measured(rounds, put_and_get)))
        queue.delete()
        queue.disconnect()
    yield Curve("backlog", "items queued", "put and get/s", points)


def grow_payload(rounds: int, quick: bool) -> Iterable[Curve]:
    points = []
    with pressure.RedisExecutor(2) as executor:
        no_ops(executor, 1000)
        for size in (
            (10, 1000, 100_000, 10**6) if quick else (10, 10**3, 10**5, 10**6, 10**7, 1 << 26)
        ):
            tasks = max(2, min(2000, (1 << 27) // size))

            def through(size: int = size, tasks: int = tasks) -> float:
                # Each is another, since a large one that comes again is sent only once.
                payloads = [os.urandom(size) for _ in range(tasks)]

                def run() -> None:
                    for start in range(0, tasks, 50):
                        batch = payloads[start : start + 50]
                        for future in [executor.submit(same, payload) for payload in batch]:
                            future.result()

                return tasks * size / seconds(run) / 1e6

            points.append((size, measured(rounds, through)))
    yield Curve("payload", "bytes there and back", "MB/s", points)


def grow_delay(rounds: int, quick: bool) -> Iterable[Curve]:
    points = []
    for milliseconds in (0.0, 0.5, 5.0) if quick else (0.0, 0.5, 5.0, 50.0):
        with (
            pressure.LocalServer(port=0, password="") as server,
            DelayingProxy(server.url, milliseconds / 1000) as far,
            workers(far, 2),
            pressure.RedisExecutor(url=far) as executor,
        ):
            no_ops(executor, 1000)
            points.append(
                (milliseconds, measured(rounds, lambda executor=executor: no_ops(executor, 5000)))
            )
    yield Curve("delay", "added round trip (ms)", "no-op tasks/s", points)


WORK = {
    "workers": grow_workers,
    "clients": grow_clients,
    "queues": grow_queues,
    "backlog": grow_backlog,
    "payload": grow_payload,
    "delay": grow_delay,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(WORK))
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    curves = []
    for name in arguments.only.split(","):
        for curve in WORK[name](arguments.rounds, arguments.quick):
            curves.append(curve._asdict())
            print(f"\n| {curve.x} | {curve.y} |\n|---|---|")
            for x, y in curve.points:
                print(f"| {x:,.1f} | {y:,.{0 if y >= 100 else 2}f} |", flush=True)
    save("growth", curves)


if __name__ == "__main__":
    main()
