#!/usr/bin/env python3
"""Set up the checkout's own environment and run one of the project's jobs in it.

    python3 tools/bootstrap.py demo [ARGS]    the main example, on real input
    python3 tools/bootstrap.py test [ARGS]    the tests (ARGS go to pytest)
    python3 tools/bootstrap.py test-all [...] the same on every Python found, and more: test_all.py
    python3 tools/bootstrap.py soak [ARGS]    everything at once under random faults: --minutes 5
                                              --seed 1 --server valkey|redis
    python3 tools/bootstrap.py lint           ruff and mypy
    python3 tools/bootstrap.py format         let ruff rewrite the sources
    python3 tools/bootstrap.py check [ARGS]   lint, import arrows, tests: before each commit
    python3 tools/bootstrap.py bench          measure everything beside its peers (an hour)
    python3 tools/bootstrap.py bench-quick    the same in minutes, without the peers
    python3 tools/bootstrap.py setup          only the set-up, with everything for development
    python3 tools/bootstrap.py clean          remove the environment, builds and caches

Needs Python 3.11 or newer and nothing else: no Redis, no make, no pip where Python brings
ensurepip. Everything is installed into .venv in the checkout, and only again when the
project's requirements or the interpreter changed.

This file is parsed by whichever Python is called python3, so it keeps to Python 3.6.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, NoReturn

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
STAMP = VENV / "pressure-setup.json"

OLDEST = (3, 11)
NEWEST_TRIED = 19  # python3.19 is the first name looked for on PATH

# What each job needs, smallest first: an environment made for one serves those before it.
LEVELS = {"demo": "local,progress", "test": "test", "dev": "dev"}
JOBS = {
    "demo": "demo",
    "test": "test",
    "test-all": "test",
    "soak": "test",
    "lint": "dev",
    "format": "dev",
    "check": "dev",
    "bench": "test",
    "bench-quick": "test",
    "setup": "dev",
}
TAKE_ARGS = ("demo", "test", "test-all", "soak", "check")


class SetupError(Exception):
    """The set-up can't go on; the text says what to do about it."""


def main(argv: List[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(str(__doc__).strip())
        return 0 if argv else 2
    job, args = argv[0], argv[1:]
    if job != "clean" and job not in JOBS:
        print("Unknown job {!r}; --help lists them.".format(job), file=sys.stderr)
        return 2
    if args and job not in TAKE_ARGS:
        print("{} takes no arguments.".format(job), file=sys.stderr)
        return 2
    if job == "clean":
        return clean()
    os.chdir(str(ROOT))
    try:
        if sys.version_info < OLDEST:
            run_with_newer_python(argv)
        ensure_environment(JOBS[job])
    except SetupError as error:
        print("Set-up failed: {}".format(error), file=sys.stderr)
        return 1
    return run_job(job, args)


def run_with_newer_python(argv: List[str]) -> NoReturn:
    """Start over with a newer Python from PATH; SetupError if there is none."""
    for minor in range(NEWEST_TRIED, OLDEST[1] - 1, -1):
        found = shutil.which("python3.{}".format(minor))
        # Version managers put launchers on PATH for Pythons that are not switched on.
        if found and new_enough(found):
            command = [found, str(Path(__file__).resolve()), *argv]
            if os.name == "nt":
                sys.exit(subprocess.call(command))
            os.execv(found, command)
    raise SetupError(
        "this is Python {}.{}, and no Python {}.{} or newer is on PATH.\n"
        "Install one (Debian, Ubuntu: apt-get install python3.11 python3.11-venv) and call it "
        "by name:\n    python3.11 tools/bootstrap.py {}".format(
            *sys.version_info[:2], *OLDEST, " ".join(argv)
        )
    )


def new_enough(python: str) -> bool:
    """Tell whether `python` starts and is new enough."""
    return succeeds([python, "-c", "import sys; sys.exit(sys.version_info < {})".format(OLDEST)])


def ensure_environment(level: str) -> None:
    """Make .venv serve `level`. A finished set-up is recognised without starting a process."""
    wanted = fingerprint()
    stamp = read_stamp()
    levels = list(LEVELS)
    if stamp.get("fingerprint") == wanted and PYTHON.exists():
        done = stamp.get("level")
        if done in levels and levels.index(done) >= levels.index(level):
            return
    print("Setting up .venv for {} ...".format(LEVELS[level]), flush=True)
    # A venv of another interpreter, or of a checkout that has moved, is made anew.
    if stamp.get("interpreter", interpreter()) != interpreter() or not new_enough(str(PYTHON)):
        make_venv()
    if STAMP.exists():
        STAMP.unlink()  # an interrupted installation must not pass for a finished one
    install = [*find_pip(), "install", "-qq", "--disable-pip-version-check"]
    environment = dict(os.environ, PIP_USER="0")
    requirement = ".[{}]".format(LEVELS[level])
    if subprocess.call([*install, "--editable", requirement], env=environment) != 0:
        raise SetupError("pip could not install {} (its own words are above).".format(requirement))
    write_stamp({"fingerprint": wanted, "interpreter": interpreter(), "level": level})


def make_venv() -> None:
    # Without pip, since where ensurepip is missing venv would stop half-way.
    if subprocess.call([sys.executable, "-m", "venv", "--clear", "--without-pip", str(VENV)]) != 0:
        raise SetupError(
            "Python's venv module does not work. {}".format(debian_hint("python{}.{}-venv"))
        )


def find_pip() -> List[str]:
    """A command that runs pip for .venv: its own, or one from outside."""
    own = [str(PYTHON), "-m", "pip"]
    if succeeds([*own, "--version"]):
        return own
    if succeeds([str(PYTHON), "-m", "ensurepip", "--default-pip"]):
        return own
    for outside in ([sys.executable, "-m", "pip"], ["pip3"], ["pip"]):
        command = [*outside, "--python", str(PYTHON)]  # pip 22.3 and later
        if succeeds([*command, "--version"]):
            return command
    raise SetupError(
        "this Python has neither ensurepip nor pip (22.3 or newer), so nothing can be installed. "
        + debian_hint("python{}.{}-venv")
    )


def debian_hint(package: str) -> str:
    return (
        "On Debian and Ubuntu:\n    apt-get install {}\n"
        "elsewhere install the package that brings venv and pip to this Python ({}).".format(
            package.format(*sys.version_info[:2]), sys.executable
        )
    )


def succeeds(command: List[str]) -> bool:
    try:
        return (
            subprocess.call(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            == 0
        )
    except OSError:
        return False


def interpreter() -> str:
    return "{} {} {}".format(sys.version, sys.base_prefix, ROOT)


def fingerprint() -> str:
    digest = hashlib.sha256(interpreter().encode())
    for name in ("setup.cfg", "pyproject.toml", "pressure/_version.py"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def read_stamp() -> Dict[str, Any]:
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(stamp: Dict[str, Any]) -> None:
    partial = STAMP.with_suffix(".partial")
    partial.write_text(json.dumps(stamp), encoding="utf-8")
    os.replace(str(partial), str(STAMP))


def run_job(job: str, args: List[str]) -> int:
    os.environ["PATH"] = os.pathsep.join([str(BIN), os.environ.get("PATH", os.defpath)])
    os.environ["VIRTUAL_ENV"] = str(VENV)
    python = str(PYTHON)
    # Most tests wait for something most of the time. A file's tests stay together, in their order.
    pytest = [python, "-m", "pytest", "-n", "4", "--dist", "loadfile"]
    ruff = [python, "-m", "ruff"]
    lint = [[*ruff, "check"], [*ruff, "format", "--check"], [python, "-m", "mypy"]]
    commands: Dict[str, List[List[str]]] = {
        "demo": [[python, "examples/index_stdlib.py", *args]],
        "test": [[*pytest, *args]],
        "test-all": [[python, "tools/test_all.py", *args]],
        "soak": [[python, "-m", "tests.soak", *args]],
        "lint": lint,
        "format": [[*ruff, "check", "--fix-only"], [*ruff, "format"]],
        "check": [*lint, [*pytest, "-q", "tests/unit/test_architecture.py"], [*pytest, *args]],
        "bench": benchmarks(python, "3", quick=False),
        "bench-quick": benchmarks(python, "1", quick=True),
        "setup": [],
    }
    if not commands[job]:
        return 0
    *earlier, last = commands[job]
    for command in earlier:
        print("$ {}".format(" ".join(command[1:])), flush=True)
        status = subprocess.call(command)
        if status != 0:
            return status
    if os.name == "nt":
        return subprocess.call(last)
    # Become the last command, so that signals and Ctrl-C reach it and nothing else.
    sys.stdout.flush()
    os.execv(last[0], last)


def benchmarks(python: str, rounds: str, quick: bool) -> List[List[str]]:
    run = [python, "-m"]
    smaller = ["--futures", "100000", "--mebibytes", "16"] if quick else []
    commands = [
        [*run, "benchmarks.executor", "--rounds", rounds],
        [*run, "benchmarks.queue_operations", "--rounds", rounds],
        [*run, "benchmarks.mp_queue", "--rounds", rounds],
        [*run, "benchmarks.executor_extremes", "--rounds", rounds, *smaller],
        [*run, "benchmarks.limits", "--rounds", rounds],
        [*run, "benchmarks.growth", "--rounds", rounds, *(["--quick"] if quick else [])],
    ]
    if not quick:
        commands += [
            [*run, "benchmarks.beside_peers", "--rounds", rounds],
            [*run, "benchmarks.plots"],
            [*run, "benchmarks.report"],
        ]
    return commands


def clean() -> int:
    folders = [
        ROOT / name
        for name in (
            ".venv",
            ".venvs",
            ".benchmarks",
            "build",
            "dist",
            ".pytest_cache",
            ".mypy_cache",
            ".ruff_cache",
            ".hypothesis",
        )
    ]
    folders += ROOT.glob("*.egg-info")
    for top in ("pressure", "tests", "examples", "tools"):
        folders += (ROOT / top).rglob("__pycache__")
    for folder in folders:
        shutil.rmtree(str(folder), ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
