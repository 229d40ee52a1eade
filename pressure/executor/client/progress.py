"""A progress bar over results, in terminals and notebooks: by tqdm."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Sized
from typing import Any

__all__ = ["load", "shown", "total_of"]


def load() -> Any:
    """tqdm, if it is installed. Raises `ImportError` saying what to do if it isn't."""
    try:
        return importlib.import_module("tqdm.auto").tqdm
    except ImportError as exc:
        raise ImportError(
            "progress=True needs tqdm: pip install 'pressure[progress]' (or tqdm)"
        ) from exc


def total_of(iterables: tuple[Iterable[Any], ...]) -> int | None:
    """How many calls `map` makes of these; None if only their end will tell."""
    sizes = [len(iterable) for iterable in iterables if isinstance(iterable, Sized)]
    return min(sizes) if len(sizes) == len(iterables) and sizes else None


def shown(results: Iterator[Any], total: int | None, bar: Any) -> Iterator[Any]:
    """The results, and a bar that counts those that were yielded."""
    with bar(total=total, unit="task") as progress:
        for result in results:
            progress.update()
            holder = [result]
            del result
            yield holder.pop()
