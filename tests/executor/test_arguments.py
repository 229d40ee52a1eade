"""What executors are made with."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

from pressure.executor import RedisExecutor

PATIENCE = 30.0
_noted: list[int] = []


def note(number: int) -> None:
    _noted.append(number)


def noted() -> list[int]:
    return _noted


@pytest.mark.parametrize("kind", [ProcessPoolExecutor, RedisExecutor])
def test_the_first_four_are_the_standard_library_s(kind: Any) -> None:
    context = multiprocessing.get_context("spawn")
    with kind(1, context, note, (5,)) as executor:
        assert executor._mp_context is context
        assert executor.submit(noted).result(PATIENCE) == [5]
    with pytest.raises(TypeError, match="positional"):
        kind(1, context, note, (5,), 1)


@pytest.mark.parametrize("kind", [ProcessPoolExecutor, RedisExecutor])
@pytest.mark.parametrize("number", [1.5, "4", "redis://127.0.0.1:1/0"])
def test_workers_are_a_whole_number(kind: Any, number: Any) -> None:
    with pytest.raises(TypeError):
        kind(number)
    if kind is RedisExecutor:
        with pytest.raises(TypeError, match=f"integer or None, not {type(number).__name__}$"):
            kind(max_workers=number)
