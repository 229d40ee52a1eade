"""tqdm around what an executor returns."""

from __future__ import annotations

import io
from concurrent.futures import as_completed

import pytest

from pressure import RedisExecutor

tqdm = pytest.importorskip("tqdm", reason="tqdm is not installed").tqdm


def test_a_bar_around_map(executor: RedisExecutor) -> None:
    shown = io.StringIO()
    bar = tqdm(executor.map(abs, range(200), chunksize=10), total=200, file=shown)
    assert list(bar) == list(range(200))
    assert bar.n == 200
    assert "200/200" in shown.getvalue()


def test_a_bar_around_as_completed(executor: RedisExecutor) -> None:
    shown = io.StringIO()
    futures = [executor.submit(abs, x) for x in range(50)]
    bar = tqdm(as_completed(futures, timeout=30), total=len(futures), file=shown)
    assert sorted(future.result() for future in bar) == list(range(50))
    assert "50/50" in shown.getvalue()
