"""A function whose name has come to mean another one."""

from __future__ import annotations

from typing import Any

import pytest

from pressure.executor.functions import FunctionPacker
from tests.contract import executing


def test_a_name_that_means_another_function_is_not_sent_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    function, packer = executing.square, FunctionPacker()
    by_name = packer.pack(function).data
    assert packer.pack(function).data is by_name

    def another(x: Any) -> Any:
        raise AssertionError(x)

    monkeypatch.setattr(executing, "square", another)
    assert packer.pack(function).data != by_name
