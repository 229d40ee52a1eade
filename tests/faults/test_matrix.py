"""Every fault has its test through every interface that it concerns."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.faults.matrix import INTERFACES, MATRIX, Cell, Reason, markdown

ROOT = Path(__file__).resolve().parents[2]


@cache
def names_in(path: str) -> frozenset[str]:
    """The names of a file's test functions, those in classes included."""
    tree = ast.parse((ROOT / path).read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(
        node.name
        for node in ast.walk(tree)
        if isinstance(node, functions) and node.name.startswith("test_")
    )


def test_all_faults_are_there() -> None:
    assert list(MATRIX) == list(range(1, 26))


@pytest.mark.parametrize("interface", INTERFACES)
@pytest.mark.parametrize("number", MATRIX)
def test_each_cell_is_filled(number: int, interface: str) -> None:
    cell: Cell = getattr(MATRIX[number], interface)
    assert cell, "neither a test nor a reason"
    if isinstance(cell, Reason):
        return
    for named in cell:
        path, _, name = named.partition("::")
        assert (ROOT / path).exists(), f"{path} is not there"
        assert name in names_in(path), f"{path} has no {name}"


def test_the_document_has_the_table() -> None:
    """`python -m tests.faults.matrix` prints it."""
    assert markdown() in (ROOT / "docs" / "reliability.md").read_text("utf-8")
