"""Put what was measured into `docs/performance.md`: the tables between its marks.

    python -m benchmarks.report

A table is replaced if what it shows was measured; see `benchmarks/measured`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.results import FOLDER, HEAD, Row, load

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
SCRIPTS = ("executor", "queue_operations", "mp_queue", "executor_extremes", "limits")
OURS = "pressure.RedisExecutor"


def targets() -> str:
    """All rows of all scripts. What is short of its target is bold."""
    rows = [Row(**row) for name in SCRIPTS for row in load(name) or ()]
    rows += quickest_on_redis()
    asked = [str(row) for row in rows if row.target]
    told = [str(row) for row in rows if not row.target]
    return "\n".join([HEAD, *asked, *told]) if rows else ""


def quickest_on_redis() -> list[Row]:
    others = [row for row in load("peers") or () if row["on_redis"] and row["name"] != OURS]
    if not others:
        return []
    best = max(others, key=lambda row: float(row["rate"]))
    what = f"no-op tasks / the quickest of the peers on Redis ({best['name']})"
    return [Row(what, ">= 15", [best["least"], best["ratio"], best["most"]])]


def peers() -> str:
    rows: list[dict[str, Any]] = load("peers") or []
    lines = [
        "| 2 worker processes | no-op tasks/s | ours is | spread | one task: p50 | p99 |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        ours = row["name"] == OURS
        lines.append(
            f"| {row['name']} {row['version']} | {row['rate']:,.0f} | {row['ratio']:.1f}x "
            f"| {'' if ours else '{least:.1f}-{most:.1f}'.format(**row)} "
            f"| {row['p50'] * 1e3:.2f} ms | {row['p99'] * 1e3:.2f} ms |"
        )
    return "\n".join(lines) if rows else ""


def growth() -> str:
    """Each curve as a line of a table: what the plots show, for those who look for figures."""
    lines = ["| growing | measured | |", "|---|---|---|"]
    for curve in load("growth") or ():
        points = ", ".join(f"{x:,.10g}: {y:,.{0 if y >= 100 else 2}f}" for x, y in curve["points"])
        lines.append(f"| {curve['x']} | {points} | {curve['y']} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def machine() -> str:
    """When and on what, as the latest file says."""
    dates = [json.loads(path.read_text())["machine"] for path in FOLDER.glob("*.json")]
    latest = max(dates, key=lambda one: str(one["date"]))
    return f"{latest['date']}, {latest['cpus']} processors, Python {latest['python']}."


def replaced(page: str, mark: str, text: str) -> str:
    if not text:
        return page
    block = f"<!-- {mark} -->\n{text}\n<!-- end -->"
    new, count = re.subn(rf"<!-- {mark} -->.*?<!-- end -->", lambda _: block, page, flags=re.DOTALL)
    if count != 1:
        raise SystemExit(f"{PAGE}: the mark {mark!r} is there {count} times, not once")
    return new


def main() -> None:
    page = PAGE.read_text()
    for write in (targets, peers, growth, machine):
        page = replaced(page, write.__name__, write())
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
