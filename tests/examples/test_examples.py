"""Each program in examples/ runs to its end, says what it should, and leaves no process behind."""

from __future__ import annotations

import contextlib
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
LIMIT = 90.0  # seconds for one example; a guard against a hang, not a measurement
EXIT_LIMIT = 15.0  # seconds for the processes that an example started to follow it

pytestmark = pytest.mark.timeout(LIMIT + EXIT_LIMIT + 15)


def run_example(name: str, folder: Path, *args: str) -> str:
    """Run examples/`name` in `folder` as a user would and return what it printed.

    The output goes to files, since a process left behind would keep a pipe open for ever.
    """
    environment = {key: value for key, value in os.environ.items() if key[:9] != "PRESSURE_"}
    environment["PYTHONPATH"] = str(ROOT)
    output, errors = folder / "stdout.txt", folder / "stderr.txt"
    with output.open("wb") as out, errors.open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, str(EXAMPLES / name), *args],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    left_behind = False
    try:
        status: int | str = process.wait(LIMIT)
        left_behind = not group_ends(process.pid, EXIT_LIMIT)
    except subprocess.TimeoutExpired:
        status = f"still running after {LIMIT:.0f} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(EXIT_LIMIT)
    printed = output.read_text("utf-8")
    told = f"{name}: {status}\n{printed}\n{errors.read_text('utf-8')}"
    assert status == 0, told
    assert not left_behind, f"processes outlived the example\n{told}"
    return printed


def group_ends(group: int, limit: float) -> bool:
    """Wait until no process of `group` runs; False if some do after `limit` seconds."""
    deadline = time.monotonic() + limit
    while group_runs(group):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def group_runs(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    if not sys.platform.startswith("linux"):
        return True
    # In a container whose first process reaps nobody, orphans stay as zombies for ever.
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, process_group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(process_group) == group and state not in "ZX":
                return True
    return False


def test_every_example_has_a_test() -> None:
    names = {path.name for path in EXAMPLES.glob("*.py")}
    source = Path(__file__).read_text("utf-8")
    assert names == set(re.findall(r'run_example\(\s*"(\w+\.py)"', source))


def test_index_stdlib_agrees_with_a_serial_run(tmp_path: Path) -> None:
    printed = run_example("index_stdlib.py", tmp_path, "--limit", "150", "--workers", "2")
    assert "0 of 150 files differ" in printed
    assert re.search(r"^sys +\d", printed, re.MULTILINE), printed


def test_index_stdlib_counts_right(tmp_path: Path) -> None:
    """The serial run can't tell a wrong count from a right one; a file with known facts can."""
    path = tmp_path / "known.py"
    path.write_text(
        "import os.path, sys\n"
        "from collections.abc import Set\n"
        "from . import sibling\n"
        "def outer():\n"
        "    async def inner():\n"
        "        return len(str(1))\n"
        "    return inner\n"
    )
    broken = tmp_path / "broken.py"
    broken.write_text("def :\n")
    example = SimpleNamespace(**runpy.run_path(str(EXAMPLES / "index_stdlib.py")))

    facts = example.index_file(str(path))

    assert facts.lines == 7
    assert facts.imports == Counter(["os", "sys", "collections"])
    assert facts.calls == Counter(["len", "str"])
    assert sorted(facts.functions) == [(2, "known.inner"), (4, "known.outer")]
    assert example.index_file(str(broken)).functions == []


def test_producer_consumer_prints_what_was_put(tmp_path: Path) -> None:
    assert run_example("producer_consumer.py", tmp_path) == "hello\ngoodbye\n"


def test_swap_process_pool_gives_the_same_answer(tmp_path: Path) -> None:
    printed = run_example("swap_process_pool.py", tmp_path)
    assert "ProcessPoolExecutor and RedisExecutor agree" in printed


def test_two_machines_share_the_work_and_end_in_order(tmp_path: Path) -> None:
    printed = run_example("two_machines.py", tmp_path)
    for machine in ("left", "right"):
        assert f"{machine} ended with code 0" in printed
        assert re.search(rf"^{machine} +process \d+: [1-9]", printed, re.MULTILINE), printed
