"""dask on an executor: `compute(scheduler=...)`."""

from __future__ import annotations

import os

import pytest

from pressure import RedisExecutor

dask = pytest.importorskip("dask", reason="dask is not installed")


def pid_and(x: int, *_: object) -> tuple[int, int]:
    return os.getpid(), x


def fail(x: int) -> int:
    raise KeyError("of the task")


def test_delayed_calls_run_on_the_workers(executor: RedisExecutor) -> None:
    calls = [dask.delayed(pid_and)(x) for x in range(50)]
    last = dask.delayed(pid_and)(50, calls)
    found = dask.compute(*calls, last, scheduler=executor)
    assert [x for _, x in found] == list(range(51))
    assert {pid for pid, _ in found} <= set(executor._processes)


def test_an_error_is_raised(executor: RedisExecutor) -> None:
    with pytest.raises(KeyError, match="of the task"):
        dask.compute(dask.delayed(fail)(1), scheduler=executor)
    assert dask.delayed(abs)(-1).compute(scheduler=executor) == 1


def test_arrays(executor: RedisExecutor) -> None:
    arrays = pytest.importorskip("dask.array", reason="numpy is not installed")
    whole = arrays.ones((100, 100), chunks=(20, 50))
    assert (whole + 1).sum().compute(scheduler=executor) == 20_000


def test_the_scheduler_may_be_set_for_a_block(executor: RedisExecutor) -> None:
    with dask.config.set(scheduler=executor):
        pid, _ = dask.delayed(pid_and)(1).compute()
    assert pid in executor._processes
