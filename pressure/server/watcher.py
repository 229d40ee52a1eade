"""The watcher: the process that stands between an embedded server and those who use it.

``pressure.server`` runs this file as a script, ``python -I -S watcher.py DIRECTORY BINARY
ARGUMENT...``, with the reading end of the lifeline as standard input and a pipe to the starter as
standard output::

    holders (the starter, its forks, whoever joined) ==lifeline==> watcher --parent of--> server

Its job:

1. start ``BINARY ARGUMENT...`` and report the server's process id as the first line of output;
2. wait until the lifeline becomes readable: at its end when the last holder closed it or died, or
   by a byte when the starter asks for the end; or until the server dies by itself, in which case
   the reason and the last lines of its log are reported;
3. kill the server if it still runs, and remove DIRECTORY with all that is in it.

Nothing but that ends it: it and the server ignore SIGINT, SIGTERM, SIGHUP and SIGQUIT, since a
Ctrl-C or a service manager's stop reaches all processes at once and the clients still need the
server to finish what they do. On Linux, SIGKILL of the watcher ends the server as well; then the
directory stays until the starter calls ``stop()``.

It imports next to nothing, and nothing of ``pressure``, because its start is a part of every start
of a server.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

LIFELINE = 0
REPORT = 1
LOG_TAIL = 2000
PR_SET_PDEATHSIG = 1

UNHEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def watch(directory: str, command: list[str]) -> None:
    """Run ``command`` until the lifeline ends, then remove ``directory``. The whole job."""
    os.umask(0o077)
    os.chdir("/")
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the starter may have blocked SIGCHLD
    for unheard in UNHEARD:
        signal.signal(unheard, signal.SIG_IGN)
    # The cleaners of /tmp pass over a directory that is locked, however old it grows.
    fcntl.flock(os.open(directory, os.O_RDONLY | os.O_CLOEXEC), fcntl.LOCK_SH)
    try:
        child_died = _wake_on_child_death()
        server = _start(directory, command)
        _report(b"%d\n" % server)
        if _wait(server, child_died):
            os.kill(server, signal.SIGKILL)
            os.waitpid(server, 0)
        else:
            _report(_last_words(directory))
    finally:
        remove(directory)


def _wake_on_child_death() -> int:
    """A descriptor that becomes readable on SIGCHLD, also on one that comes before the wait."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return reader


def _start(directory: str, command: list[str]) -> int:
    watcher = os.getpid()
    server = os.fork()
    if server:
        return server
    try:
        log = os.open(f"{directory}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        # The server installs its own handlers over ignored signals, but leaves the mask alone.
        signal.pthread_sigmask(signal.SIG_BLOCK, UNHEARD)
        _die_with(watcher)
        os.execv(command[0], command)
    except BaseException as exc:
        os.write(2, f"{command[0]}: {exc}\n".encode())
    os._exit(127)


def _die_with(watcher: int) -> None:
    """Have the kernel kill this process when the watcher is killed; only Linux can."""
    if sys.platform != "linux":
        return
    try:
        # Imported in the child alone: it is what takes the most memory here, and is gone by exec.
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    except (ImportError, OSError, AttributeError):
        return
    if os.getppid() != watcher:
        os._exit(127)


def _wait(server: int, child_died: int) -> bool:
    """Return True when the lifeline has ended, False when the server has, which is then reaped."""
    while True:
        ready, _, _ = select.select([LIFELINE, child_died], [], [])
        if child_died in ready:
            os.read(child_died, 64)
            if os.waitpid(server, os.WNOHANG)[0]:
                return False
        if LIFELINE in ready:
            return True


def _last_words(directory: str) -> bytes:
    try:
        with open(f"{directory}/log", "rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - LOG_TAIL))
            return log.read()
    except OSError as exc:
        return f"its log can't be read: {exc}".encode()


def _report(text: bytes) -> None:
    # In vain if the starter is gone, or has heard what it wanted to know.
    _attempt(os.write, REPORT, text)


def remove(directory: str | os.PathLike[str]) -> None:
    """Remove the directory and all that is in it; what can't be removed stays, silently."""
    for parent, folders, files in os.walk(directory, topdown=False):
        for name in files:
            _attempt(os.unlink, os.path.join(parent, name))
        for name in folders:
            _attempt(os.rmdir, os.path.join(parent, name))
    _attempt(os.rmdir, directory)


def _attempt(function: Callable[..., object], *arguments: object) -> None:
    try:  # noqa: SIM105 - contextlib would have to be imported first
        function(*arguments)
    except OSError:
        pass


if __name__ == "__main__":
    watch(sys.argv[1], sys.argv[2:])
