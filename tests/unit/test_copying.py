"""What is pickled by value, and what is refused."""

from __future__ import annotations

import io
import logging
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pressure.executor import functions, pickling
from pressure.python_versions import unmarked
from pressure.serializers import serializer_for

queued = serializer_for("pickle")
assert queued is not None
WAYS: dict[str, Callable[[Any], Any]] = {
    "item": queued.dumps,
    "argument": pickling.dumps,
    "local argument": lambda obj: pickling.dumps(obj, local=True),
    "result": pickling.dumps_result,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", ["r", "r+", "a+", "w+", "w", "a", "x", "closed"])
def test_an_open_file_is_refused_as_plain_pickle_does(way: str, mode: str, tmp_path: Path) -> None:
    path = tmp_path / "text"
    if mode != "x":
        path.write_text("something")
    with path.open("r" if mode == "closed" else mode) as file:
        if mode == "closed":
            file.close()
        for holder in (file, [file], {"log": file}, [lambda: 1, file], lambda: file):
            with pytest.raises(TypeError, match=r"cannot pickle '_io\.TextIOWrapper' object"):
                WAYS[way](holder)


def test_functions_bring_no_files(tmp_path: Path) -> None:
    with (tmp_path / "text").open("w+") as file, pytest.raises(TypeError, match="TextIOWrapper"):
        functions.FunctionPacker().pack(lambda: file)


@pytest.mark.parametrize("way", WAYS)
def test_a_view_of_memory_is_refused_as_plain_pickle_does(way: str) -> None:
    view = memoryview(bytearray(10))
    for holder in (view, [view], {"data": view}, [lambda: 1, view], lambda: view):
        with pytest.raises(TypeError, match=r"cannot pickle 'memoryview' object.*bytes"):
            WAYS[way](holder)


@pytest.mark.parametrize("way", WAYS)
def test_what_else_is_like_a_file_goes_as_before(
    way: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = io.StringIO("something")
    assert pickle.loads(unmarked(WAYS[way]([lambda: 1, text])))[1].read() == "something"
    assert pickle.loads(unmarked(WAYS[way](logging.getLogger("x")))) is logging.getLogger("x")
    with (tmp_path / "out").open("w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert pickle.loads(unmarked(WAYS[way](lambda: out)))() is out
        assert pickle.loads(unmarked(WAYS[way]([out]))) == [out]
