"""What an executor does under a long task, with very many futures, and with very large data.

    python -m benchmarks.executor_extremes [--rounds 3] [--futures 1000000] [--mebibytes 64]
        [--only fairness,rate,memory,array]

The array goes through a task and back; beside it, in the same round and on
the same server, the same bytes are SET and GET twice with redis-py. Each array is a new one, since
large arguments that come again are sent only once.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import numpy
import redis

import pressure
from benchmarks.results import Row, beside, publish

LONG = 5.0
SHORT_TASKS = 2000


def noop() -> None:
    pass


def same(array: Any) -> Any:
    return array


def fairness() -> float:
    """Seconds until 2,000 no-ops are done in whose middle a long task was submitted."""
    with pressure.RedisExecutor(2) as executor:
        wait([executor.submit(noop) for _ in range(500)])
        began = time.perf_counter()
        before = [executor.submit(noop) for _ in range(SHORT_TASKS // 2)]
        long = executor.submit(time.sleep, LONG)
        behind = [executor.submit(noop) for _ in range(SHORT_TASKS // 2)]
        wait([*before, *behind])
        seconds = time.perf_counter() - began
        assert not long.done() or seconds > LONG
        executor.kill_workers()
    return seconds


def memory(futures: int) -> float:
    """KiB of the client for each future that is outstanding, on a queue without workers."""
    with pressure.local_server() as url:
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(
            target=_submit_many, args=(url, futures, theirs)
        )
        process.start()
        theirs.close()
        kibibytes: float = ours.recv()
        process.join()
    return kibibytes


def _submit_many(url: str, futures: int, result: Any) -> None:
    executor = pressure.RedisExecutor(url=url)
    executor.submit(noop)
    before = _resident()
    kept = [executor.submit(noop) for _ in range(futures)]
    result.send((_resident() - before) / len(kept) / 1024)
    # Not to wait for what nobody will ever do.
    os._exit(0)


def _resident() -> int:
    """Bytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def arrays(mebibytes: int, rounds: int) -> list[tuple[float, float]]:
    """Seconds for an array through a task and back, and for SET and GET of it, twice."""
    random = numpy.random.default_rng(1)
    pairs = []
    with (
        pressure.local_server() as url,
        redis.from_url(url) as bare,
        pressure.RedisExecutor(2) as executor,
    ):
        executor.submit(same, random.random(1 << 17)).result()
        for _ in range(rounds):
            array = random.random(mebibytes << 17)

            def there_and_back(array: Any = array) -> None:
                executor.submit(same, array).result()

            def set_and_get(array: Any = array) -> None:
                for _ in range(2):
                    bare.set("array", memoryview(array).cast("B"))
                    bare.get("array")

            pairs.append((_seconds(there_and_back), _seconds(set_and_get)))
            bare.delete("array")
    return pairs


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def rates(futures: int, rounds: int) -> list[float]:
    """No-op tasks per second, all submitted and then all gathered, beside those of 10,000."""
    ratios = []
    with pressure.RedisExecutor(2) as executor:

        def rate(tasks: int) -> float:
            return tasks / _seconds(lambda: _gather([executor.submit(noop) for _ in range(tasks)]))

        rate(10_000)
        for _ in range(rounds):
            few = statistics.median(rate(10_000) for _ in range(5))
            ratios.append(rate(futures) / few)
    return ratios


def _gather(futures: list[Any]) -> None:
    for future in futures:
        future.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--futures", type=int, default=1_000_000)
    parser.add_argument("--mebibytes", type=int, default=64)
    parser.add_argument("--only", default="fairness,rate,memory,array")
    publish("executor_extremes", measured(parser.parse_args()))


def measured(options: argparse.Namespace) -> Iterator[Row]:
    wanted, rounds, many = options.only.split(","), options.rounds, f"{options.futures:,}"
    if "fairness" in wanted:
        what = f"{SHORT_TASKS:,} no-ops around a task of {LONG:.0f} s, 2 processes"
        yield Row(what, "<= 1", [fairness() for _ in range(rounds)], "s")
    if "rate" in wanted:
        what = f"{many} no-op tasks, submit all and gather all / 10,000: rate"
        yield Row(what, ">= 0.9", rates(options.futures, rounds))
    if "memory" in wanted:
        what = f"client memory of each of {many} outstanding futures"
        yield Row(what, "<= 3", [memory(options.futures)], "KiB")
    if "array" in wanted:
        pairs = [(1 / ours, 1 / bare) for ours, bare in arrays(options.mebibytes, rounds)]
        what = (
            f"a {options.mebibytes} MiB array through a task and back / SET and GET, twice: speed"
        )
        yield beside(what, ">= 0.6", pairs, "MiB/s, each way", 2 * options.mebibytes)


if __name__ == "__main__":
    main()
