"""Environments of the peers' own, made once: their requirements conflict with each other's."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

__all__ = ["python_with"]

HOME = Path(__file__).resolve().parents[1] / ".benchmarks"


def python_with(name: str, requirements: tuple[str, ...]) -> Path:
    """The Python of the environment `name`, in which the requirements are installed.

    Raises `subprocess.CalledProcessError` if they can't be.
    """
    if not requirements:
        return Path(sys.executable)
    home = HOME / name
    python = home / "bin" / "python"
    stamp = home / "installed"
    wanted = "\n".join((sys.version, *requirements))
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    shutil.rmtree(home, ignore_errors=True)
    venv.create(home, with_pip=True)
    command = [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    subprocess.run([*command, *requirements], check=True)
    stamp.write_text(wanted)
    return python
