"""No-op tasks through `RedisExecutor` and through what a user would pick instead, side by side.

    python -m benchmarks.beside_peers [--rounds 3] [--tasks 1000] [--only NAME ...]

Each peer runs in an environment of its own, which is made when it is missing, on two worker
processes and, where it needs one, an embedded server of its own on a unix socket. They take turns
in every round. Prints a Markdown table and writes `benchmarks/measured/peers.json`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pressure
from benchmarks.environments import python_with
from benchmarks.results import save

ROOT = Path(__file__).resolve().parents[1]
OURS = "pressure.RedisExecutor"
STDLIB = "ProcessPoolExecutor"


class Peer(NamedTuple):
    """`weight`: its share of the tasks, since some take a hundred times as long as others."""

    name: str
    module: str
    requirements: tuple[str, ...] = ()
    weight: float = 1.0
    on_redis: bool = True


PEERS = (
    Peer(OURS, "ours", weight=20),
    Peer(STDLIB, "process_pool", weight=10, on_redis=False),
    Peer("loky", "loky_pool", ("loky",), weight=5, on_redis=False),
    Peer("Dask", "dask_cluster", ("distributed",), on_redis=False),
    Peer("Ray", "ray_tasks", ("ray",), on_redis=False),
    Peer("Huey", "huey_tasks", ("huey", "redis[hiredis]")),
    Peer("taskiq", "taskiq_broker", ("taskiq", "taskiq-redis")),
    Peer("arq", "arq_jobs", ("arq",)),
    Peer("SAQ", "saq_queue", ("saq[redis]", "typing-extensions")),
    Peer("Celery", "celery_app", ("celery[redis]",)),
    Peer("Dramatiq", "dramatiq_actors", ("dramatiq[redis]",)),
    Peer("RQ", "rq_queue", ("rq",)),
)


def run(peer: Peer, tasks: int, single: int) -> dict[str, Any]:
    """What the peer measured (see `benchmarks.peers.driving`)."""
    python = python_with(peer.module, peer.requirements)
    count = max(20, round(tasks * peer.weight))
    command = [str(python), "-m", f"benchmarks.peers.{peer.module}"]
    with pressure.local_server() as url:
        done = subprocess.run(
            [*command, "--url", url, "--tasks", str(count), "--single", str(single)],
            env={**os.environ, "BENCHMARK_URL": url},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
        )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def version(peer: Peer) -> str:
    if not peer.requirements:
        return (
            importlib.metadata.version("pressure") if peer.name == OURS else sys.version.split()[0]
        )
    package = peer.requirements[0].partition("[")[0]
    code = f"import importlib.metadata; print(importlib.metadata.version({package!r}))"
    python = python_with(peer.module, peer.requirements)
    return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()


def compared(samples: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """A row for each peer: medians of the rounds, and of the rounds' ratios of ours to it."""
    rows = []
    for name, rounds in samples.items():
        ratios = [
            mine["rate"] / theirs["rate"]
            for mine, theirs in zip(samples[OURS], rounds, strict=True)
        ]
        times = [result["single"] for result in rounds]
        rows.append(
            {
                "name": name,
                "rate": statistics.median(result["rate"] for result in rounds),
                "ratio": statistics.median(ratios),
                "least": min(ratios),
                "most": max(ratios),
                "p50": statistics.median(single[len(single) // 2] for single in times),
                "p99": statistics.median(single[len(single) * 99 // 100] for single in times),
            }
        )
    return sorted(rows, key=lambda row: -row["rate"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--single", type=int, default=200)
    parser.add_argument("--only", nargs="*", default=[])
    arguments = parser.parse_args()
    peers = [peer for peer in PEERS if not arguments.only or peer.name in (OURS, *arguments.only)]
    samples: dict[str, list[dict[str, Any]]] = {peer.name: [] for peer in peers}
    for number in range(arguments.rounds):
        for peer in peers:
            if peer.name not in samples:
                continue
            try:
                result = run(peer, arguments.tasks, arguments.single)
            except (RuntimeError, OSError, subprocess.SubprocessError) as exc:
                # One that can't be installed or started here costs the table one row.
                print(f"{peer.name} is left out: {exc}", file=sys.stderr)
                del samples[peer.name]
                continue
            samples[peer.name].append(result)
            print(f"round {number + 1}: {peer.name} {result['rate']:,.0f}/s", file=sys.stderr)
    rows = compared(samples)
    versions = {peer.name: version(peer) for peer in peers if peer.name in samples}
    on_redis = {peer.name for peer in peers if peer.on_redis}
    for row in rows:
        row["version"] = versions[row["name"]]
        row["on_redis"] = row["name"] in on_redis
    save("peers", rows)
    print("| 2 worker processes | no-op tasks/s | ours is | one task: p50 | p99 |")
    print("|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['name']} {row['version']} | {row['rate']:,.0f} | {row['ratio']:.1f}x "
            f"({row['least']:.1f}-{row['most']:.1f}) | {row['p50'] * 1e3:.2f} ms "
            f"| {row['p99'] * 1e3:.2f} ms |"
        )


if __name__ == "__main__":
    main()
