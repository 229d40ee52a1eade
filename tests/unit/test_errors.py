"""The tree of exceptions: what each may be caught as, and that each survives pickling."""

from __future__ import annotations

import importlib
import pickle
import queue
import sys

import pytest

import pressure
from pressure import errors, executor
from pressure.executor import errors as executor_errors

OURS = [getattr(errors, name) for name in errors.__all__ if name != "ShutDown"]


def make(cls: type[errors.PressureError]) -> errors.PressureError:
    if issubclass(cls, errors.ItemTooLargeError):
        return cls("jobs", 2000, 1000)
    if issubclass(cls, errors.NotReplicatedError):
        return cls("jobs", 0, 1)
    if issubclass(cls, errors.QueueError):
        return cls("jobs", "something happened")
    return cls("something happened")


def test_all_can_be_caught_by_the_names_that_the_package_has() -> None:
    for name in [*errors.__all__, *executor_errors.__all__]:
        cls = getattr(executor_errors, name, None) or getattr(errors, name)
        assert name in pressure.__all__ and getattr(pressure, name) is cls
    for name in executor_errors.__all__:
        assert name in executor.__all__ and hasattr(executor, name)


def test_a_missing_joblib_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "joblib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "joblib", None)
    monkeypatch.delitem(sys.modules, "pressure.joblib", raising=False)
    with pytest.raises(ImportError, match="pip install 'joblib"):
        importlib.import_module("pressure.joblib")


@pytest.mark.parametrize("cls", OURS)
def test_one_root(cls: type[Exception]) -> None:
    assert issubclass(cls, errors.PressureError)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (errors.QueueFullError, queue.Full),
        (errors.QueueEmptyError, queue.Empty),
        (errors.QueueClosedError, errors.ShutDown),
        (errors.ItemTooLargeError, ValueError),
        (errors.ServerUnavailableError, ConnectionError),
        (errors.OutcomeUnknownError, errors.ServerUnavailableError),
        (errors.SignatureError, errors.PayloadError),
    ],
)
def test_fits_code_that_knows_only_the_standard_library(
    ours: type[Exception], theirs: type[Exception]
) -> None:
    assert issubclass(ours, theirs)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="queue.ShutDown came with Python 3.13")
def test_shutdown_is_that_of_the_standard_library() -> None:
    assert errors.ShutDown is getattr(queue, "ShutDown")  # noqa: B009


@pytest.mark.parametrize("cls", OURS)
def test_pickling(cls: type[errors.PressureError]) -> None:
    error = make(cls)
    error.accepted = 3
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is cls
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


@pytest.mark.parametrize("cls", [c for c in OURS if issubclass(c, errors.QueueError)])
def test_the_queue_is_named(cls: type[errors.QueueError]) -> None:
    error = make(cls)
    assert isinstance(error, errors.QueueError)
    assert error.queue == "jobs"
    assert str(error).startswith("queue 'jobs': ")


def test_without_detail_the_class_says_what_happened() -> None:
    assert str(errors.QueueFullError("jobs")) == "queue 'jobs': it is full"


def test_sizes_are_said() -> None:
    error = errors.ItemTooLargeError("jobs", 2000, 1000)
    assert (error.size, error.limit) == (2000, 1000)
    assert "2,000" in str(error) and "1,000" in str(error)
