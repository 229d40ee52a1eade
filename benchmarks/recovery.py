"""How long it takes until work goes on after something has died.

    python -m benchmarks.recovery [--rounds 5] [--lease 15]

Prints a Markdown table: the median and the longest of the rounds. Times are from the moment of the
signal (or, for a server, from that in which it answers again) to that in which the task runs, or
the item arrives, elsewhere. Everything is real: daemons, SIGKILL, servers with an append-only file,
three sentinels. It needs the tests' support modules, so it runs in a checkout only.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pressure
from pressure import Settings
from pressure.executor import RedisExecutor
from tests.faults import executing, mortal
from tests.faults.kit.processes import MachineKilled
from tests.support.processes import Child, spawn
from tests.support.sentinel import SentinelSetup
from tests.support.servers import ServerProcess

PATIENCE = 60.0
SHORT_LEASE = 2.0
AWAY = 3.0
"""How long a server stays away (seconds): until then clients look for it as seldom as they ever
do."""


def await_first_run(path: Path) -> int:
    """The worker that runs it."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if path.exists() and (found := executing.lines(str(path))):
            return int(found[0])
        time.sleep(0.001)
    raise AssertionError("the task was not run")


def daemon(url: str, queue: str, processes: int, lease: float) -> Child:
    child = spawn(executing.serve, url, queue, processes, lease)
    child.wait_for("serving")
    return child


def a_worker_dies(spare: int) -> Callable[[Path], float]:
    """With its supervisor alive, and `spare` other workers that have nothing to do."""

    def measure(scratch: Path) -> float:
        with (
            ServerProcess() as server,
            daemon(server.url, "tasks", 1 + spare, 15.0),
            RedisExecutor(url=server.url, queue="tasks") as executor,
        ):
            for _ in range(20):
                executor.submit(abs, -1).result(PATIENCE)
            future = executor.submit(executing.hang_once, str(scratch / "runs"))
            victim = await_first_run(scratch / "runs")
            # Longer than a task counts as one that may be over in a moment.
            time.sleep(1.5)
            killed = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            return future.result(PATIENCE) - killed

    return measure


def a_machine_dies(lease: float) -> Callable[[Path], float]:
    """A supervisor and its workers at once, while another one is there."""

    def measure(scratch: Path) -> float:
        with (
            ServerProcess() as server,
            daemon(server.url, "tasks", 1, lease) as doomed,
            RedisExecutor(url=server.url, queue="tasks") as executor,
        ):
            future = executor.submit(executing.hang_once, str(scratch / "runs"))
            await_first_run(scratch / "runs")
            with daemon(server.url, "tasks", 1, lease):
                time.sleep(0.5)
                killed = time.monotonic()
                MachineKilled(doomed).strike()
                return future.result(PATIENCE) - killed

    return measure


def a_consumer_dies(scratch: Path) -> float:
    """One that held an item on lease (of 1 s), while another blocks."""
    del scratch
    with ServerProcess() as server, ThreadPoolExecutor(1) as pool:
        q: pressure.PressureQueue[int] = pressure.PressureQueue(
            "items", url=server.url, settings=mortal.SETTINGS
        )
        q.create()
        q.put(1)
        with spawn(mortal.queue, server.url, "items", hold_at=["holding"]) as child:
            child.wait_for("got")
            got = pool.submit(q.get, timeout=PATIENCE)
            time.sleep(0.5)
            killed = time.monotonic()
            child.kill()
            assert got.result(PATIENCE) == 1
            return time.monotonic() - killed


def a_server_restarts(scratch: Path) -> float:
    """Until a get that was blocked all the time has the first item."""
    del scratch
    with ServerProcess(appendonly=True) as server, ThreadPoolExecutor(1) as pool:
        settings = Settings(reconnect_timeout=PATIENCE)
        q: pressure.PressureQueue[int] = pressure.PressureQueue(
            "items", url=server.url, settings=settings
        )
        q.create()
        assert q.qsize() == 0
        got = pool.submit(q.get)
        time.sleep(0.5)
        server.kill()
        time.sleep(AWAY)
        server.start()
        back = time.monotonic()
        pressure.PressureQueue[int]("items", url=server.url).put(1)
        assert got.result(PATIENCE) == 1
        return time.monotonic() - back


def a_server_restarts_under_an_executor(scratch: Path) -> float:
    """Until the result of a task is there that was submitted while it was away."""
    del scratch
    with (
        ServerProcess(appendonly=True) as server,
        daemon(server.url, "tasks", 2, 15.0),
        RedisExecutor(url=server.url, queue="tasks") as executor,
    ):
        assert executor.submit(abs, -1).result(PATIENCE) == 1
        server.kill()
        future = executor.submit(abs, -2)
        time.sleep(AWAY)
        server.start()
        back = time.monotonic()
        assert future.result(PATIENCE) == 2
        return time.monotonic() - back


def a_failover(scratch: Path) -> float:
    """After the death of a primary that its sentinels give up after a second: until a put is
    accepted, and got, by the next one."""
    del scratch
    with SentinelSetup() as setup:
        q: pressure.PressureQueue[int] = pressure.PressureQueue("items", url=setup.url)
        q.create()
        q.put(0)
        assert q.get() == 0
        time.sleep(0.5)
        old = setup.primary()
        killed = time.monotonic()
        old.kill()
        chosen: list[float] = []
        watcher = threading.Thread(
            target=lambda: (
                setup.await_primary_other_than(old),
                chosen.append(time.monotonic() - killed),
            )
        )
        watcher.start()
        q.put(1)
        assert q.get(timeout=PATIENCE) == 1
        took = time.monotonic() - killed
        watcher.join(PATIENCE)
        print(f"    the sentinels had a new primary after {chosen[0]:.2f} s", flush=True)
        return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lease", type=float, default=15.0, help="0: leave the long one out")
    options = parser.parse_args()
    measured: dict[str, tuple[Callable[[Path], float], int]] = {
        "a worker is killed, another one is idle": (a_worker_dies(1), options.rounds),
        "the only worker is killed": (a_worker_dies(0), options.rounds),
        f"a machine is gone, lease of {SHORT_LEASE:g} s": (
            a_machine_dies(SHORT_LEASE),
            options.rounds,
        ),
        "a consumer is killed that held an item, lease of 1 s": (a_consumer_dies, options.rounds),
        f"a server was away for {AWAY:g} s: a blocked get": (a_server_restarts, options.rounds),
        f"a server was away for {AWAY:g} s: a task": (
            a_server_restarts_under_an_executor,
            options.rounds,
        ),
        "a primary is killed, behind Sentinel": (a_failover, min(3, options.rounds)),
    }
    if options.lease:
        name = f"a machine is gone, lease of {options.lease:g} s"
        measured[name] = a_machine_dies(options.lease), min(2, options.rounds)
    print("| what has happened | median | longest |\n|---|---|---|", flush=True)
    for name, (measure, rounds) in measured.items():
        took = []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as scratch:
                took.append(measure(Path(scratch)))
        print(f"| {name} | {_text(statistics.median(took))} | {_text(max(took))} |", flush=True)


def _text(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


if __name__ == "__main__":
    main()
