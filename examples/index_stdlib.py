"""Index the source of Python's own standard library with every core of this machine.

    python examples/index_stdlib.py [--limit N] [--workers N] [--no-verify]

Nothing has to be installed or started first: with no URL, RedisExecutor brings its own server
and its own worker processes. The same work is then done once more, serially, to show that
nothing was lost, doubled or changed on the way.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import sys
import sysconfig
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pressure

try:
    from tqdm import tqdm
except ImportError:
    tqdm = None


class Facts(NamedTuple):
    """What one source file holds; nothing if it is not valid Python."""

    lines: int
    imports: Counter[str]
    calls: Counter[str]
    functions: list[tuple[int, str]]  # with their lengths in lines


def index_file(path: str) -> Facts:
    source = Path(path).read_bytes()
    facts = Facts(source.count(b"\n"), Counter(), Counter(), [])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library's tests hold doubtful code on purpose
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return facts
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            facts.functions.append((length, f"{Path(path).stem}.{node.name}"))
        elif isinstance(node, ast.Import):
            facts.imports.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            facts.imports[node.module.partition(".")[0]] += 1
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            facts.calls[node.func.id] += 1
    return facts


def source_files() -> list[str]:
    library = Path(sysconfig.get_path("stdlib"))
    foreign = {"site-packages", "dist-packages"}
    return sorted(str(path) for path in library.rglob("*.py") if foreign.isdisjoint(path.parts))


def report(index: list[Facts]) -> None:
    imports: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for facts in index:
        imports.update(facts.imports)
        calls.update({name: n for name, n in facts.calls.items() if hasattr(builtins, name)})
    functions = sorted((found for facts in index for found in facts.functions), reverse=True)
    print(f"\n{'most imported':28}{'most called builtins':28}longest functions (lines)")
    rows = zip(imports.most_common(10), calls.most_common(10), functions, strict=False)
    for (module, times), (builtin, called), (lines, function) in rows:
        print(f"{module:18}{times:8,}  {builtin:18}{called:8,}  {lines:5,}  {function}")
    total = sum(facts.lines for facts in index)
    print(f"\n{total:,} lines, {len(functions):,} functions")


def main() -> int:
    parser = argparse.ArgumentParser(description="Index the standard library in parallel.")
    parser.add_argument("--limit", type=int, help="only the first N files")
    parser.add_argument("--workers", type=int, help="worker processes (default: one per core)")
    parser.add_argument("--no-verify", action="store_true", help="skip the serial run")
    options = parser.parse_args()

    files = source_files()[: options.limit]
    started = time.monotonic()
    with pressure.RedisExecutor(max_workers=options.workers) as executor:
        results = executor.map(index_file, files, chunksize=8)
        index = list(tqdm(results, total=len(files), unit=" files") if tqdm else results)
    parallel = time.monotonic() - started
    report(index)
    print(f"{len(files):,} files in {parallel:.1f} s, {len(files) / parallel:,.0f} files/s")
    if options.no_verify:
        return 0

    started = time.monotonic()
    differing = sum(index_file(path) != facts for path, facts in zip(files, index, strict=True))
    serial = time.monotonic() - started
    print(f"serial run: {serial:.1f} s; {differing} of {len(files):,} files differ")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
