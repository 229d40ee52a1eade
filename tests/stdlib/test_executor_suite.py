"""CPython's tests of `ProcessPoolExecutor`, run on `RedisExecutor` with its own workers."""

from __future__ import annotations

import concurrent.futures
import multiprocessing.util
from typing import Any

import pytest

import pressure
from tests.stdlib.bind_executor import bind_executor_tests
from tests.stdlib.harness import SuiteMissing

if not hasattr(pressure, "RedisExecutor"):
    pytest.skip("no RedisExecutor yet", allow_module_level=True)

pytestmark = [
    pytest.mark.slow,
    # The dead-lock tests have a bound of 300 seconds of their own: this one comes first.
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("default"),
]

try:
    globals().update(
        bind_executor_tests(
            pressure.RedisExecutor,
            source="pressure",
            module=__name__,
            future_type=getattr(pressure, "Future", concurrent.futures.Future),
        )
    )
except SuiteMissing as missing:
    pytest.skip(str(missing), allow_module_level=True)


def tearDownModule() -> None:
    """Ends the fork server, which has imported the suite."""
    cleanup: Any = vars(multiprocessing.util)["_cleanup_tests"]
    cleanup()
