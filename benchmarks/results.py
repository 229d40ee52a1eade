"""Where the benchmarks leave their numbers: a JSON file for each, from which plots are drawn."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import Any

__all__ = ["FOLDER", "load", "save"]

FOLDER = Path(__file__).resolve().parent / "measured"


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
