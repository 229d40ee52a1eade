"""A worker is killed at each step of its work: nothing is lost, and no outcome is told twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from pressure.executor import RedisExecutor, WorkerLostError
from tests.faults import steps
from tests.faults.executing import lines

WAIT = 30.0
COUNT = 20


@pytest.mark.parametrize("step", steps.STEPS)
def test_at_least_once(step: str, tmp_path: Path) -> None:
    path, latch = tmp_path / "runs", tmp_path / "latch"
    with RedisExecutor(1, initializer=steps.die_at, initargs=(step, str(latch))) as executor:
        futures = [executor.submit(steps.run, str(path), number) for number in range(COUNT)]
        assert [future.result(WAIT) for future in futures] == [n * n for n in range(COUNT)]
        charged = [future.info()["deliveries"] for future in futures]
    assert latch.exists(), "no worker has died"
    runs = Counter(lines(str(path)))
    assert set(runs) == {str(number) for number in range(COUNT)}
    # One at most was being run when the worker died; what it had run and not recorded runs again.
    assert sum(charged) <= 1
    assert max(runs.values()) <= 2


@pytest.mark.parametrize("step", steps.STEPS)
def test_at_most_once(step: str, tmp_path: Path) -> None:
    path, latch = tmp_path / "runs", tmp_path / "latch"
    lost = 0
    with RedisExecutor(1, initializer=steps.die_at, initargs=(step, str(latch))) as executor:
        once = executor.options(max_deliveries=1)
        futures = [once.submit(steps.run, str(path), number) for number in range(COUNT)]
        for number, future in enumerate(futures):
            try:
                assert future.result(WAIT) == number * number
            except WorkerLostError:
                lost += 1
    assert latch.exists(), "no worker has died"
    runs = Counter(lines(str(path)))
    assert max(runs.values()) == 1
    assert lost <= 1
    assert len(runs) >= COUNT - lost
