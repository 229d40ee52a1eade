from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from tests.support.fixtures import keys_left
from tests.support.servers import ServerProcess
from tests.support.waiting import eventually


def test_a_killed_server_comes_back_with_what_it_acknowledged(fresh_server: ServerProcess) -> None:
    client = fresh_server.client()
    client.set("kept", "1")
    old_pid = fresh_server.pid

    fresh_server.kill()

    assert not fresh_server.running
    with pytest.raises(redis.ConnectionError):
        client.ping()
    fresh_server.restart()
    assert fresh_server.pid != old_pid
    assert fresh_server.client().get("kept") == b"1"


def test_a_restart_without_data_comes_back_empty(fresh_server: ServerProcess) -> None:
    fresh_server.client().set("lost", "1")

    fresh_server.restart(keep_data=False)

    assert fresh_server.client().dbsize() == 0


def test_without_an_append_only_file_a_stop_keeps_data_and_a_death_does_not(
    make_server: Callable[..., ServerProcess],
) -> None:
    server = make_server()
    server.client().set("kept", "1")

    server.restart()

    assert server.client().get("kept") == b"1"
    server.kill()
    with pytest.raises(ValueError, match="no data to keep"):
        server.restart()
    server.restart(keep_data=False)
    assert server.client().dbsize() == 0


def test_a_paused_server_answers_nothing_until_it_is_resumed(fresh_server: ServerProcess) -> None:
    client = redis.Redis.from_url(fresh_server.url, socket_timeout=0.5)
    client.ping()

    fresh_server.pause()

    with pytest.raises(redis.TimeoutError):
        client.ping()
    fresh_server.resume()
    fresh_server.wait_ready()
    assert client.ping()
    client.close()


def test_a_paused_server_can_be_stopped(fresh_server: ServerProcess) -> None:
    fresh_server.pause()

    fresh_server.stop()

    assert not fresh_server.running


def test_options_reach_the_server(make_server: Callable[..., ServerProcess]) -> None:
    server = make_server(
        unix=False,
        maxmemory="8mb",
        password='pa"ss /w',
        extra_args=["--list-max-listpack-size", "7"],
    )
    client = server.client()

    config = client.config_get("maxmemory*")
    assert config["maxmemory"] == str(8 * 1024 * 1024)
    assert config["maxmemory-policy"] == "noeviction"
    assert client.config_get("list-max-listpack-size") == {"list-max-listpack-size": "7"}
    with (
        redis.Redis.from_url(f"redis://127.0.0.1:{server.port}") as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.ping()


def test_a_server_that_can_not_start_says_why(make_server: Callable[..., ServerProcess]) -> None:
    with pytest.raises(AssertionError, match="no-such-option"):
        make_server(extra_args=["--no-such-option", "1"])


def test_closing_leaves_neither_process_nor_files() -> None:
    server = ServerProcess()
    pid = server.pid

    server.close()
    server.close()

    assert not server.directory.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="needs the parent death signal")
@pytest.mark.parametrize("death", ["exit", "kill"])
def test_a_server_does_not_outlive_the_process_that_started_it(death: str) -> None:
    code = (
        "import os, signal, sys\n"
        "from tests.support.servers import ServerProcess\n"
        "server = ServerProcess()\n"
        "print(server.pid, server.directory, flush=True)\n"
        "if sys.argv[1] == 'kill': os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parents[2]

    done = subprocess.run(
        [sys.executable, "-c", code, death], cwd=root, capture_output=True, timeout=30, check=False
    )

    pid, directory = done.stdout.split()
    assert eventually(lambda: not _lives(int(pid)))
    if death == "exit":
        assert done.returncode == 0, done.stderr
        assert not Path(directory.decode()).exists()
    shutil.rmtree(directory.decode(), ignore_errors=True)


def test_keys_left_finds_a_name_in_any_dress(client: redis.Redis, queue_name: str) -> None:
    names = [f"p:{queue_name}", f"p:{{{queue_name}}}:bound", f"other:{queue_name}:x"]
    for name in names:
        client.set(name, "1")

    assert keys_left(client, queue_name) == sorted(names)


def _lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0] != b"Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
