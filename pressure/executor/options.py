"""Settings of single tasks."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Options"]


@dataclass(frozen=True, slots=True)
class Options:
    """Settings of one task. `max_deliveries`: how many workers may die of it; 1: at most once."""

    max_deliveries: int = 3
