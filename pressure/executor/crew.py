"""A crew of worker processes: started, watched, replaced when they die, stopped.

The one who runs `watch` is the supervisor: a thread of the executor's process for local workers,
the main thread of `pressure-worker`. It renews the leases of its workers, since a task that holds
the interpreter lock must not cost a worker its lease, and when a worker dies it gives back at once
what that worker held, charging only the task that was running.
"""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_any
from typing import Any

from pressure.channel import Channel
from pressure.errors import PressureError
from pressure.estate import remove_replies
from pressure.executor.notes import Notes
from pressure.executor.post import BROKEN_EXIT, Post
from pressure.executor.records import Kind, pack_answer
from pressure.executor.warden import Warden
from pressure.executor.worker import work

__all__ = ["Crew"]

log = logging.getLogger("pressure.worker")

STDERR_LINES = 40
STEP = 1.0
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
SHORT_LIFE = 1.0
"""A worker that dies within this time of its start (seconds) is replaced more slowly each time."""


@dataclass(slots=True)
class _Member:
    process: Any
    notes: Notes
    path: str
    started: float
    stderr: int
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=STDERR_LINES))
    partial: bytes = b""


class Crew:
    """`size` worker processes of the context `context`, made by `post(notes_path, stderr)`.

    `broken` is called once, with a reason, when the initializer fails in a worker: then no worker
    is started any more. With `patient`, a worker is asked to stop only after its initializer.
    """

    def __init__(
        self,
        size: int,
        channel: Channel,
        post: Callable[[str, Any], Post],
        *,
        context: Any = None,
        broken: Callable[[str], None] | None = None,
        patient: bool = False,
    ) -> None:
        self._size = size
        self._channel = channel
        self._post = post
        self._context = context or multiprocessing.get_context()
        self._broken = broken
        self._patient = patient
        self._wanted = size
        self.processes: dict[int, Any] = {}
        """The worker processes by pid. In the end it keeps those that were the last."""
        self._opened = False
        self._members: dict[int, _Member] = {}
        self._lock = threading.Lock()
        self._wake_read = self._wake_write = -1
        self._stopping = False
        self._renew_at = 0.0
        self._pause = 0.0
        self._not_before = 0.0
        self._warden = Warden(channel, self.wake)

    def open(self) -> None:
        """Before anything else, once."""
        if not self._opened:
            self._opened = True
            self._wake_read, self._wake_write = os.pipe()

    def want(self, size: int | None) -> bool:
        """Have at least so many workers (None: all), up to the size. They are started by `step`.
        Returns whether any are left to be wanted."""
        wanted = self._size if size is None else min(size, self._size)
        if wanted > self._wanted or not self._members:
            self._wanted = wanted
            self.wake()
        return self._wanted < self._size

    def await_growth(self, timeout: float) -> None:
        """Wait until the workers that are wanted were started."""
        until = time.monotonic() + timeout
        while len(self._members) < self._wanted and not self._stopping:
            if time.monotonic() > until:
                return
            time.sleep(0.002)

    def start(self) -> None:
        """Start the workers that are missing."""
        while not self._stopping and len(self._members) < self._wanted:
            try:
                self._start_one()
            except OSError as exc:
                # Out of processes, memory or descriptors, for now.
                log.warning("a worker process could not be started: %s", exc)
                self._slow_down(0.0)
                return

    def _start_one(self) -> None:
        path, notes = Notes.create()
        notes.supervisor = self._warden.id
        read, write = os.pipe()
        # In this form it can be given to a process in whichever way that is started.
        writer = Connection(write, readable=False)
        # The child unblocks them when it has handlers of its own.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
        try:
            process = self._context.Process(target=work, args=(self._post(path, writer),))
            process.start()
        except BaseException:
            os.close(read)
            notes.close()
            os.unlink(path)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            writer.close()
        pid = int(process.pid or 0)
        with self._lock:
            self._members[pid] = _Member(process, notes, path, time.monotonic(), read)
            self.processes[pid] = process

    def step(self, timeout: float = STEP) -> None:
        """Wait for something to happen, for `timeout` seconds at most, and see to it."""
        now = time.monotonic()
        if now >= self._renew_at:
            self._renew_at = now + self._channel.core.settings.lease / 3
            self._renew()
            if not self._stopping:
                self._warden.start()
        if not self._stopping and len(self._members) < self._wanted:
            timeout = max(0.0, min(timeout, self._not_before - now))
        with self._lock:
            members = dict(self._members)
        workers = [(pid, member.notes) for pid, member in members.items()]
        timeout = min(timeout, self._warden.look(workers))
        waiting: dict[Any, _Member] = {
            member.process.sentinel: member for member in members.values()
        }
        waiting |= {member.stderr: member for member in members.values() if member.stderr >= 0}
        dead: list[_Member] = []
        for ready in wait_for_any([*waiting, self._wake_read], timeout):
            if ready == self._wake_read:
                os.read(self._wake_read, 4096)
            elif ready == waiting[ready].stderr:
                self._forward_stderr(waiting[ready])
            else:
                dead.append(waiting[ready])
        for member in dead:
            self._bury(member)
        if time.monotonic() >= self._not_before:
            self.start()

    def _renew(self) -> None:
        with self._lock:
            consumers = [
                snapshot.consumer
                for snapshot in (member.notes.read() for member in self._members.values())
                if snapshot.ready
            ]
        if consumers:
            try:
                self._channel.renew(consumers)
            except PressureError as exc:
                log.warning("leases could not be renewed: %s", exc)
                self._renew_at = time.monotonic() + STEP

    def _forward_stderr(self, member: _Member) -> bool:
        """Pass on what a worker wrote to stderr, and keep its last lines. False at its end."""
        try:
            data = os.read(member.stderr, 65536)
        except OSError:
            data = b""
        if not data:
            os.close(member.stderr)
            member.stderr = -1
            return False
        with contextlib.suppress(OSError):
            os.write(2, data)
        *lines, member.partial = (member.partial + data).split(b"\n")
        member.tail.extend(line.decode(errors="replace") for line in lines)
        return True

    def _bury(self, member: _Member) -> None:
        """A worker is gone: give back what it held, and say what it died of."""
        process = member.process
        process.join()
        with self._lock:
            self._members.pop(process.pid, None)
            if not self._stopping:
                self.processes.pop(process.pid, None)
        while member.stderr >= 0 and wait_for_any([member.stderr], 0):
            if not self._forward_stderr(member):
                break
        if member.stderr >= 0:
            os.close(member.stderr)
        if member.partial:
            member.tail.append(member.partial.decode(errors="replace"))
        snapshot = member.notes.read()
        member.notes.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(member.path)
        code = process.exitcode
        if self._warden.settle(process.pid, snapshot):
            snapshot = replace(snapshot, task=None)
            self._not_before = 0.0
        if code == BROKEN_EXIT and not snapshot.ready:
            self._give_up("the initializer failed in a worker process; its log says why")
            return
        if code != 0 and not self._stopping:
            log.warning("worker %s died: %s", process.pid, describe_exit(code))
        # A task may have ended the process with exit code 0, too.
        if snapshot.ready and (code != 0 or snapshot.task is not None):
            self._give_back(snapshot, process.pid, code, list(member.tail))
            self._forget_client(snapshot.nested)
        if code == 0:
            self._pause = 0.0
        else:
            self._slow_down(time.monotonic() - member.started)

    def _give_back(self, snapshot: Any, pid: int, code: int | None, stderr: list[str]) -> None:
        charge = [snapshot.task] if snapshot.task is not None else []
        if snapshot.task is not None:
            death = {
                "host": socket.gethostname(),
                "pid": pid,
                "exit_code": code if code is None or code >= 0 else None,
                "signal": signal_name(code),
                "stderr": stderr,
            }
            body = pack_answer(
                Kind.DEATH,
                json.dumps(death).encode(),
                worker=f"{socket.gethostname()}:{pid}".encode()[:255],
                deliveries=0,
                started=0.0,
                finished=time.time(),
            )
        try:
            if snapshot.task is not None:
                # Before the task can be claimed again, so that its future knows in time.
                self._channel.notify(snapshot.client, snapshot.task, body)
            self._channel.reap(snapshot.consumer, charge)
        except PressureError as exc:
            log.warning("worker %s's tasks come back when its lease ends: %s", pid, exc)

    def _forget_client(self, client_id: bytes | None) -> None:
        """Nobody waits any more for the tasks that the dead worker's tasks have submitted."""
        if client_id is not None:
            try:
                remove_replies(self._channel, client_id)
            except PressureError as exc:
                log.debug("a reply queue stays until its time is over: %s", exc)

    def _slow_down(self, lived: float) -> None:
        """Don't start processes in a hot loop that die at once."""
        if lived < SHORT_LIFE:
            self._not_before = time.monotonic() + self._pause
            self._pause = min(max(self._pause * 2, FIRST_PAUSE), LONGEST_PAUSE)
        else:
            self._pause = 0.0

    def _give_up(self, why: str) -> None:
        self._stopping = True
        if self._broken is not None:
            broken, self._broken = self._broken, None
            broken(why)

    def wake(self) -> None:
        """End a `step` early. May be called from a signal handler."""
        if self._wake_write >= 0:
            with contextlib.suppress(OSError):
                os.write(self._wake_write, b"\0")

    def stop(self, grace: float | None, *, impatient: Callable[[], bool] = lambda: False) -> None:
        """Let the workers finish what they run, for `grace` seconds (None: as long as it takes) and
        until `impatient()` is true, then kill them. Blocks until they are gone."""
        self._stopping = True
        until = None if grace is None else time.monotonic() + grace
        asked: set[int] = set()
        while self._members:
            with self._lock:
                unasked = [item for item in self._members.items() if item[0] not in asked]
            for pid, member in unasked:
                if not self._patient or member.notes.read().ready:
                    asked.add(pid)
                    _signal(member.process, signal.SIGTERM)
            if impatient() or (until is not None and time.monotonic() >= until):
                self.kill()
                until = None
            left = STEP if until is None else max(0.0, min(STEP, until - time.monotonic()))
            self.step(min(left, 0.2))
        self._close()

    def dismiss(self) -> None:
        """Kill all workers, and start no others."""
        self._stopping = True
        self.kill()
        self.wake()

    def kill(self) -> None:
        """SIGKILL all workers."""
        with self._lock:
            members = list(self._members.values())
        for member in members:
            _signal(member.process, signal.SIGKILL)

    def _close(self) -> None:
        if not self._opened:
            return
        self._warden.close()
        os.close(self._wake_read)
        # A late `wake` must not write into whatever gets this number next.
        write, self._wake_write = self._wake_write, -1
        os.close(write)
        self._opened = False
        # What the initializer was given is not kept any longer.
        del self._post


def _signal(process: Any, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, TypeError):
        os.kill(process.pid, number)


def signal_name(code: int | None) -> str | None:
    """The name of the signal that an exit code of `multiprocessing` stands for."""
    if code is None or code >= 0:
        return None
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def describe_exit(code: int | None) -> str:
    if code is None:
        return "its exit code is unknown"
    return signal_name(code) or f"exit code {code}"
