"""CPython's tests of `multiprocessing`'s queues, run on `pressure.multiprocessing`."""

from __future__ import annotations

import importlib.util
import multiprocessing.util
import queue
from typing import Any, NoReturn

import pytest

from tests.stdlib.bind_multiprocessing import bind_multiprocessing_queue_tests
from tests.stdlib.harness import SuiteMissing

if importlib.util.find_spec("pressure.multiprocessing") is None:
    pytest.skip("no pressure.multiprocessing yet", allow_module_level=True)

mp: Any = importlib.import_module("pressure.multiprocessing")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("default"),
]

try:
    globals().update(
        bind_multiprocessing_queue_tests(
            mp.Queue, mp.JoinableQueue, mp.SimpleQueue, module=__name__
        )
    )
except SuiteMissing as missing:
    pytest.skip(str(missing), allow_module_level=True)


def tearDownModule() -> None:
    """Ends the fork server, which has imported the suite."""
    cleanup: Any = vars(multiprocessing.util)["_cleanup_tests"]
    cleanup()


class NotPicklable:
    def __reduce__(self) -> NoReturn:
        raise AttributeError("not picklable")


def test_a_failed_put_raises_and_takes_no_room() -> None:
    """In place of test_queue_feeder_donot_stop_onexc, where the item is lost with a message."""
    bounded = mp.Queue(maxsize=1)
    with pytest.raises(AttributeError, match="not picklable"):
        bounded.put(NotPicklable())
    assert bounded.empty()
    bounded.put(True)
    assert bounded.qsize() == 1
    with pytest.raises(queue.Full):
        bounded.put(False, timeout=0.01)
    assert bounded.get(timeout=30) is True
    assert bounded.empty()
    bounded.close()
    bounded.join_thread()
