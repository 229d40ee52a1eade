"""How code travels: by name, by value, and what is said when it can't."""

from __future__ import annotations

import asyncio
import contextvars
import os
import pickle
import socket
import subprocess
import sys
import textwrap
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import cloudpickle
import pytest

from pressure import python_versions
from pressure.executor import (
    RedisExecutor,
    ResultPayloadError,
    TaskPayloadError,
    by_value,
    payloads,
    pickling,
    register_by_value,
)
from tests.executor.crews import MODES, PATIENCE, ROOT, executor
from tests.support.servers import ServerProcess

# What runs in workers


async def add_soon(a: int, b: int) -> int:
    await asyncio.sleep(0)
    return a + b


async def fail_soon() -> None:
    await asyncio.sleep(0)
    raise KeyError("soon")


async def leave_something_running() -> str:
    background = asyncio.create_task(asyncio.sleep(PATIENCE))
    await asyncio.sleep(0)
    return str(background.done())


_variable: contextvars.ContextVar[int] = contextvars.ContextVar("_variable", default=0)


async def count_context() -> int:
    _variable.set(_variable.get() + 1)
    return _variable.get()


def make_coroutine(a: int) -> Any:
    return add_soon(a, 1)


def open_file() -> Any:
    return open(__file__)


def find(name: str) -> type:
    kinds: list[type] = [type({}.keys()), type(iter([]))]
    return next(kind for kind in kinds if kind.__name__ == name)


class Unpicklable(Exception):
    def __init__(self, words: str) -> None:
        super().__init__(words)
        self.lock = threading.Lock()


def raise_unpicklable() -> None:
    raise Unpicklable("what it says")


class Fragile(Exception):
    """Pickles, and then can't be made from its arguments."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__("only one")


def raise_fragile() -> None:
    raise Fragile(1, 2)


@pytest.fixture(scope="module", params=MODES)
def ex(request: pytest.FixtureRequest, server: ServerProcess) -> Iterator[RedisExecutor]:
    name = f"code-{os.urandom(6).hex()}"
    with executor(request.param, server.url, name, 1) as made:
        # So that the workers are there before a test makes a module of its own.
        made.submit(add_soon, 1, 1).result(PATIENCE)
        yield made


# Coroutine functions


def test_coroutine_functions_run_to_their_end(ex: RedisExecutor) -> None:
    assert ex.submit(add_soon, 1, b=2).result(PATIENCE) == 3
    assert ex.submit(make_coroutine, 1).result(PATIENCE) == 2
    assert list(ex.map(add_soon, range(5), range(5))) == [0, 2, 4, 6, 8]
    assert list(ex.map(add_soon, range(5), range(5), chunksize=2)) == [0, 2, 4, 6, 8]
    with pytest.raises(KeyError, match="soon") as caught:
        ex.submit(fail_soon).result(PATIENCE)
    assert "fail_soon" in str(caught.value.__cause__)


def test_each_coroutine_has_a_loop_of_its_own(ex: RedisExecutor) -> None:
    assert ex.submit(leave_something_running).result(PATIENCE) == "False"
    assert [ex.submit(count_context).result(PATIENCE) for _ in range(3)] == [1, 1, 1]


# By value


def test_local_functions_classes_and_recursion(ex: RedisExecutor) -> None:
    def factorial(n: int) -> int:
        return 1 if n < 2 else n * factorial(n - 1)

    class Point:
        def __init__(self, x: int) -> None:
            self.x = x

        def shifted(self, by: int) -> Point:
            return Point(self.x + by)

    assert ex.submit(factorial, 10).result(PATIENCE) == 3628800
    assert ex.submit(Point(1).shifted, 2).result(PATIENCE).x == 3
    assert type(ex.submit(Point, 2).result(PATIENCE)) is Point


MAIN = """
    import sys
    from pressure.executor import RedisExecutor

    FACTOR = 2
    TABLE = {"a": 1}

    class Shape:
        sides = 3
        def area(self):
            return self.sides * FACTOR

    class Square(Shape):
        sides = 4

    def scale(x):
        return x * FACTOR + TABLE["a"]

    def fibonacci(n):
        return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

    def even(n):
        return n == 0 or odd(n - 1)

    def odd(n):
        return n != 0 and even(n - 1)

    def main():
        global FACTOR, helper
        with RedisExecutor(url=sys.argv[1], queue=sys.argv[2]) as ex:
            assert ex.submit(scale, 5).result(30) == 11
            FACTOR = 3
            assert ex.submit(scale, 5).result(30) == 16
            TABLE["a"] = 2
            assert ex.submit(scale, 5).result(30) == 17
            assert ex.submit(fibonacci, 10).result(30) == 55
            assert ex.submit(even, 11).result(30) is False
            square = ex.submit(Square).result(30)
            assert type(square) is Square and isinstance(square, Shape)
            assert ex.submit(square.area).result(30) == 12
            assert ex.submit(lambda: Square().area()).result(30) == 12
            assert list(ex.map(lambda shape: shape.sides, [Shape(), square])) == [3, 4]
        print("fine")

    if __name__ == "__main__":
        main()
"""


def test_what_is_defined_in_main(server: ServerProcess, queue_name: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(MAIN))
    with executor("daemon", server.url, queue_name, 1):
        done = subprocess.run(
            [sys.executable, str(script), server.url, queue_name],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    assert (done.stdout, done.returncode) == ("fine\n", 0), done.stderr


# Modules of one's own


@pytest.fixture
def make_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], types.ModuleType]]:
    """Makes modules that only this process can import."""
    monkeypatch.syspath_prepend(str(tmp_path))
    made: list[types.ModuleType] = []

    def make(source: str) -> types.ModuleType:
        name = f"module_{os.urandom(6).hex()}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        made.append(__import__(name))
        return made[-1]

    yield make
    for module in made:
        sys.modules.pop(module.__name__, None)
        if module.__name__ in by_value._names:
            cloudpickle.unregister_pickle_by_value(module)
            by_value._names.remove(module.__name__)
            by_value.ALSO.remove(module.__name__.encode())


SOURCE = """
    BASE = 10

    class Thing:
        def __init__(self, value):
            self.value = value

    def helper(x):
        return x + BASE

    def work(x):
        return Thing(helper(x))
"""


def test_a_missing_module_is_named_with_the_host_and_what_to_do(
    ex: RedisExecutor, make_module: Callable[[str], types.ModuleType]
) -> None:
    module = make_module(SOURCE)
    for future in (ex.submit(module.work, 1), ex.submit(len, [module.Thing(1)])):
        with pytest.raises(TaskPayloadError) as caught:
            future.result(PATIENCE)
        said = str(caught.value)
        assert module.__name__ in said
        assert f"{socket.gethostname()}:" in said
        assert "install" in said and "register_by_value" in said
    assert ex.submit(len, "abc").result(PATIENCE) == 3


def test_a_module_by_value(
    ex: RedisExecutor, make_module: Callable[[str], types.ModuleType]
) -> None:
    module = make_module(SOURCE)
    with pytest.raises(TaskPayloadError):
        ex.submit(module.work, 1).result(PATIENCE)
    register_by_value(module)
    result = ex.submit(module.work, 1).result(PATIENCE)
    assert type(result) is module.Thing
    assert result.value == 11
    assert ex.submit(len, [module.Thing(1)]).result(PATIENCE) == 1
    module.BASE = 20  # type: ignore[attr-defined]
    assert ex.submit(module.work, 1).result(PATIENCE).value == 21

    def use() -> Any:
        return module.helper(2)

    assert ex.submit(use).result(PATIENCE) == 22
    module.BASE = 30  # type: ignore[attr-defined]
    assert ex.submit(use).result(PATIENCE) == 32


def test_a_name_that_the_workers_module_lacks(
    ex: RedisExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def newer() -> None: ...

    newer.__module__, newer.__qualname__ = "textwrap", "newer"
    monkeypatch.setattr(textwrap, "newer", newer, raising=False)
    with pytest.raises(TaskPayloadError, match=r"newer.*another version of that module"):
        ex.submit(newer).result(PATIENCE)


def test_register_by_value_takes_modules_only() -> None:
    with pytest.raises(TypeError, match="module"):
        register_by_value("textwrap")  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        register_by_value(types.ModuleType("never_imported"))


# Versions of Python


def test_code_of_another_python_is_refused(
    ex: RedisExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = f"{sys.version_info[0]}.{sys.version_info[1]}"
    monkeypatch.setattr(python_versions, "_HERE", bytes((3, 99)))
    for future in (ex.submit(lambda: 1), ex.submit(list, [lambda: 2])):
        with pytest.raises(TaskPayloadError) as caught:
            future.result(PATIENCE)
        assert "Python 3.99" in str(caught.value) and f"Python {ours}" in str(caught.value)
        assert f"{socket.gethostname()}:" in str(caught.value)
    # What travels by name is as good as ever.
    assert ex.submit(len, "abc").result(PATIENCE) == 3


def test_a_result_of_another_python_is_refused(
    ex: RedisExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_function() -> Any:
        return lambda: 1

    packed = pickling.dumps(make_function)
    assert isinstance(packed, bytes)
    future = ex.submit(make_function)
    assert future.exception(PATIENCE) is None
    monkeypatch.setattr(python_versions, "_HERE", bytes((3, 99)))
    with pytest.raises(payloads.PythonVersionError, match=r"3\.99"):
        payloads.loads(packed)


# Open files


def test_an_open_file_is_refused(ex: RedisExecutor, tmp_path: Path) -> None:
    with (tmp_path / "text").open("w+") as file:
        for future in (ex.submit(repr, file), ex.submit(lambda: file.name), ex.submit(open_file)):
            with pytest.raises(TypeError, match=r"cannot pickle '_io\.TextIOWrapper' object"):
                future.result(PATIENCE)


# Exceptions


@pytest.mark.parametrize("kind", [type({}.keys()), type(iter([]))])
def test_a_builtin_type_without_a_name_is_refused(ex: RedisExecutor, kind: type) -> None:
    name = kind.__name__
    said = f"Can't pickle <class '{name}'>: .*{name}"
    for function, args in ((repr, (kind,)), (repr, ([kind],)), (lambda: kind, ()), (find, (name,))):
        future: Any = ex.submit(cast(Any, function), *args)
        with pytest.raises(pickle.PicklingError, match=said):
            future.result(PATIENCE)
    # Of those with a name elsewhere cloudpickle knows many.
    assert ex.submit(lambda: types.GeneratorType).result(PATIENCE) is types.GeneratorType
    assert ex.submit(lambda: type(None)).result(PATIENCE) is type(None)


def test_an_exception_that_does_not_pickle(ex: RedisExecutor) -> None:
    with pytest.raises(ResultPayloadError) as caught:
        ex.submit(raise_unpicklable).result(PATIENCE)
    assert "Unpicklable: what it says" in str(caught.value)
    assert f"on worker {socket.gethostname()}:" in str(caught.value)
    assert "__reduce__" in str(caught.value)
    assert "raise_unpicklable" in str(caught.value.__cause__)


def test_an_exception_that_does_not_unpickle(ex: RedisExecutor) -> None:
    with pytest.raises(ResultPayloadError) as caught:
        ex.submit(raise_fragile).result(PATIENCE)
    assert "Fragile" in str(caught.value)
    assert f"on worker {socket.gethostname()}:" in str(caught.value)
    assert "super().__init__()" in str(caught.value)
