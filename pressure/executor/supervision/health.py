"""How a daemon is, in a file that health checks read: no server and no key is needed for that.

The daemon's supervisor writes the file every second, and holds a lock on it as long as it lives. So
it tells a daemon that is dead from one that hangs, and one whose workers do their work from one
that only has processes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from pressure.executor.supervision.member import Member

__all__ = ["HealthFile", "check_health", "judge"]

log = logging.getLogger("pressure.worker")

STANDSTILL = 30.0
"""A worker that has neither run a task nor looked for one for so long (seconds) is not well, nor is
a supervisor that has not written for so long."""
INTERVAL = 1.0
_BYTES = 8192
_TEXT = 1000
"""So many characters of the text are said: as JSON they may be six times as many."""


def judge(
    members: Sequence[Member], away_since: float | None, troubles: Sequence[str] = ()
) -> tuple[bool, str]:
    """Whether the workers do their work, and a text that says so. `away_since`: since when the
    server is away (monotonic); `troubles`: which queues can't be served, and why. While others are,
    all is well: to start the daemon anew would not help."""
    now = time.monotonic()
    away = "" if away_since is None else f"; the server has been away for {now - away_since:.0f} s"
    away += "".join(f"; {trouble}" for trouble in troubles)
    last = 0.0
    for member in members:
        snapshot = member.notes.read()
        looped = now if snapshot.task is not None else snapshot.looped
        last = max(last, looped)
        still = now - max(looped, member.started)
        if still > STANDSTILL:
            return False, (
                f"worker {member.pid} has not looked for tasks for {still:.0f} s, and runs none"
                f"{away}"
            )
    if not last:
        return False, f"no worker has looked for tasks yet{away}"
    return True, f"{len(members)} workers at work{away}"


class HealthFile:
    """The file of the daemon `name`. If it can't be written, a warning is logged, once."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._descriptor = -1
        self._due = 0.0
        self._path: Path | None = None
        try:
            directory = _directory()
            directory.mkdir(mode=0o700, exist_ok=True)
            _check_owner(directory)
            # What daemons have left that were killed.
            list(_living(directory, None))
            self._open(directory / f"{quote(name, safe='')}@{secrets.token_hex(4)}")
        except OSError as exc:
            log.warning("health checks will not find this daemon: %s", exc)

    def _open(self, path: Path) -> None:
        while self._path is None:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            # Held by somebody else for a moment, if at all, who takes it for a dead daemon's.
            fcntl.lockf(descriptor, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    self._path, self._descriptor = path, descriptor
                    return
            # And has removed it.
            os.close(descriptor)

    def write(
        self, members: Sequence[Member], away_since: float | None, troubles: Sequence[str] = ()
    ) -> None:
        """Say how it is, if it is time to."""
        now = time.monotonic()
        if self._descriptor < 0 or now < self._due:
            return
        self._due = now + INTERVAL
        healthy, text = judge(members, away_since, troubles)
        said = {
            "name": self._name,
            "pid": os.getpid(),
            "at": now,
            "healthy": healthy,
            "text": text[:_TEXT],
        }
        with contextlib.suppress(OSError):
            # In one piece and always as long, so that nobody reads half of it.
            os.pwrite(self._descriptor, json.dumps(said).encode().ljust(_BYTES), 0)

    def close(self) -> None:
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
            os.close(self._descriptor)
            self._path, self._descriptor = None, -1


def check_health(name: str | None) -> tuple[bool, list[str]]:
    """Whether the daemon of this name, or all of this user's daemons here, are well, and a sentence
    about each. None at all is not well."""
    directory = _directory()
    well, sentences = True, []
    try:
        _check_owner(directory)
        files = list(_living(directory, name))
    except FileNotFoundError:
        files = []
    except OSError as exc:
        return False, [str(exc)]
    for text in files:
        try:
            said = json.loads(text)
            age = time.monotonic() - said["at"]
        except (ValueError, KeyError):
            well = False
            sentences.append("a daemon is starting")
            continue
        healthy, why = said["healthy"], said["text"]
        if age > STANDSTILL:
            healthy, why = False, f"its supervisor has been silent for {age:.0f} s"
        well = well and healthy
        state = "healthy" if healthy else "unhealthy"
        sentences.append(f"{said['name']} (pid {said['pid']}) is {state}: {why}")
    if not sentences:
        which = f"pressure-worker named {name!r}" if name else "pressure-worker"
        return False, [f"no {which} of this user is running here"]
    return well, sentences


def _directory() -> Path:
    return Path(tempfile.gettempdir()) / f"pressure-worker-{os.getuid()}"


def _check_owner(directory: Path) -> None:
    """Others must not be able to say how this user's daemons are."""
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(f"{directory} belongs to another user")


def _living(directory: Path, name: str | None) -> Iterator[bytes]:
    """What living daemons have written. The files of dead ones are removed."""
    for path in sorted(directory.iterdir()):
        if name is not None and path.name.rpartition("@")[0] != quote(name, safe=""):
            continue
        with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield file.read()
            else:
                path.unlink()
