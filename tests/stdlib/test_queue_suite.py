"""CPython's tests of `queue.Queue` and `queue.SimpleQueue`, run on `PressureQueue`."""

from __future__ import annotations

import queue
import uuid
from collections.abc import Iterator
from typing import Any

import cloudpickle
import pytest

import pressure
from tests.stdlib.bind_queue import bind_queue_tests
from tests.stdlib.harness import SuiteMissing

if not (hasattr(pressure, "PressureQueue") and hasattr(pressure, "local_server")):
    pytest.skip("no PressureQueue yet", allow_module_level=True)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.filterwarnings("default"),
]

_url = ""
_made: list[Any] = []


@pytest.fixture(scope="module", autouse=True)
def own_server() -> Iterator[None]:
    """One private server for the module; `make` is called by tests, after it has started."""
    global _url
    with pressure.local_server() as _url:
        yield


@pytest.fixture(autouse=True)
def queues_deleted() -> Iterator[None]:
    yield
    while _made:
        made = _made.pop()
        if made.exists:
            made.delete()
        made.disconnect()


def make(maxsize: int) -> Any:
    """A new queue; test_references puts instances of a local class, hence the codec."""
    made: Any = pressure.PressureQueue(f"suite-{uuid.uuid4().hex}", url=_url, codec=cloudpickle)
    made.create(bound=maxsize)
    _made.append(made)
    return made


try:
    globals().update(
        bind_queue_tests(make, queue.Empty, queue.Full, pressure.ShutDown, module=__name__)
    )
except SuiteMissing as missing:
    pytest.skip(str(missing), allow_module_level=True)
