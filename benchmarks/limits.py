"""How far some things are from what the machine allows.

    python -m benchmarks.limits [--only sleep,pairs,variadic,sharing,backlog,server,idle,start]

Each row is measured beside what it is compared with, in turns.
"""

from __future__ import annotations

import argparse
import compileall
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import redis

import pressure
from benchmarks.results import Row, publish

BODY = b"x" * 100
FORK = multiprocessing.get_context("fork")


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def noop() -> None:
    pass


def length(data: bytes) -> int:
    return len(data)


def sleep(rounds: int) -> list[Row]:
    """Tasks of 10 ms on 8 processes, beside the time that the sleeping itself takes."""
    tasks, each, processes = 1600, 0.010, 8
    shares = []
    with pressure.RedisExecutor(processes) as executor:
        wait([executor.submit(time.sleep, each) for _ in range(processes * 10)])
        for _ in range(rounds):
            ideal = tasks * each / processes
            took = seconds(lambda: wait([executor.submit(time.sleep, each) for _ in range(tasks)]))
            shares.append(ideal / took)
    return [Row("1,600 tasks that sleep 10 ms, 8 processes: of the ideal", ">= 0.95", shares)]


def pairs(rounds: int) -> list[Row]:
    """Four producers and four consumers of one queue, beside one of each."""
    ratios = []
    with pressure.local_server() as url:
        for _ in range(rounds):
            one = transfer(url, 1, 1, 100_000)
            ratios.append(transfer(url, 4, 4, 100_000) / one)
    return [Row("4 producers and 4 consumers on one queue / 1 and 1: rate", ">= 1.0", ratios)]


def transfer(url: str, producers: int, consumers: int, items: int) -> float:
    """Items per second through one bounded queue, by that many processes on either side."""
    queue: pressure.PressureQueue[bytes] = pressure.PressureQueue("transfer", url=url)
    queue.create(10_000)

    def produce() -> None:
        with pressure.PressureQueue[bytes]("transfer", url=url) as mine:
            mine.put_many([BODY] * (items // producers))

    def consume() -> None:
        with pressure.PressureQueue[bytes]("transfer", url=url) as mine:
            for _ in range(items // consumers // 100):
                left = 100
                while left:
                    left -= len(mine.get_many(left))

    actors = [FORK.Process(target=produce) for _ in range(producers)]
    actors += [FORK.Process(target=consume) for _ in range(consumers)]

    def run() -> None:
        for actor in actors:
            actor.start()
        for actor in actors:
            actor.join(120)

    took = seconds(run)
    queue.delete()
    queue.disconnect()
    return items / took


def variadic(rounds: int) -> list[Row]:
    """put_many and get_many beside LPUSH of many values and RPOP with a count."""
    items, batch = 50_000, 500
    ratios = []
    with pressure.local_server() as url, redis.from_url(url) as bare:
        queue: pressure.PressureQueue[bytes] = pressure.PressureQueue("many", url=url)
        queue.create()

        def ours() -> None:
            queue.put_many([BODY] * items)
            left = items
            while left:
                left -= len(queue.get_many(min(left, batch)))

        def theirs() -> None:
            for _ in range(items // batch):
                bare.lpush("bare", *[BODY] * batch)
            for _ in range(items // batch):
                bare.rpop("bare", batch)

        for _ in range(rounds):
            ratios.append(seconds(theirs) / seconds(ours))
        queue.delete()
        queue.disconnect()
    name = "`put_many` and `get_many` / variadic LPUSH and RPOP with a count: rate"
    return [Row(name, ">= 0.5", ratios)]


def sharing(rounds: int) -> list[Row]:
    """10,000 tasks with one argument of 64 MiB, beside 10,000 with a small one."""
    tasks, data = 10_000, os.urandom(64 << 20)
    with pressure.RedisExecutor(2) as executor:
        wait([executor.submit(noop) for _ in range(500)])
        shared = executor.share(data)
        transferred = seconds(lambda: executor.submit(length, shared).result())
        ratios = []
        for _ in range(rounds):
            small = seconds(lambda: wait([executor.submit(length, b"small") for _ in range(tasks)]))
            large = seconds(lambda: wait([executor.submit(length, shared) for _ in range(tasks)]))
            ratios.append(max(0.0, large - transferred) / small)
    name = "10,000 tasks sharing 64 MiB, less one transfer / with a small argument: time"
    return [Row(name, "<= 1.2", ratios)]


def backlog(rounds: int) -> list[Row]:
    """What 1,000,000 items of 100 bytes take up at the server."""
    items = 1_000_000
    with pressure.local_server() as url, redis.from_url(url) as bare:
        queue: pressure.PressureQueue[bytes] = pressure.PressureQueue("backlog", url=url)
        queue.create()
        before = bare.info("memory")["used_memory"]
        queue.put_many(BODY for _ in range(items))
        each = (bare.info("memory")["used_memory"] - before) / items
        queue.delete()
        queue.disconnect()
    return [Row("server memory of each of 1,000,000 items of 100 bytes", "<= 300", [each], "bytes")]


def server(rounds: int) -> list[Row]:
    """The server's processor time for a no-op task."""
    tasks = 20_000
    samples = []
    with (
        pressure.local_server() as url,
        redis.from_url(url) as bare,
        workers(url, 2),
        pressure.RedisExecutor(url=url) as executor,
    ):
        wait([executor.submit(noop) for _ in range(1000)])
        for _ in range(rounds):
            before = cpu(bare)
            wait([executor.submit(noop) for _ in range(tasks)])
            samples.append((cpu(bare) - before) / tasks * 1e6)
    return [Row("server CPU of a no-op task", "<= 10", samples, "us")]


def cpu(client: Any) -> float:
    info = client.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


class workers:
    """`pressure-worker` with so many processes, while the block runs."""

    def __init__(self, url: str, processes: int) -> None:
        program = Path(sys.executable).with_name("pressure-worker")
        self._command = [str(program), url, "--processes", str(processes)]

    def __enter__(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(self._command, stderr=subprocess.DEVNULL)
        return self._process

    def __exit__(self, *exc: object) -> None:
        self._process.terminate()
        self._process.wait(30)


def idle(rounds: int) -> list[Row]:
    """What an idle worker process costs: commands at the server, and its own processor time."""
    processes, long = 4, 20.0
    with (
        pressure.local_server() as url,
        redis.from_url(url) as bare,
        workers(url, processes) as daemon,
    ):
        with pressure.RedisExecutor(url=url) as executor:
            wait([executor.submit(noop) for _ in range(100)])
        time.sleep(2)
        commands, spent = count_commands(bare), family_cpu(daemon.pid)
        time.sleep(long)
        each = processes * long
        rate = (count_commands(bare) - commands - 1) / each
        share = (family_cpu(daemon.pid) - spent) / each * 100
    return [
        Row("commands of an idle worker process (4 in a daemon)", "<= 1", [rate], "per second"),
        Row("CPU of an idle worker process", "<= 0.3", [share], "%"),
    ]


def count_commands(client: Any) -> int:
    """Commands that idle workers send; what scripts call in turn is no traffic."""
    calls = client.info("commandstats")
    names = ("evalsha", "eval", "blmove", "brpop", "blpop", "ping", "client|unblock")
    return sum(calls.get(f"cmdstat_{name}", {}).get("calls", 0) for name in names)


def family_cpu(pid: int) -> float:
    """Seconds of processor time of a process and its children."""
    ticks = os.sysconf("SC_CLK_TCK")
    total = 0.0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(path.parent.name) == pid or int(fields[1]) == pid:
            total += (int(fields[11]) + int(fields[12])) / ticks
    return total


def start(rounds: int) -> list[Row]:
    """Importing the library, and the first result of a new executor, each in a new process."""
    code = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"
    first = "import pressure; pressure.RedisExecutor().submit(abs, -1).result()"
    ratios, firsts = [], []
    # Compiled, as installed packages are.
    compileall.compile_dir(Path(pressure.__file__).parent, quiet=2)
    for _ in range(max(rounds, 7)):
        ours, theirs, result = (
            float(subprocess.run([sys.executable, "-c", code.format(what)], stdout=-1).stdout)
            for what in ("import pressure", "import redis, cloudpickle", first)
        )
        ratios.append(ours / theirs)
        firsts.append(result)
    return [
        Row("`import pressure` / `import redis, cloudpickle`: time", "<= 1.3", ratios),
        Row("first result of `RedisExecutor()`", "<= 0.6", firsts, "s"),
    ]


WORK = {
    work.__name__: work for work in (sleep, pairs, variadic, sharing, backlog, server, idle, start)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(WORK))
    arguments = parser.parse_args()
    names = arguments.only.split(",")
    publish("limits", (row for name in names for row in WORK[name](arguments.rounds)))


if __name__ == "__main__":
    main()
