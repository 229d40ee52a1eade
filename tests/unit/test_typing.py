"""What type checkers and people at a prompt learn of the package."""

from __future__ import annotations

import ast
import importlib
import inspect
import pydoc
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import pressure
import pressure.aio
import pressure.multiprocessing as mp
from pressure import DeadLetter, Options, PressureQueue, RedisExecutor, TaskFuture

ROOT = Path(__file__).resolve().parents[2]


def complaints(program: str, folder: Path) -> list[str]:
    """What mypy says of a program, one `line: what` each."""
    pytest.importorskip("mypy", reason="mypy is not installed")
    source = folder / "program.py"
    source.write_text(program, "utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--no-pretty", "--hide-error-context"]
    run = subprocess.run(
        [*command, "--cache-dir", str(folder), str(source)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode in (0, 1), run.stdout + run.stderr
    return [
        f"{line}: {said}"
        for line, said in re.findall(r"program\.py:(\d+): (?:error|note): (.*)", run.stdout)
    ]


def test_names_that_are_loaded_late_are_listed() -> None:
    assert set(pressure.__all__) <= set(dir(pressure))
    assert {"Queue", "SimpleQueue", "connection", "context"} <= set(dir(mp))
    told = pydoc.plain(pydoc.render_doc(pressure))
    for name in ("RedisExecutor", "TaskFuture", "current_executor", "register_by_value"):
        assert re.search(rf"^    (class )?{name}\(", told, re.MULTILINE), name


def test_what_can_be_used_is_described() -> None:
    """In the place where help() and editors look."""
    for thing, words in (
        (RedisExecutor.options, [field.name for field in fields(Options)]),
        (TaskFuture.cancel, ["withdrawn", "round trip"]),
        (PressureQueue.dead_letters, ["replay", "purge"]),
        (pressure.aio.PressureQueue.dead_letters, ["replay", "purge"]),
        (DeadLetter, ["dead_letters.replay"]),
    ):
        described = inspect.getdoc(thing) or ""
        assert [word for word in words if word not in described] == []


NAMES = """\
import multiprocessing
import pressure
import pressure.multiprocessing as mp

pressure.RedisExecuter()
mp.Porcess(target=print)
mp.shared_memory.SharedMemory("x").unlink()
mp.connection.Pipe()
reveal_type(pressure.current_executor().stats().workers)
"""


@pytest.mark.timeout(300)
def test_mypy_knows_all_names_and_no_others(tmp_path: Path) -> None:
    program = NAMES
    names = [f"pressure.{name}" for name in pressure.__all__]
    names += [f"mp.{name}" for name in mp.__all__]
    program += "".join(f"{name}\n" for name in names)
    said = complaints(program, tmp_path)
    assert [text.partition(" ")[0] for text in said] == ["5:", "6:", "9:"]
    assert '"RedisExecuter"; maybe "RedisExecutor"?' in said[0]
    assert '"Porcess"' in said[1]
    assert "Any" not in said[2]


TASKS = """\
from typing import Any
from collections.abc import Iterator
from concurrent.futures import Executor
from functools import partial
from pressure import RedisExecutor, TaskFuture, current_executor

def square(x: int, *, times: int = 1) -> int:
    return x * x * times

async def later(x: int) -> str:
    return str(x)

ex = RedisExecutor()
one: TaskFuture[int] = ex.submit(square, 3, times=2)
number: int = one.result()
two: TaskFuture[str] = ex.options(timeout=3, retry_for=OSError).submit(later, 3)
three: TaskFuture[int] = current_executor().submit(lambda: 3)
four: TaskFuture[int] = ex.submit(partial(square, 3))
numbers: Iterator[int] = ex.map(square, [3])
texts: Iterator[str] = ex.map(later, [3], chunksize=2, progress=True)
with ex.share(3) as shared:
    five: TaskFuture[int] = ex.submit(square, shared, times=shared)
standard: Executor = ex

ex.submit(square, "3")
ex.submit(square)
ex.submit(square, 3, tmies=3)
ex.submit(later, "3")
wrong: TaskFuture[str] = ex.submit(square, 3)
words: Iterator[str] = ex.map(square, [3])
ex.options(tiemout=3)
ex.options(timeout="3")
"""


@pytest.mark.timeout(300)
def test_mypy_knows_what_tasks_take_and_return(tmp_path: Path) -> None:
    said = complaints(TASKS, tmp_path)
    # One line or more of what may be meant follow to some.
    lines = {int(text.partition(":")[0]) for text in said}
    first = TASKS.splitlines().index('ex.submit(square, "3")') + 1
    assert lines == set(range(first, len(TASKS.splitlines()) + 1)), said


POOLS = """\
from collections.abc import Iterator
import pressure.multiprocessing as mp
from pressure.multiprocessing.connection import Client, Connection
from pressure.multiprocessing.context import BaseContext, SpawnContext
from pressure.multiprocessing.managers import BaseManager, DictProxy
from pressure.multiprocessing.pool import ApplyResult, AsyncResult, MapResult, Pool
from pressure.multiprocessing.process import BaseProcess
from pressure.multiprocessing.reduction import ForkingPickler
from pressure.multiprocessing.shared_memory import SharedMemory
from pressure.multiprocessing.sharedctypes import Synchronized
from pressure.multiprocessing.synchronize import Event, Lock
from pressure.multiprocessing.util import Finalize

def square(x: int) -> int:
    return x * x

def show(numbers: list[int]) -> None:
    print(numbers, SharedMemory(create=True, size=1).buf, isinstance(mp, Connection))

pool = mp.Pool(2)
number: int = pool.apply(square, (3,))
one: ApplyResult[int] = pool.apply_async(square, (3,), callback=print)
two: AsyncResult[int] = one
three: MapResult[int] = pool.map_async(square, [3], callback=show)
numbers: list[int] = pool.map(square, [3]) + three.get() + pool.starmap(square, [(3,)])
some: Iterator[int] = pool.imap(square, [3])
more: int = pool.imap_unordered(square, [3]).next(timeout=3) + sum(r.get() for r in [one, two])

queue = mp.Queue(3)
queue.put(number)
typed: mp.JoinableQueue[int] = mp.JoinableQueue()

words: AsyncResult[str] = pool.apply_async(square, (3,))
pool.map(square, ["3"])
pool.map_async(square, [3], callback=len(3))
SharedMemory(size="3")
typed.put("3")
"""


@pytest.mark.timeout(300)
def test_mypy_knows_what_pools_return_and_the_standard_modules(tmp_path: Path) -> None:
    said = complaints(POOLS, tmp_path)
    lines = {int(text.partition(":")[0]) for text in said}
    first = POOLS.splitlines().index("words: AsyncResult[str] = pool.apply_async(square, (3,))") + 1
    assert lines == set(range(first, len(POOLS.splitlines()) + 1)), said


def test_stubs_name_what_the_standard_modules_have() -> None:
    stubs = sorted(Path(mp.__file__).parent.glob("*.pyi"))
    assert len(stubs) > 5
    for stub in stubs:
        standard = importlib.import_module(f"multiprocessing.{stub.stem}")
        for node in ast.parse(stub.read_text("utf-8")).body:
            assert isinstance(node, ast.ImportFrom)
            assert node.module == standard.__name__
            named = [name.name for name in node.names if name.name != "*"]
            assert [name for name in named if not hasattr(standard, name)] == []
