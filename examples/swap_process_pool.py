"""Move a program from ProcessPoolExecutor to RedisExecutor by changing one line.

    python examples/swap_process_pool.py

How well does the source of the standard library compress, at which zlib level? The answer is
worked out twice, by the same code on both pools, and must be the same.
"""

from __future__ import annotations

import sysconfig
import zlib
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from pathlib import Path

import pressure

LEVELS = (1, 6, 9)


def compressed_sizes(path: str) -> list[int]:
    """The file's size as it is, and at each level."""
    data = Path(path).read_bytes()
    return [len(data), *(len(zlib.compress(data, level)) for level in LEVELS)]


def total_sizes(pool: Executor, paths: list[str]) -> list[int]:
    futures = [pool.submit(compressed_sizes, path) for path in paths]
    totals = [0] * (1 + len(LEVELS))
    for future in as_completed(futures):
        totals = [total + size for total, size in zip(totals, future.result(), strict=True)]
    return totals


def main() -> None:
    paths = [str(path) for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))]

    with ProcessPoolExecutor() as pool:  # before
        before = total_sizes(pool, paths)

    with pressure.RedisExecutor() as pool:  # after: nothing else changes
        after = total_sizes(pool, paths)

    print(f"{len(paths)} modules, {after[0]:,} bytes")
    for level, size in zip(LEVELS, after[1:], strict=True):
        print(f"zlib level {level}: {size:,} bytes, {size / after[0]:.1%}")
    if before != after:
        raise SystemExit(f"the pools disagree: {before} and {after}")
    print("ProcessPoolExecutor and RedisExecutor agree")


if __name__ == "__main__":
    main()
