"""The package as users have it: built, and imported from somewhere else.

`make test-all` does the same with a real wheel, in an environment of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from tools import test_all

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 60.0


def run(*command: str, path: Iterable[Path] = (), cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a wheel of the checkout would hold."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "pressure", source / "pressure", ignore=ignored)
    build = "import setuptools; setuptools.setup()"
    run("-c", build, "-q", "build", "--build-lib", str(target), cwd=source)
    return target


def test_all_files_are_built(installed: Path) -> None:
    def files(root: Path) -> set[str]:
        found = (path.relative_to(root) for path in (root / "pressure").rglob("*"))
        return {str(path) for path in found if path.suffix in (".py", ".lua", ".typed")}

    assert files(installed) == files(ROOT)


def test_what_a_user_does_first(installed: Path, url: str, tmp_path: Path) -> None:
    smoke = str(ROOT / "tools" / "smoke.py")
    said = run(smoke, url, path=[installed], cwd=tmp_path)
    assert f"from {installed}" in said
    assert said.rstrip().endswith("ok")


def test_the_jobs_of_test_all() -> None:
    here = "{}.{}".format(*sys.version_info[:2])
    pythons = {here: sys.executable, "3.99": "/nowhere"}
    assert list(test_all.jobs(pythons, [])) == [here, "3.99", "oldest", "wheel", "mixed"]
    assert test_all.version_of("/nowhere") == ""
    assert test_all.version_of(sys.executable) == here
    requirements = test_all.oldest_requirements()
    assert {text.partition("==")[0] for text in requirements} >= {"redis", "hiredis", "click"}
