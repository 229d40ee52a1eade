"""What executors are made with."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

from pressure.executor import RedisExecutor

PATIENCE = 30.0
URL_GONE = {"PRESSURE_URL": "unset PRESSURE_URL", "url": "give no url"}
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


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"max_workers": 4}, "max_workers is for .*--processes "),
        ({"mp_context": multiprocessing.get_context("spawn")}, "mp_context is for .*leave it out"),
        (
            {"initializer": note, "max_tasks_per_child": 9, "max_workers": None},
            "initializer and max_tasks_per_child are for .*--preload and --max-tasks-per-child",
        ),
    ],
)
@pytest.mark.parametrize("origin", ["PRESSURE_URL", "url"])
def test_what_is_for_local_workers_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], named: str, origin: str
) -> None:
    url = "redis://:secret@127.0.0.1:1/0"
    if origin == "url":
        given = {**given, "url": url}
    else:
        monkeypatch.setenv("PRESSURE_URL", url)
    with pytest.raises(ValueError, match=f"^{named}.*, or {URL_GONE[origin]}") as caught:
        RedisExecutor(**given)
    assert f"by {origin} " in str(caught.value)
    assert "secret" not in str(caught.value)
