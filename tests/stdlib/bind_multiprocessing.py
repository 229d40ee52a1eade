"""The queue and Pool parts of `test._test_multiprocessing` for other classes.

Each class is bound once per start method. The suite finds what it tests as attributes
(`self.Queue`) and in the module (`multiprocessing.Queue`); both are replaced.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import multiprocessing
import unittest
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from tests.stdlib.harness import (
    Around,
    TestClasses,
    bare_main,
    bind,
    names_of_tests,
    overlay,
    replaced,
    scripts_with,
    suite,
)

SUITE = "test._test_multiprocessing"
START_METHODS = tuple(multiprocessing.get_all_start_methods())

QUEUE_DENIED = {
    "_TestQueue.test_queue_feeder_donot_stop_onexc": (
        "wants put to swallow what can't be pickled; ours raises at once, on purpose"
    ),
    "_TestQueue.test_queue_feeder_on_queue_feeder_error": (
        "overrides a hook of the standard library's feeder thread"
    ),
    "TestSimpleQueue.test_closed": "looks at the pipe inside, as its own comment says",
}
POOL_DENIED = {
    "TestPoolNotLeakOnFailure.test_release_unused_processes": (
        "counts the calls that the standard library's Pool makes on a mock of a context"
    ),
}

_FORKED_ONLY = {
    # Children that make the objects themselves see the replaced classes only when forked;
    # scripts choose their start method themselves, so once is enough.
    "TestStdinBadfiledescriptor.test_queue_in_process",
    "TestStdinBadfiledescriptor.test_pool_in_process",
    "MiscTestCase.test_large_pool",
    "_TestPoolWorkerLifetime.test_worker_finalization_via_atexit_handler_of_multiprocessing",
}


def bind_multiprocessing_queue_tests(
    Queue: Callable[..., Any],
    JoinableQueue: Callable[..., Any],
    SimpleQueue: Callable[..., Any],
    *,
    module: str,
    start_methods: Sequence[str] = START_METHODS,
    denied: Mapping[str, str] = QUEUE_DENIED,
) -> TestClasses:
    """All tests of the three queues, and those of other parts that use one of them.

    Raises:
        SuiteMissing: the suite is not installed.
    """
    names = {"Queue": Queue, "JoinableQueue": JoinableQueue, "SimpleQueue": SimpleQueue}

    def real_queue_replaced(case: Any) -> Any:
        return replaced(multiprocessing, **names)

    return _bind_processes(
        names,
        whole=("_TestQueue", "TestSimpleQueue"),
        module=module,
        start_methods=start_methods,
        denied=denied,
        # A module that this test writes and imports uses multiprocessing itself.
        around={"_TestQueue.test_no_import_lock_contention": real_queue_replaced},
        contexts=(lambda: replaced(suite(SUITE), close_queue=_close),),
    )


def bind_pool_tests(
    Pool: Callable[..., Any],
    *,
    pool_module: str,
    module: str,
    start_methods: Sequence[str] = START_METHODS,
    denied: Mapping[str, str] = POOL_DENIED,
) -> TestClasses:
    """All tests of `multiprocessing.Pool`.

    Args:
        pool_module: name of the module that scripts import instead of `multiprocessing`.

    Raises:
        SuiteMissing: the suite is not installed.
    """

    def rewrite(script: str) -> str:
        script = script.replace("from multiprocessing import", f"from {pool_module} import")
        return script.replace(
            "import multiprocessing\n", f"import {pool_module} as multiprocessing\n"
        )

    return _bind_processes(
        {"Pool": Pool},
        whole=(
            "_TestPool",
            "_TestPoolWorkerErrors",
            "_TestPoolWorkerLifetime",
            "TestPoolNotLeakOnFailure",
        ),
        module=module,
        start_methods=start_methods,
        denied=denied,
        contexts=(
            lambda: replaced(
                suite("test.support.script_helper"), assert_python_ok=scripts_with(rewrite)
            ),
        ),
    )


def _bind_processes(
    names: Mapping[str, Callable[..., Any]],
    *,
    whole: Sequence[str],
    module: str,
    start_methods: Sequence[str],
    denied: Mapping[str, str],
    around: Mapping[str, Around] | None = None,
    contexts: Iterable[Callable[[], Any]] = (),
) -> TestClasses:
    tests = suite(SUITE)
    attributes = {name: staticmethod(value) for name, value in names.items()}
    patch = functools.partial(replaced, tests, multiprocessing=overlay(multiprocessing, **names))
    bound: TestClasses = {}
    for name, cls in sorted(vars(tests).items()):
        if not (isinstance(cls, type) and _runs_on_processes(tests, cls)):
            continue
        chosen = [
            test for test in names_of_tests(cls) if name in whole or _mentions(cls, test, names)
        ]
        if not chosen:
            continue
        is_case = issubclass(cls, unittest.TestCase)
        parts = (cls,) if is_case else (cls, tests.ProcessesMixin, unittest.TestCase)
        for method in start_methods:
            here = [
                test for test in chosen if method == "fork" or f"{name}.{test}" not in _FORKED_ONLY
            ]
            if not here:
                continue
            full_name = f"Test{name.removeprefix('_').removeprefix('Test')}_{method}"
            bound[full_name] = bind(
                full_name,
                parts,
                module=module,
                attributes=attributes,
                contexts=(functools.partial(_start_method, method), bare_main, patch, *contexts),
                denied=denied,
                around=around,
                only=frozenset(here).__contains__,
            )
    return bound


def _runs_on_processes(tests: Any, cls: Any) -> bool:
    if issubclass(cls, tests.BaseTestCase):
        return cls is not tests.BaseTestCase and "processes" in cls.ALLOWED_TYPES
    return issubclass(cls, unittest.TestCase) and cls.__module__ == SUITE


def _mentions(cls: type, test: str, names: Iterable[str]) -> bool:
    """Whether a test makes one of the objects `names`, itself or in its helper function."""
    if cls.__name__ == "TestStdinBadfiledescriptor":
        helper = {"test_queue_in_process": "Queue", "test_pool_in_process": "Pool"}.get(test, "")
        return helper in set(names)
    source = inspect.getsource(getattr(cls, test))
    prefixes = ("self.", "multiprocessing.")
    return any(f"{prefix}{name}(" in source for prefix in prefixes for name in names)


def _close(queue: Any) -> None:
    """The suite's `close_queue` acts on the standard library's class only."""
    queue.close()
    queue.join_thread()


@contextlib.contextmanager
def _start_method(method: str) -> Iterator[None]:
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_forkserver_preload([SUITE])
    multiprocessing.set_start_method(method, force=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(before, force=True)
