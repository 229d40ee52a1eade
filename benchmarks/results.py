"""What the benchmarks measured: rows, the tables that show them, and the files that keep them.

Each script saves its rows as JSON in `benchmarks/measured`. `benchmarks.report` and
`benchmarks.plots` read them there.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["FOLDER", "HEAD", "Row", "beside", "load", "publish", "save"]

FOLDER = Path(__file__).resolve().parent / "measured"
HEAD = "| what | target | median | spread | figures |\n|---|---|---|---|---|"


class Row(NamedTuple):
    """One line of a table.

    `samples`: one per round, ratios of ours to theirs unless `unit` says something else. `target`:
    what is asked for (`<= 1.2`); empty for what is only told. `figures`: what was measured before
    it was compared.
    """

    what: str
    target: str
    samples: Sequence[float]
    unit: str = ""
    figures: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def missed(self) -> bool:
        relation, _, bound = self.target.partition(" ")
        if not bound:
            return False
        return self.median > float(bound) if relation == "<=" else self.median < float(bound)

    def __str__(self) -> str:
        median = f"{self.median:.3g} {self.unit}".rstrip()
        spread = f"{min(self.samples):.3g}-{max(self.samples):.3g}" if len(self.samples) > 1 else ""
        mark = "**" if self.missed else ""
        return f"| {self.what} | {self.target} | {mark}{median}{mark} | {spread} | {self.figures} |"


def beside(
    what: str, target: str, pairs: Iterable[tuple[float, float]], unit: str, scale: float = 1.0
) -> Row:
    """A row of ratios, from what ours and the other measured in each round."""
    ours, theirs = zip(*pairs, strict=True)
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    mine, other = statistics.median(ours) * scale, statistics.median(theirs) * scale
    return Row(what, target, ratios, figures=f"{mine:,.0f} beside {other:,.0f} {unit}")


def publish(name: str, rows: Iterable[Row]) -> None:
    """Print a table line by line, as rows are measured, and save them."""
    print(HEAD, flush=True)
    kept = []
    for row in rows:
        print(row, flush=True)
        kept.append(row._asdict())
    save(name, kept)


def save(name: str, rows: Any) -> None:
    FOLDER.mkdir(exist_ok=True)
    machine = {
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "date": time.strftime("%Y-%m-%d"),
    }
    text = json.dumps({"machine": machine, "rows": rows}, indent=1)
    (FOLDER / f"{name}.json").write_text(text + "\n")


def load(name: str) -> Any:
    """The rows that a benchmark saved; None if it did not."""
    path = FOLDER / f"{name}.json"
    return json.loads(path.read_text())["rows"] if path.exists() else None
