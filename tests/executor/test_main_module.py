"""What is defined in `__main__`: for local workers it is the same in functions that go by value and
in what goes by name, if they have it at all."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.executor.crews import PATIENCE, ROOT

METHODS = ("fork", "spawn", "forkserver")

CLASSES = """
    import dataclasses
    import enum
    import functools
    import multiprocessing
    import sys

    import pressure
    import pressure.multiprocessing

    @dataclasses.dataclass(frozen=True)
    class Point:
        x: int

        class Inner:
            pass

    class Color(enum.Enum):
        RED = 1

    class Stop(Exception):
        pass

    NAMES = {Color.RED: "red"}

    def stop():
        raise Stop

    def ask(executor, *task):
        return executor.submit(*task).result(30)

    def check(executor):
        assert ask(executor, lambda p: isinstance(p, Point), Point(1))
        assert ask(executor, lambda i: type(i) is Point.Inner, Point.Inner())
        assert ask(executor, lambda p: p in {Point(1)}, Point(1))
        assert ask(executor, lambda c: c is Color.RED and NAMES[c] == "red", Color.RED)
        assert ask(executor, functools.partial(lambda p, q: p == q, Point(1)), Point(1))
        assert all(executor.map(lambda c: c is Color.RED, [Color.RED] * 3, chunksize=2))

        def caught(function):
            try:
                function()
            except Stop:
                return True

        assert ask(executor, caught, stop)
        assert ask(executor, lambda: caught(lambda: stop()))

    def check_results(executor):
        with executor.share(Point(1)) as shared:
            assert ask(executor, lambda p: p == Point(1), shared)

        def make():
            class Special(Point):
                pass

            return Special(3), lambda: Point(4)

        assert ask(executor, lambda: Point(2)) == Point(2)
        special, function = ask(executor, make)
        assert isinstance(special, Point) and function() == Point(4)

    def nested():
        check(pressure.current_executor())

    if __name__ == "__main__":
        class Late:
            pass

        context = multiprocessing.get_context(sys.argv[1])
        with pressure.RedisExecutor(1, mp_context=context) as executor:
            check(executor)
            check_results(executor)
            ask(executor, nested)
            # The workers have no class of this name.
            Later = type("Later", (Late,), {})
            assert type(ask(executor, lambda: Later())) is Later
            if sys.argv[1] != "fork":
                assert type(ask(executor, lambda: Late())) is Late
        with pressure.multiprocessing.get_context(sys.argv[1]).Pool(1) as pool:
            assert pool.map(lambda c: c is Color.RED, [Color.RED] * 2) == [True] * 2
            assert pool.apply(lambda: type(Later()).__name__) == "Later"
        print("fine")
"""


def run(*command: str, cwd: Path | None = None) -> None:
    done = subprocess.run(
        [sys.executable, *command],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,
    )
    assert (done.stdout, done.returncode) == ("fine\n", 0), done.stderr


@pytest.mark.parametrize("method", METHODS)
def test_classes_of_a_script_are_one_in_functions_and_arguments(
    method: str, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(CLASSES))
    run(str(script), method)


PACKAGE = """
    import enum
    import multiprocessing
    import sys

    import pressure

    class Point:
        def __init__(self, x):
            self.x = x

    class Color(enum.Enum):
        RED = 1

    def shifted(point):
        return Point(point.x + 1)

    if __name__ == "__main__":
        context = multiprocessing.get_context(sys.argv[1])
        with pressure.RedisExecutor(1, mp_context=context) as executor:
            result = executor.submit(shifted, Point(1)).result(30)
            assert type(result) is Point and result.x == 2
            assert executor.submit(lambda c: c is Color.RED, Color.RED).result(30)
            assert executor.submit(lambda: Color.RED).result(30) is Color.RED
        print("fine")
"""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("as_module", [True, False], ids=["module", "folder"])
def test_a_main_module_that_workers_do_not_import(
    method: str, as_module: bool, tmp_path: Path
) -> None:
    """`multiprocessing` skips the `__main__` of packages and folders."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(textwrap.dedent(PACKAGE))
    run(*(("-m", "package") if as_module else (str(package),)), method, cwd=tmp_path)
