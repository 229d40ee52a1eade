"""Binds test classes of the installed `test` package to replacement classes.

CPython writes one suite per contract and mixes it with what it runs on: `_TestQueue` plus
`ProcessesMixin`, `ExecutorTest` plus `ProcessPoolSpawnMixin`. `bind` makes one more such
combination: the suite's class stays as it is and the attributes and module globals through
which it finds the class under test are replaced, for as long as the test class runs.

What can't apply is listed with its reason, never dropped silently: a denied test is reported
as skipped. The functions that know one suite each are in `bind_queue`, `bind_multiprocessing`
and `bind_executor`; nothing in here needs pytest, so child processes may import it cheaply.
"""

from __future__ import annotations

import contextlib
import copyreg
import functools
import importlib
import operator
import sys
import types
import unittest
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

TestClasses = dict[str, type[unittest.TestCase]]
"""Bound classes by name, fit for `globals().update(...)` in a test module."""

Around = Callable[[Any], AbstractContextManager[object]]
"""Given the running test case, makes the context in which one test runs; may raise SkipTest."""


class SuiteMissing(Exception):
    """The interpreter was installed without this part of its tests; the text says which."""


def suite(name: str) -> Any:
    """The installed test module `name`.

    Raises:
        SuiteMissing: it is not installed, or skips itself on this platform.
    """
    try:
        return importlib.import_module(name)
    except ImportError as exc:
        version = ".".join(map(str, sys.version_info[:3]))
        raise SuiteMissing(f"Python {version} is installed without {name} ({exc})") from exc
    except unittest.SkipTest as exc:
        raise SuiteMissing(f"{name} skips itself: {exc}") from exc


def overlay(real: types.ModuleType, **replaced: object) -> types.ModuleType:
    """A stand-in for module `real` with some names replaced; all others are looked up in it."""
    shadow = types.ModuleType(real.__name__, real.__doc__)
    shadow.__dict__.update(replaced)
    shadow.__dict__["__getattr__"] = functools.partial(getattr, real)
    return shadow


class _Bound(type):
    """Type of the bound classes, so that they pickle as the combination they stand for.

    Suites send bound class methods to child processes. Pickled by its own name, the class
    would make every child import the module of tests that bound it; built again from CPython's
    parts it needs nothing but the `test` package there.
    """

    parts: tuple[type, ...] = ()


def _reduce_bound(cls: _Bound) -> tuple[object, ...]:
    if len(cls.parts) == 1:
        # The class itself, which the child can pass on to a child of its own.
        return operator.getitem, (cls.parts, 0)
    return type, (cls.__name__, cls.parts, {})


copyreg.pickle(_Bound, _reduce_bound)  # type: ignore[arg-type]


class _InContexts:
    """First base of every bound class: enters the class's contexts around everything else.

    Not a TestCase itself: that would move TestCase before the suite's mixins.
    """

    contexts: tuple[Callable[[], AbstractContextManager[object]], ...] = ()

    @classmethod
    def setUpClass(cls) -> None:
        case: Any = cls
        for context in cls.contexts:
            case.enterClassContext(context())
        following: Any = super()
        following.setUpClass()


def names_of_tests(cls: type) -> list[str]:
    """Names of all tests of a class or mixin, in alphabetical order."""
    loader: Any = unittest.TestLoader()
    return list(loader.getTestCaseNames(cls))


def bind(
    name: str,
    parts: tuple[type, ...],
    *,
    module: str,
    attributes: Mapping[str, object] | None = None,
    contexts: Iterable[Callable[[], AbstractContextManager[object]]] = (),
    denied: Mapping[str, str] | None = None,
    around: Mapping[str, Around] | None = None,
    only: Callable[[str], bool] = lambda test: True,
) -> type[unittest.TestCase]:
    """A test class called `name` that runs the tests of `parts[0]`.

    Args:
        parts: the suite's class, then the mixins it needs, as CPython would combine them.
        module: name of the module in which the class will be found.
        attributes: class attributes that replace those of the parts.
        contexts: entered, in this order, while the class runs.
        denied: reasons by "Class.test" for tests that are reported as skipped.
        around: contexts by "Class.test" for single tests.
        only: which tests to take; the others belong to another class under test.
    """
    first = parts[0]
    namespace: dict[str, object] = dict(attributes or {})
    for test in names_of_tests(first):
        original = getattr(first, test)
        key = f"{first.__name__}.{test}"
        if not only(test):
            namespace[test] = None
        elif denied and key in denied:
            namespace[test] = _skipped(test, denied[key])
        elif around and key in around:
            namespace[test] = _surrounded(original, around[key])
    namespace |= {"__module__": module, "parts": parts, "contexts": tuple(contexts)}
    bound = _Bound(name, (_InContexts, *parts), namespace)
    return bound  # type: ignore[return-value]


def _skipped(test: str, reason: str) -> Callable[[unittest.TestCase], None]:
    def stand_in(self: unittest.TestCase) -> None:
        """Never runs."""

    stand_in.__name__ = test
    return unittest.skip(reason)(stand_in)


def _surrounded(original: Callable[[Any], object], around: Around) -> Callable[[Any], None]:
    @functools.wraps(original)
    def run(self: Any) -> None:
        with around(self):
            original(self)

    return run


def needing(*attributes: str, of: Callable[[Any], object]) -> Around:
    """Skips a test that looks at private attributes which the object under test has not."""

    @contextlib.contextmanager
    def check(case: Any) -> Iterator[None]:
        absent = [name for name in attributes if not hasattr(of(case), name)]
        if absent:
            raise unittest.SkipTest(f"looks at private attributes: {', '.join(absent)}")
        yield

    return check


def replaced(target: object, **names: object) -> AbstractContextManager[object]:
    """Module or class `target` with these attributes replaced."""
    multiple: Any = mock.patch.multiple
    context: AbstractContextManager[object] = multiple(target, **names)
    return context


@contextlib.contextmanager
def bare_main() -> Iterator[None]:
    """Hides the program that runs the tests from the processes that the tests spawn.

    They would otherwise import it, pytest and all, before every target.
    """
    program = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = program


def scripts_with(rewrite: Callable[[str], str]) -> Callable[..., object]:
    """An `assert_python_ok` that passes each script through `rewrite` before it runs it.

    The suites run scripts isolated (`python -I`), that is without the checkout on their path;
    this one gives them the path of the running process.
    """
    real = suite("test.support.script_helper").assert_python_ok

    def assert_python_ok(*args: str, **environment: object) -> object:
        *options, script = args
        prelude = f"import sys; sys.path[:0] = {sys.path!r}\n"
        if options:
            return real(*options, prelude + rewrite(script), **environment)
        with open(script, encoding="utf-8") as source:
            text = source.read()
        with open(script, "w", encoding="utf-8") as source:
            source.write(prelude + rewrite(text))
        return real(script, **environment)

    return assert_python_ok
