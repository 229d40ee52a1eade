"""SciPy on an executor: what takes `workers=`, a map-like callable."""

from __future__ import annotations

from typing import Any

import pytest

from pressure import RedisExecutor

optimize = pytest.importorskip("scipy.optimize", reason="SciPy is not installed")
integrate = pytest.importorskip("scipy.integrate", reason="SciPy is not installed")


def sphere(x: Any) -> float:
    return float(sum(part * part for part in x))


def fail(x: Any) -> float:
    raise KeyError("of the objective")


def test_differential_evolution(executor: RedisExecutor) -> None:
    options = {"bounds": [(-5, 5)] * 2, "rng": 1, "maxiter": 30, "updating": "deferred"}
    ours = optimize.differential_evolution(sphere, workers=executor.map, **options)
    assert ours.x == pytest.approx([0, 0], abs=1e-3)
    assert list(ours.x) == list(optimize.differential_evolution(sphere, **options).x)


def test_brute(executor: RedisExecutor) -> None:
    grid = (slice(-2, 2.1, 0.5),) * 2
    assert list(optimize.brute(sphere, grid, finish=None, workers=executor.map)) == [0, 0]


def test_quad_vec(executor: RedisExecutor) -> None:
    value, _ = integrate.quad_vec(square, 0, 1, workers=executor.map)
    assert value == pytest.approx(1 / 3)


def square(x: float) -> float:
    return x * x


def test_an_error_of_the_objective_is_raised(executor: RedisExecutor) -> None:
    grid = (slice(0, 3, 1),)
    with pytest.raises(KeyError, match="of the objective"):
        optimize.brute(fail, grid, finish=None, workers=executor.map)
