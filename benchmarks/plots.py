"""Draw what was measured: SVG files in `docs/plots`, from the JSON files in `benchmarks/measured`.

python -m benchmarks.plots          (makes itself an environment with matplotlib)
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.environments import python_with
from benchmarks.results import load

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "plots"
OURS = "pressure.RedisExecutor"


def draw_peers(plt: Any, rows: list[dict[str, Any]]) -> None:
    rows = sorted(rows, key=lambda row: row["rate"])
    figure, axes = plt.subplots(figsize=(7, 0.35 * len(rows) + 1))
    colors = ["#c0392b" if row["name"] == OURS else "#7f8c8d" for row in rows]
    bars = axes.barh([row["name"] for row in rows], [row["rate"] for row in rows], color=colors)
    axes.bar_label(bars, labels=[f"{row['rate']:,.0f}" for row in rows], padding=3, fontsize=8)
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set_xlabel("no-op tasks per second, 2 worker processes (logarithmic)")
    save(plt, figure, "peers")


def draw_growth(plt: Any, curves: list[dict[str, Any]]) -> None:
    rows = (len(curves) + 1) // 2
    figure, grid = plt.subplots(rows, 2, figsize=(8, 2.6 * rows), squeeze=False)
    for axes, curve in zip(grid.flat, curves, strict=False):
        xs, ys = zip(*curve["points"], strict=True)
        axes.plot(xs, ys, marker="o", color="#c0392b")
        axes.set_xscale("symlog" if 0 in xs else "log")
        axes.set_ylim(bottom=0)
        axes.set_xlabel(curve["x"], fontsize=8)
        axes.set_ylabel(curve["y"], fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
    for axes in grid.flat[len(curves) :]:
        axes.axis("off")
    save(plt, figure, "growth")


def save(plt: Any, figure: Any, name: str) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        python = python_with("plots", ("matplotlib",))
        sys.exit(subprocess.call([python, "-m", "benchmarks.plots"], cwd=ROOT))
    plt.rcParams["svg.hashsalt"] = "pressure"
    for name, draw in {"peers": draw_peers, "growth": draw_growth}.items():
        if (rows := load(name)) is not None:
            draw(plt, rows)


if __name__ == "__main__":
    main()
