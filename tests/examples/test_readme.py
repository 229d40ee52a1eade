"""What README.md shows can be run, and prints what it promises."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pressure

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 60.0


def blocks(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def run(argv: list[str], **env: str) -> str:
    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            **env,
        },
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_queue(tmp_path: Path) -> None:
    script = tmp_path / "words.py"
    script.write_text(blocks("python")[0])
    assert run([sys.executable, str(script)]) == "hello\ngoodbye\n"


@pytest.mark.skipif(not hasattr(pressure, "RedisExecutor"), reason="there is no executor yet")
def test_the_executor(tmp_path: Path) -> None:
    script = tmp_path / "powers.py"
    script.write_text(blocks("python")[1])
    powers = [pow(number, number) for number in range(10)]
    assert run([sys.executable, str(script)]) == f"{powers}\nLAMBDAS WORK, TOO\n"


def test_multiprocessing(tmp_path: Path) -> None:
    script = tmp_path / "children.py"
    script.write_text(blocks("python")[2])
    assert run([sys.executable, str(script)]) == "from a child\n[1, 2, 3]\n"


def test_asyncio(tmp_path: Path) -> None:
    script = tmp_path / "words.py"
    script.write_text(blocks("python")[3])
    assert run([sys.executable, str(script)]) == "hello\n"


@pytest.mark.skipif(shutil.which("seq") is None, reason="no seq, which is a GNU and BSD program")
def test_the_shell(tmp_path: Path) -> None:
    program = tmp_path / "pressure"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pressure "$@"\n')
    program.chmod(0o700)
    with pressure.local_server() as url:
        path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
        printed = run(["sh", "-c", blocks("sh")[0]], PRESSURE_URL=url, PATH=path)
    assert printed == "1000\n"
