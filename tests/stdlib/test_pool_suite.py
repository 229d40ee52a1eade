"""CPython's tests of `multiprocessing.Pool`, run on `pressure.multiprocessing.Pool`."""

from __future__ import annotations

import importlib.util
import multiprocessing.util
from typing import Any

import pytest

from tests.stdlib.bind_multiprocessing import bind_pool_tests
from tests.stdlib.harness import SuiteMissing

if importlib.util.find_spec("pressure.multiprocessing") is None:
    pytest.skip("no pressure.multiprocessing yet", allow_module_level=True)

mp: Any = importlib.import_module("pressure.multiprocessing")

if not hasattr(mp, "Pool"):
    pytest.skip("no pressure.multiprocessing.Pool yet", allow_module_level=True)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("default"),
]

try:
    globals().update(
        bind_pool_tests(mp.Pool, pool_module="pressure.multiprocessing", module=__name__)
    )
except SuiteMissing as missing:
    pytest.skip(str(missing), allow_module_level=True)


def tearDownModule() -> None:
    """Ends the fork server, which has imported the suite."""
    cleanup: Any = vars(multiprocessing.util)["_cleanup_tests"]
    cleanup()
