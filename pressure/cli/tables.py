"""What people read: aligned columns, short times and sizes, and nothing that harms a terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

__all__ = ["duration", "echo_json", "rate", "safe", "size", "table"]

NOTHING = "-"
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))


def safe(text: object) -> str:
    """The text with everything escaped that a terminal might obey: names, errors and the like may
    have been written by anybody who can reach the server."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in str(text)
    )


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns two spaces apart. None is shown as a dash; columns of numbers end at the right."""
    texts = [[NOTHING if cell is None else safe(cell) for cell in row] for row in rows]
    lines = [list(headers), *texts]
    widths = [max(len(line[at]) for line in lines) for at in range(len(headers))]
    numeric = [
        bool(texts) and all(line[at][:1].isdigit() or line[at] == NOTHING for line in texts)
        for at in range(len(headers))
    ]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    )


def duration(seconds: float | None) -> str | None:
    """As in `0.3s`, `12s`, `3m 2s`, `4d 11h`."""
    if seconds is None:
        return None
    if seconds < 10:
        return f"{seconds:.1f}s"
    left = round(seconds)
    parts: list[str] = []
    for unit, letter in _UNITS:
        count, left = divmod(left, unit)
        if count or parts:
            parts.append(f"{count}{letter}")
    return " ".join(part for part in parts[:2] if part[0] != "0")


def size(count: float | None) -> str | None:
    """As in `812 B`, `12.3 MB`."""
    if count is None:
        return None
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 1000:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} TB"


def rate(per_second: float | None) -> str | None:
    if per_second is None:
        return None
    return f"{per_second:.1f}" if per_second < 100 else f"{per_second:,.0f}"


def echo_json(value: Any, *, indent: int | None = 2) -> None:
    """Write a value for programs. Only ASCII, so a terminal is safe from it."""
    click.echo(json.dumps(value, indent=indent, default=str))
