"""The embedded server: a Valkey (or Redis) of one's own, started in well under a tenth of a second.

It is private to the user, stores nothing on disk, and is gone with its data when nobody needs it::

    with pressure.local_server() as url:
        queue = pressure.PressureQueue("jobs", url=url)

How long it lives is decided by its *lifeline*, a named pipe in the server's directory, whose
reading end only the watcher (``watcher.py``) holds. A process holds the lifeline

- if it started the server,
- if it was forked from a holder: it inherits the descriptor,
- if a holder passed it the descriptors: ``subprocess.Popen(..., pass_fds=lifeline_fds())``,
- if it knows the url and called `hold_lifeline(url)`; until then another holder must live.

When the last of them has closed it or died, by whatever signal, the watcher sees the end of the
pipe, kills the server and removes its directory. Only `LocalServer.stop` doesn't wait for that.

The directory is ``pressure-XXXXXXXX`` in the temporary directory, with mode 0700. It holds::

    sock      the server's socket; no TCP port is open unless one was asked for
    lifeline  the named pipe
    key       32 random bytes as hex digits, 0600: the key that signs this server's payloads
    log       what the server says, for the error if it does not start
    conf      the password, if it has one: it must not show in the list of processes
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from pressure.server import files, lifeline, watcher
from pressure.server.endpoint import Endpoint
from pressure.server.files import signing_key_for
from pressure.server.lifeline import hold_lifeline, lifeline_fds
from pressure.server.process import Watcher, await_answer

__all__ = [
    "LocalServer",
    "hold_lifeline",
    "lifeline_fds",
    "local_server",
    "shared_local_server",
    "signing_key_for",
]

STOP_TIMEOUT = 10.0

# Tells spawned processes the url of the server that `shared_local_server` started.
SHARED_VARIABLE = "_PRESSURE_LOCAL_SERVER"

# Nothing is ever saved, so the kernel bug that ARM64-COW-BUG is about can do no harm here.
SETTINGS = (
    *("--daemonize", "no"),
    *("--save", ""),
    *("--appendonly", "no"),
    *("--maxmemory-policy", "noeviction"),
    *("--databases", "16"),
    *("--loglevel", "warning"),
    *("--ignore-warnings", "ARM64-COW-BUG"),
)

_shared_lock = threading.Lock()
_shared_server: LocalServer | None = None  # only in the process that started it, and its forks


class LocalServer:
    """One embedded server. A context manager, or `start` and `stop` by hand.

    Without a `port` it listens on a unix socket that only this user can open; with one, on that
    port of 127.0.0.1 (0: a free one). A `password` of None means a random one on TCP and none on
    the socket; "" means none. `extra_args` are further arguments for the server, as in
    ``("--maxmemory", "1gb")``, and win over what is set here. `binary` is the program to run
    instead of the one that `files.find_server` finds.

    If this process dies without `stop`, the server lives on until the last holder of its lifeline
    is gone. If the watcher is killed, Linux kills the server too; elsewhere only `stop` ends it.
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        password: str | None = None,
        extra_args: Sequence[str] = (),
        binary: str | os.PathLike[str] | None = None,
    ) -> None:
        self._port = port
        self._password = password
        self._extra_args = tuple(extra_args)
        self._binary = binary
        self._owner = 0
        self._pid = 0
        self._key = b""
        self._directory: Path | None = None
        self._endpoint: Endpoint | None = None
        self._watcher: Watcher | None = None

    def __repr__(self) -> str:
        state = f"pid={self._pid}" if self._pid else "not running"
        return f"<{type(self).__name__} {state}>"

    @property
    def url(self) -> str:
        """The url for `redis.Redis.from_url`. It contains the password, if there is one."""
        return _started(self._endpoint).url

    @property
    def pid(self) -> int:
        """The process id of the server (not of its watcher)."""
        return _started(self._pid)

    @property
    def key(self) -> bytes:
        """The key that signs what is sent through this server: 32 bytes."""
        return _started(self._key)

    @property
    def directory(self) -> Path:
        """The private directory, which vanishes with the server."""
        return _started(self._directory)

    @property
    def lifeline(self) -> int:
        """This process's writing end of the lifeline, to be passed on with `pass_fds`."""
        return _started(lifeline.held(self.directory / files.LIFELINE))

    def is_running(self) -> bool:
        """Whether it was started, and has neither been stopped nor died by itself."""
        return bool(self._pid) and lifeline.take(self.directory / files.LIFELINE)

    def start(self) -> LocalServer:
        """Start the server, wait until it answers, and return this object.

        Raises `ServerNotFoundError` if there is no server to run, `ServerStartError` if it does not
        start within 30 s; then nothing is left behind.
        """
        if self._owner:
            raise RuntimeError("the server was started already")
        binary = os.path.abspath(self._binary or files.find_server())
        self._directory, fits_socket = files.make_private_directory()
        self._owner = os.getpid()
        try:
            self._key = files.write_key(self._directory)
            if self._port is None and fits_socket:
                path = self._directory / files.SOCKET
                self._endpoint = Endpoint.on_socket(path, self._password or "")
            else:
                self._endpoint = Endpoint.on_port(self._port or 0, self._password)
            self._watcher = self._launch(binary, self._directory, self._endpoint)
            self._pid = await_answer(binary, self._watcher, self._endpoint)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the server at once and wait until it and its directory are gone. Idempotent.

        Other holders of the lifeline do not delay it. In a forked child of the process that started
        it, the server goes on: the child only lets go of its lifeline.
        """
        ours = self._owner == os.getpid()
        if self._directory:
            lifeline.release(self._directory / files.LIFELINE, stop=ours)
        if ours and self._watcher and self._endpoint and not self._watcher.end(STOP_TIMEOUT):
            self._endpoint.shut_down(self._pid)
        if ours and self._directory:
            watcher.remove(self._directory)
        self._owner = self._pid = 0
        self._key = b""
        self._directory = self._endpoint = self._watcher = None

    def __enter__(self) -> LocalServer:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _launch(self, binary: str, directory: Path, endpoint: Endpoint) -> Watcher:
        """Start the watcher, which starts the server, and take hold of the lifeline."""
        command = [binary]
        if endpoint.password:
            command.append(str(files.write_password(directory, endpoint.password)))
        command += [*endpoint.arguments, *SETTINGS, "--dir", str(directory), *self._extra_args]
        pipe = directory / files.LIFELINE
        os.mkfifo(pipe, 0o600)
        os.chmod(pipe, 0o600)
        # Without O_NONBLOCK, opening one end would wait for the other.
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            lifeline.take(pipe)
            return Watcher(reader, str(directory), command)
        finally:
            os.close(reader)


@contextmanager
def local_server() -> Iterator[str]:
    """Start an embedded server, give its url, and end it with its data when the block ends.

    Raises `ServerNotFoundError` if none is installed, `ServerStartError` if it does not start. If
    this process dies inside the block, the server ends with the last process that was forked in it.
    """
    with LocalServer() as server:
        yield server.url


def shared_local_server() -> str:
    """The url of the one embedded server that this process shares with its descendants.

    The first call starts it. Processes forked afterwards know it; others find its url in their
    environment. It lives until the last process that called this, or was forked by one that did, is
    gone, no matter in which order. If it was killed in between, the next call starts another.
    Raises as `local_server` does.
    """
    global _shared_server
    with _shared_lock:
        if _shared_server is not None:
            if _shared_server.is_running():
                return _shared_server.url
            _shared_server.stop()
        inherited = os.environ.get(SHARED_VARIABLE, "")
        if inherited and hold_lifeline(inherited):
            return inherited
        _shared_server = LocalServer()
        _shared_server.start()
        url = _shared_server.url
        if files.directory_of(url):  # not on TCP: the environment is no place for passwords
            os.environ[SHARED_VARIABLE] = url
        return url


_T = TypeVar("_T")


def _started(value: _T | None) -> _T:
    if not value:
        raise RuntimeError("the server is not running")
    return value


def _renew_lock_in_child() -> None:
    global _shared_lock
    _shared_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock_in_child)
