"""`test.test_concurrent_futures` for another executor class (as packaged since 3.11.6)."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

from tests.stdlib.bind_multiprocessing import START_METHODS
from tests.stdlib.harness import (
    Around,
    TestClasses,
    bare_main,
    bind,
    needing,
    overlay,
    replaced,
    scripts_with,
    suite,
)

SUITE = "test.test_concurrent_futures"

DENIED = {
    "ProcessPoolExecutorTest.test_killed_child": (
        "wants one killed worker to break the executor; ours runs the task again, on purpose"
    ),
    "ProcessPoolExecutorTest.test_python_finalization_error": (
        "lets the second thread that is started fail, counted as the standard library starts them"
    ),
}

# What tests look at besides public names. An executor that has the attribute is tested.
PRIVATE = {
    "ProcessPoolExecutorTest.test_saturation": ("_max_workers", "_processes"),
    "ProcessPoolExecutorTest.test_idle_process_reuse_one": ("_max_workers", "_processes"),
    "ProcessPoolExecutorTest.test_idle_process_reuse_multiple": ("_max_workers", "_processes"),
    "ProcessPoolExecutorTest.test_max_tasks_per_child": ("_processes",),
    "ProcessPoolExecutorTest.test_max_tasks_per_child_defaults_to_spawn_context": ("_mp_context",),
    "ProcessPoolShutdownTest.test_processes_terminate": ("_processes",),
    "ProcessPoolShutdownTest.test_context_manager_shutdown": ("_processes",),
    "ProcessPoolShutdownTest.test_del_shutdown": (
        "_processes",
        "_executor_manager_thread",
        "_call_queue",
    ),
    "ProcessPoolShutdownTest.test_shutdown_no_wait": (
        "_processes",
        "_executor_manager_thread",
        "_call_queue",
    ),
    "FailingInitializerMixin.test_initializer": ("_broken",),
    "ExecutorDeadlockTest.test_shutdown_deadlock_pickle": ("_executor_manager_thread",),
}

_MIXINS = {
    "test_process_pool": ("ProcessPoolExecutorTest",),
    "test_shutdown": ("ProcessPoolShutdownTest",),
    "test_wait": ("WaitTests",),
    "test_as_completed": ("AsCompletedTests",),
    "test_init": ("InitializerMixin", "FailingInitializerMixin"),
    "test_deadlock": ("ExecutorDeadlockTest",),
}
_CONTEXT_MIXINS = {
    "fork": "ProcessPoolForkMixin",
    "spawn": "ProcessPoolSpawnMixin",
    "forkserver": "ProcessPoolForkserverMixin",
}


def bind_executor_tests(
    executor_type: type[futures.Executor],
    *,
    source: str,
    module: str,
    start_methods: Sequence[str] = START_METHODS,
    denied: Mapping[str, str] = DENIED,
    future_type: type[futures.Future[Any]] = futures.Future,
) -> TestClasses:
    """The tests of `ProcessPoolExecutor`, once per start method, and those of `Future`.

    Args:
        executor_type: takes `max_workers`, `mp_context`, `initializer`, `initargs` and
            `max_tasks_per_child`, as `ProcessPoolExecutor` does.
        source: name of the module from which scripts import a class of the same name.
        module: name of the module in which the classes will be found.
        future_type: the class of the executor's futures; bound only if it is a class of its own.

    Raises:
        SuiteMissing: the suite is not installed.
    """
    parts = {name: suite(f"{SUITE}.{name}") for name in ("util", "test_future", *_MIXINS)}
    util = parts["util"]
    # Another class than the one under test, or test_hang_gh83386 takes it for the standard
    # library's, which it excuses.
    twin = type(executor_type.__name__, (executor_type,), {"__module__": module})
    shutdown = functools.partial(
        replaced,
        parts["test_shutdown"],
        futures=overlay(futures, ProcessPoolExecutor=twin),
        assert_python_ok=scripts_with(
            functools.partial(_importing, name=executor_type.__name__, source=source)
        ),
    )
    around: dict[str, Around] = {
        test: needing(*names, of=_executor) for test, names in PRIVATE.items()
    }
    bound: TestClasses = {}
    for method in start_methods:
        for part, mixins in _MIXINS.items():
            for mixin in mixins:
                stem = mixin.removesuffix("Mixin").removesuffix("Tests").removesuffix("Test")
                name = f"Test{stem}_{method}"
                bound[name] = bind(
                    name,
                    (
                        getattr(parts[part], mixin),
                        getattr(util, _CONTEXT_MIXINS[method]),
                        util.BaseTestCase,
                    ),
                    module=module,
                    attributes={"executor_type": executor_type},
                    contexts=(bare_main, *((shutdown,) if part == "test_shutdown" else ())),
                    denied=denied,
                    around=around,
                )
    if future_type is not futures.Future:
        bound["TestFuture"] = bind(
            "TestFuture",
            (parts["test_future"].FutureTests,),
            module=module,
            contexts=(functools.partial(_futures_of, future_type, util, parts["test_future"]),),
        )
    bound |= _resource_tests(parts["test_init"], bound, module)
    return bound


@contextlib.contextmanager
def _futures_of(future_type: type[futures.Future[Any]], util: Any, tests: Any) -> Iterator[None]:
    """The suite's own ready-made futures, and those it makes, are of this class."""
    named = type("Future", (future_type,), {})  # test_repr looks for this name
    with replaced(util, Future=named):
        ready = {
            name: util.create_future(future._state, future._exception, future._result)
            for name, future in vars(util).items()
            if name.endswith("_FUTURE")
        }
        present = {name: future for name, future in ready.items() if hasattr(tests, name)}
        with replaced(tests, Future=named, **present):
            yield


def _executor(case: Any) -> object:
    return case.executor


def _resource_tests(tests: Any, bound: TestClasses, module: str) -> TestClasses:
    """The test that runs the failing initializer's tests and looks for leaked resources."""
    cls = getattr(tests, "FailingInitializerResourcesTest", None)
    failing = {
        f"ProcessPool{method.capitalize()}FailingInitializerTest": test
        for method in ("spawn", "forkserver")
        if (test := bound.get(f"TestFailingInitializer_{method}")) is not None
    }
    if cls is None or len(failing) < 2:
        return {}
    name = "TestFailingInitializerResources"
    contexts = (functools.partial(replaced, tests, **failing),)
    return {name: bind(name, (cls,), module=module, contexts=contexts)}


def _importing(script: str, *, name: str, source: str) -> str:
    script = script.replace(
        f"from concurrent.futures import {name}", f"from {source} import {name}"
    )
    if "multiprocessing.set_start_method" in script:
        # test_hang_gh83386 forgets to import it: no process pool ever got that far.
        script = f"import multiprocessing\n{script}"
    return script
