"""`test.test_queue` for another FIFO queue class."""

from __future__ import annotations

import types
import unittest
from collections.abc import Callable
from typing import Any

from tests.stdlib.harness import TestClasses, bind, suite

DENIED = {
    "FailingQueueTest.test_failing_queue": (
        "overrides _put and _get, hooks that run inside the process that holds the data"
    ),
    "CSimpleQueueTest.test_is_default": "asks whether the C class is the one that is exported",
    "CSimpleQueueTest.test_reentrancy": (
        "put from a finalizer amid another put is promised by the C SimpleQueue alone; "
        "queue.Queue itself dead-locks"
    ),
}


def bind_queue_tests(
    queue_factory: Callable[[int], Any],
    Empty: type[Exception],
    Full: type[Exception],
    ShutDown: type[Exception],
    *,
    module: str,
) -> TestClasses:
    """The tests of `queue.Queue` and those of `queue.SimpleQueue`, whose methods it has, too.

    Args:
        queue_factory: gives a new, empty queue with this bound (0: none). It must be able to
            carry instances of local classes.
        Empty, Full, ShutDown: what the tests expect to be raised.
        module: name of the module in which the classes will be found.

    Raises:
        SuiteMissing: `test.test_queue` is not installed.
    """
    tests = suite("test.test_queue")

    def make(maxsize: int = 0) -> Any:
        return _called_queue(queue_factory(maxsize))

    names = types.SimpleNamespace(
        Queue=make, SimpleQueue=make, Empty=Empty, Full=Full, ShutDown=ShutDown
    )
    simple = {"queue": names, "type2test": staticmethod(make)}
    return {
        "QueueTest": bind(
            "QueueTest",
            (tests.QueueTest, unittest.TestCase),
            module=module,
            attributes={"queue": names},
            denied=DENIED,
        ),
        "FailingQueueTest": bind(
            "FailingQueueTest",
            (tests.FailingQueueTest, unittest.TestCase),
            module=module,
            attributes={"queue": names, "setUp": unittest.TestCase.setUp},
            denied=DENIED,
        ),
        "SimpleQueueTest": bind(
            "SimpleQueueTest",
            (tests.CSimpleQueueTest,),
            module=module,
            attributes=simple | {"setUp": tests.BaseSimpleQueueTest.setUp},
            denied=DENIED,
        ),
    }


def _called_queue(queue: Any) -> Any:
    """The same object; its class answers to the name "Queue", by which test_basic decides
    in which order it expects the items."""
    if type(queue).__name__ != "Queue":
        queue.__class__ = type("Queue", (type(queue),), {"__slots__": ()})
    return queue
