"""A crew of worker processes: started, watched, replaced when they die, stopped.

The one who runs `step` is the supervisor: a thread of the executor's process for local workers, the
main thread of `pressure-worker`. It renews the leases of its workers, since a task that holds the
interpreter lock must not cost a worker its lease, and when a worker dies it gives back at once what
that worker held, charging only the task that was running. What that needs of the server is the
clerk's to do, in another thread, so that the processes never wait for the server.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait as wait_for_any
from typing import Any

from pressure.channel import Channel
from pressure.executor.by_value import restore_script, script
from pressure.executor.errors import InitializerError, NoWorkersError
from pressure.executor.measures import Books
from pressure.executor.notes import Snapshot
from pressure.executor.orders import Order
from pressure.executor.post import BROKEN_EXIT, Post
from pressure.executor.supervision.clerk import Clerk, Dead
from pressure.executor.supervision.logs import Sink, to_stderr
from pressure.executor.supervision.member import SCARCE, Member, describe_exit, ended_well
from pressure.executor.supervision.memory import Scales
from pressure.executor.supervision.registrar import Registrar
from pressure.executor.supervision.starting import start_worker
from pressure.executor.supervision.warden import Warden
from pressure.executor.worker.worker import work

__all__ = ["Crew", "Daemon"]

log = logging.getLogger("pressure.worker")

STEP = 1.0
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
SHORT_LIFE = 1.0
"""A worker that dies within this time of its start (seconds) is replaced more slowly each time."""
STILLBORN = 5
"""So many in a row that die before they are ready, and none that is: there will never be one."""
SIGN_OFF = 1.5
"""How long (seconds) a worker that is to stop, and runs nothing, may try to reach a server that is
away."""
HEAD_START = 0.25
"""How long (seconds) a dead worker's successor waits at most until its tasks are given back: a fork
keeps the clerk's thread from running, and the successor what is to run the tasks elsewhere."""
FAREWELL = 10.0


@dataclass(frozen=True, slots=True)
class Daemon:
    """What a crew does only for a daemon.

    Its workers stand in the registry under `name`, each leads a process group, which ends with it,
    and is replaced when it uses too much memory (`scales`). With `books`, they measure. `obey` is
    called with orders, in another thread, and returns what is to be answered.
    """

    name: str
    obey: Callable[[Order], dict[str, Any] | None]
    sink: Sink
    scales: Scales | None = None
    books: Books | None = None


class Crew:
    """`size` worker processes of the context `context`, made by `post(notes, stderr)`. They
    serve the queues of `channels`, which have the same client id.

    `broken` is called once, with an error, when the initializer fails in a worker, or when it is
    plain that none will ever be ready: then no worker is started any more. With `patient` there is
    an initializer, and a worker is asked to stop only after that.
    """

    def __init__(
        self,
        size: int,
        channels: Sequence[Channel],
        post: Callable[[Any, Any], Post],
        *,
        context: Any = None,
        broken: Callable[[BaseException], None] | None = None,
        patient: bool = False,
        daemon: Daemon | None = None,
    ) -> None:
        self._size = size
        self._post = post
        self._context = context or multiprocessing.get_context()
        self._broken = broken
        self._patient = patient
        self._daemon = daemon
        self._script = script()
        self._wanted = size
        self.processes: dict[int, Any] = {}
        """The worker processes by pid."""
        self._opened = False
        self._members: dict[int, Member] = {}
        self._lock = threading.Lock()
        self._wake_read = self._wake_write = -1
        self._stopping = False
        self._lease = channels[0].core.settings.lease
        self._renew_at = self._beat_at = 0.0
        self._pause = 0.0
        self._not_before = 0.0
        self._stillborn = 0
        self.clerk = Clerk(channels)
        self._books = daemon.books if daemon is not None else None
        obey = daemon.obey if daemon is not None else lambda order: None
        self._warden = Warden(channels, self.wake, self.clerk.do, obey)
        self._registrar: Registrar | None = None
        if daemon is not None:
            self._registrar = Registrar(channels, daemon=self._warden.id, name=daemon.name)

    def open(self) -> None:
        """Before anything else, once."""
        if not self._opened:
            self._opened = True
            self._wake_read, self._wake_write = os.pipe()
            # Who wakes may be a signal handler, which must not wait.
            os.set_blocking(self._wake_write, False)

    @property
    def members(self) -> list[Member]:
        """The worker processes that are there."""
        with self._lock:
            return list(self._members.values())

    @property
    def retired(self) -> bool:
        """Whether all have ended since nothing was left to do."""
        return self._wanted <= 0 and not self._members

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
                log.warning("a worker process could not be started: %s", exc)
                self._slow_down(0.0)
                if exc.errno in SCARCE or self._members or self._broken is None:
                    return
                self._stillborn += 1
                if self._stillborn < STILLBORN:
                    return
                raise

    def _start_one(self) -> None:
        restore_script(self._script)
        start_worker(
            self._context,
            work,
            self._post,
            self._daemon.sink if self._daemon is not None else to_stderr,
            self._add,
            supervisor=self._warden.id,
            measured=self._books is not None,
        )

    def _add(self, member: Member) -> None:
        with self._lock:
            self._members[member.pid] = member
            self.processes[member.pid] = member.process
        # So that it is shown at once.
        self._beat_at = 0.0

    def step(self, timeout: float = STEP) -> None:
        """Wait for something to happen, for `timeout` seconds at most, and see to it."""
        now = time.monotonic()
        self.clerk.start()
        members = self.members
        if now >= self._renew_at:
            self._renew(now, members)
            if not self._stopping:
                self._warden.start()
        # Who is shown to others has to hear their orders.
        if self._registrar is not None and now >= self._beat_at and self._warden.listens:
            workers = [(one.pid, one.started, one.notes.read()) for one in members]
            self.clerk.do_again("beat", partial(self._beat, workers))
        if not self._stopping and len(members) < self._wanted:
            timeout = max(0.0, min(timeout, self._not_before - now))
        timeout = min(timeout, self._warden.look([(one.pid, one.notes) for one in members]))
        if self._daemon is not None and self._daemon.scales is not None:
            timeout = min(timeout, self._daemon.scales.weigh(members))
        waiting: dict[int, Member] = {member.sentinel: member for member in members}
        waiting |= {member.stderr: member for member in members if member.stderr >= 0}
        dead: list[Member] = []
        for ready in wait_for_any([*waiting, self._wake_read], timeout):
            assert isinstance(ready, int)
            if ready == self._wake_read:
                os.read(self._wake_read, 4096)
            elif ready == waiting[ready].stderr:
                waiting[ready].forward_stderr()
            else:
                dead.append(waiting[ready])
        burials = [self._bury(member) for member in dead]
        if time.monotonic() >= self._not_before:
            if not self._stopping and len(self._members) < self._wanted:
                self._await_burials(burials)
            self.start()

    def _renew(self, now: float, members: list[Member]) -> None:
        away = self.clerk.away_since is not None
        self._renew_at = now + (STEP if away else self._lease / 3)
        # One that was stopped may never go on, and others could do what it holds.
        self.clerk.renew([one.notes.read() for one in members if not one.stands_still()])

    def _beat(self, workers: list[tuple[int, float, Snapshot]]) -> None:
        assert self._registrar is not None
        left = self._registrar.look(workers, stopping=self._stopping)
        self._beat_at = time.monotonic() + left

    def _await_burials(self, burials: list[threading.Event]) -> None:
        until = time.monotonic() + HEAD_START
        for burial in burials:
            if not self.clerk.unanswered:
                burial.wait(max(0.0, until - time.monotonic()))

    def _bury(self, member: Member) -> threading.Event:
        """A worker is gone: have given back what it held, and said what it died of. Returns what is
        set when the former is done."""
        tail = member.bury(group=self._daemon is not None)
        with self._lock:
            self._members.pop(member.pid, None)
            if not self._stopping:
                self.processes.pop(member.pid, None)
        snapshot, measured = member.notes.read(), member.notes.measures.read()
        code = member.process.exitcode
        ended = self._warden.ended(member.pid, snapshot)
        # First what others wait for.
        dead = Dead(member.pid, code, member.notes, snapshot, tail, ended, member.why)
        burial = self.clerk.bury(dead)
        if self._registrar is not None:
            self.clerk.do(partial(self._registrar.gone, member.pid))
        if code == BROKEN_EXIT and not snapshot.ready:
            why = "the initializer failed in a worker process; its log says why"
            self._give_up(InitializerError(why))
            return burial
        # It may have been told to stop before it had a handler for that, or when it had none more.
        told = self._stopping or member.asked or code in (-signal.SIGTERM, -signal.SIGHUP)
        expected = member.killed or ended_well(code, snapshot, told=told)
        if self._books is not None:
            self._books.close(measured, snapshot.done, snapshot.failed, died=not expected)
        if member.why or not expected:
            log.warning("worker %s died: %s", member.pid, member.why or describe_exit(code))
        if snapshot.retired and code == 0 and not self.clerk.gave_back_since(member.started):
            # Otherwise a successor looks whether there is something again.
            self._wanted -= 1
        if ended:
            self._not_before = 0.0
        if expected:
            self._pause = 0.0
        else:
            self._slow_down(time.monotonic() - member.started)
            self._count(snapshot, code, tail)
        return burial

    def _count(self, snapshot: Snapshot, code: int | None, tail: list[str]) -> None:
        """A worker died of itself. Give up if all do before they are ready, and the server, which
        they look for, is there."""
        if self._broken is None or self.clerk.unanswered:
            return
        if snapshot.ready or any(member.notes.read().ready for member in self.members):
            self._stillborn = 0
            return
        self._stillborn += 1
        if self._stillborn >= STILLBORN:
            what = "in the initializer, or before it" if self._patient else "before they were ready"
            said = "".join(f"\n    stderr: {line}" for line in tail)
            why = f"all worker processes died {what}, the last with {describe_exit(code)}{said}"
            self._give_up(InitializerError(why) if self._patient else NoWorkersError(why))

    def _slow_down(self, lived: float) -> None:
        """Don't start processes in a hot loop that die at once."""
        if lived < SHORT_LIFE:
            self._not_before = time.monotonic() + self._pause
            self._pause = min(max(self._pause * 2, FIRST_PAUSE), LONGEST_PAUSE)
        else:
            self._pause = 0.0

    def _give_up(self, error: BaseException) -> None:
        self._stopping = True
        if self._broken is not None:
            broken, self._broken = self._broken, None
            broken(error)

    def wake(self) -> None:
        """End a `step` early. May be called from a signal handler."""
        if self._wake_write >= 0:
            with contextlib.suppress(OSError):
                os.write(self._wake_write, b"\0")

    def replace_all(self) -> None:
        """Have all present workers replaced, each when it has finished what it runs."""
        for member in self.members:
            member.ask_to_stop()

    def stop(self, grace: float | None, *, impatient: Callable[[], bool] = lambda: False) -> None:
        """Let the workers finish what they run, for `grace` seconds (None: as long as it takes) and
        until `impatient()` is true, then kill them. Blocks until they are gone."""
        self._stopping = True
        # Tells at once whether the server is there.
        self._renew_at = self._beat_at = 0.0
        until = None if grace is None else time.monotonic() + grace
        while members := self.members:
            for member in members:
                if not self._patient or member.notes.read().ready:
                    member.ask_to_stop()
            if impatient() or (until is not None and time.monotonic() >= until):
                self.kill()
                until = None
            elif self.clerk.unanswered:
                self._kill_idle(members)
            left = STEP if until is None else max(0.0, min(STEP, until - time.monotonic()))
            self.step(min(left, 0.2))
        self._close()

    def _kill_idle(self, members: list[Member]) -> None:
        """Those that run nothing don't end by themselves while they look for the server."""
        now = time.monotonic()
        for member in members:
            if not member.asked or member.notes.read().task is not None:
                member.idle_since = None
            elif member.idle_since is None:
                member.idle_since = now
            elif now - member.idle_since > SIGN_OFF:
                member.signal(signal.SIGKILL)

    def dismiss(self) -> None:
        """Kill all workers, and start no others."""
        self._stopping = True
        self.kill()
        self.wake()

    def kill(self) -> None:
        """SIGKILL all workers."""
        for member in self.members:
            if self._daemon is not None and not member.killed:
                task = member.notes.read().task
                if task is not None:
                    log.warning("worker %d is killed, and its task %s", member.pid, task.hex())
            member.killed = True
            member.signal(signal.SIGKILL)

    def _close(self) -> None:
        if not self._opened:
            return
        self.clerk.do(self._warden.close)
        if self._registrar is not None:
            self.clerk.do(self._registrar.close)
        if not self.clerk.close(FAREWELL):
            self._warden.abandon()
        os.close(self._wake_read)
        # A late `wake` must not write into whatever gets this number next.
        write, self._wake_write = self._wake_write, -1
        os.close(write)
        self._opened = False
        # What the initializer was given is not kept any longer, nor the pipes of the processes: who
        # has asked for these has the old dictionary.
        del self._post
        self.processes = {}
