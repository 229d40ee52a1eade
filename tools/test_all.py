"""Run the tests with every Python and library version that is supported, and a wheel by itself.

    make test-all                 or   python3 tools/bootstrap.py test-all
    make test-all ARGS="3.12 wheel"    only these

- `3.11`, `3.12`, ...: the suite on each Python that is found (on PATH, or as a version of pyenv);
- `oldest`: the suite with the oldest versions of the libraries that setup.cfg permits;
- `wheel`: a wheel, installed without extras into an environment of its own, against a server;
- `mixed`: client and worker of different Pythons.

Each has an environment in .venvs/, made anew when the project's requirements have changed. What
comes after `--` goes to pytest. It takes about as many times as long as `make test` as there are
Pythons, and needs the network once.
"""

from __future__ import annotations

import configparser
import contextlib
import glob
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENVS = ROOT / ".venvs"
OLDEST = 11
NEWEST_TRIED = 19
PYTEST = ("-m", "pytest", "-n", "3", "--dist", "loadfile", "-q")
# redis-py 5 leaves it to the garbage collector to close what could not be connected.
TOLERANT = (
    "-W",
    "ignore::ResourceWarning",
    "-W",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)


def find_pythons() -> dict[str, str]:
    """Version to path of each supported Python that starts."""
    found: dict[str, str] = {}
    pyenv = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    for minor in range(OLDEST, NEWEST_TRIED + 1):
        version = f"3.{minor}"
        candidates = [shutil.which(f"python{version}") or ""]
        candidates += sorted(glob.glob(f"{pyenv}/versions/{version}.*/bin/python"), reverse=True)
        for candidate in filter(None, candidates):
            # A version manager's launcher may be there for a Python that is not switched on.
            if version_of(candidate) == version:
                found[version] = candidate
                break
    return found


def version_of(python: str) -> str:
    code = "import sys, venv, ensurepip; print('{}.{}'.format(*sys.version_info[:2]))"
    with contextlib.suppress(OSError):
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
        return done.stdout.strip()
    return ""


def oldest_requirements() -> list[str]:
    """What setup.cfg requires, at the lowest version."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = config["options"]["install_requires"].splitlines()
    return [re.sub(r"\s*>=\s*", "==", line) for line in lines if line and not line.startswith("#")]


def environment(name: str, python: str, *requirements: str) -> str:
    """The Python of an environment in which these are installed."""
    folder = VENVS / name
    inside = str(folder / "bin" / "python")
    stamp = folder / "pressure-fingerprint"
    digest = hashlib.sha256(repr((python, requirements)).encode())
    digest.update((ROOT / "setup.cfg").read_bytes())
    wanted = digest.hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return inside
    print(f"Setting up .venvs/{name} ...", flush=True)
    subprocess.run([python, "-m", "venv", "--clear", str(folder)], check=True)
    pip = [inside, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    # Cleanly: settings for the outer environment are not meant for this one.
    subprocess.run([*pip, *requirements], check=True, cwd=ROOT)
    stamp.write_text(wanted)
    return inside


def run_suite(name: str, python: str, arguments: list[str]) -> int:
    inside = environment(name, python, "--editable", ".[test]")
    return subprocess.call([inside, *PYTEST, *arguments], cwd=ROOT)


def run_oldest(python: str, arguments: list[str]) -> int:
    inside = environment("oldest", python, "--editable", ".[test]", *oldest_requirements())
    return subprocess.call([inside, *PYTEST, *TOLERANT, *arguments], cwd=ROOT)


def run_wheel(python: str) -> int:
    with tempfile.TemporaryDirectory() as folder:
        build = [sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "--wheel-dir", folder]
        subprocess.run([*build, str(ROOT)], check=True)
        (wheel,) = glob.glob(f"{folder}/*.whl")
        # Always anew: the wheel is another one each time.
        shutil.rmtree(VENVS / "wheel", ignore_errors=True)
        inside = environment("wheel", python, wheel)
    with ordinary_server() as url:
        # Not from the checkout, so that it is the wheel that is imported.
        smoke = [inside, str(ROOT / "tools" / "smoke.py"), url]
        return subprocess.call(smoke, cwd=tempfile.gettempdir())


def run_mixed(pythons: dict[str, str]) -> int:
    versions = list(pythons)
    insides = [
        environment(version, pythons[version], "--editable", ".[test]")
        for version in (versions[0], versions[-1])
    ]
    status = 0
    with ordinary_server() as url:
        for client, worker in (insides, reversed(insides)):
            smoke = [client, str(ROOT / "tools" / "smoke.py"), url, "--worker", worker]
            status = status or subprocess.call(smoke, cwd=tempfile.gettempdir())
    return status


@contextlib.contextmanager
def ordinary_server() -> Iterator[str]:
    """A server that somebody has installed, on a socket of its own; else the embedded one."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        sys.path.insert(0, str(ROOT))
        from pressure import local_server

        with local_server() as url:
            yield url
        return
    with tempfile.TemporaryDirectory() as folder:
        socket = f"{folder}/s"
        server = subprocess.Popen(
            [program, "--port", "0", "--unixsocket", socket, "--save", "", "--dir", folder],
            stdout=subprocess.DEVNULL,
        )
        try:
            until = time.monotonic() + 20
            while not os.path.exists(socket) and time.monotonic() < until:
                time.sleep(0.02)
            yield f"unix://{socket}"
        finally:
            server.terminate()
            server.wait(20)


def jobs(pythons: dict[str, str], arguments: list[str]) -> dict[str, Callable[[], int]]:
    oldest = next(iter(pythons.values()))
    made: dict[str, Callable[[], int]] = {}
    for version, python in pythons.items():
        made[version] = lambda v=version, p=python: run_suite(v, p, arguments)  # type: ignore[misc]
    made["oldest"] = lambda: run_oldest(oldest, arguments)
    made["wheel"] = lambda: run_wheel(oldest)
    if len(pythons) > 1:
        made["mixed"] = lambda: run_mixed(pythons)
    return made


def main(argv: list[str]) -> int:
    at = argv.index("--") if "--" in argv else len(argv)
    wanted, arguments = argv[:at], argv[at + 1 :]
    available = jobs(find_pythons(), arguments)
    unknown = [name for name in wanted if name not in available]
    if unknown:
        print(f"There is no {unknown[0]}: {', '.join(available)}", file=sys.stderr)
        return 2
    outcomes = {}
    for name in wanted or available:
        print(f"\n=== {name}", flush=True)
        began = time.monotonic()
        try:
            status = available[name]()
        except subprocess.CalledProcessError as error:
            print(error, file=sys.stderr)
            status = error.returncode
        said = "passed" if status == 0 else f"FAILED (exit code {status})"
        outcomes[name] = f"{said} in {time.monotonic() - began:.0f} s"
        if status == 130:
            break
    print("\n" + "\n".join(f"{name:8} {outcome}" for name, outcome in outcomes.items()))
    return int(any("FAILED" in outcome for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
