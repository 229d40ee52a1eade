"""What a supervisor has to do at the server, in a thread of its own.

A server that is away or slow must not keep a supervisor from looking after its processes, or from
stopping. So the supervisor hands over what is to be done there: the renewal of leases, and what
dead workers leave behind. It is done in the order in which it was handed over.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue

from pressure.channel import Channel
from pressure.channel.estate import conclude, remove_replies
from pressure.errors import PressureError
from pressure.executor.notes import Notes, Snapshot
from pressure.executor.records import Kind, pack_answer
from pressure.executor.supervision.member import signal_name
from pressure.retry import is_about_one_queue

__all__ = ["Clerk", "Dead"]

log = logging.getLogger("pressure.worker")

UNANSWERED = 1.0
NEVER_ANSWERED = 2.0
"""A server that has not answered for so long (seconds) counts as away when there is little time, or
when nothing is left but to sign off."""
STEP = 0.05


@dataclass(frozen=True, slots=True)
class Dead:
    """A worker that has died, and its last notes. `ended`: for which reason its task was to end, if
    the process was killed for that; `why`: for which reason of its own it was killed."""

    pid: int
    code: int | None
    notes: Notes
    snapshot: Snapshot
    stderr: list[str]
    ended: str = ""
    why: str = ""

    @property
    def held(self) -> bool:
        """Whether it may have held anything. A task may have ended it with exit code 0, too."""
        return self.snapshot.ready and (self.code != 0 or self.snapshot.task is not None)


class Clerk:
    """Works for the supervisor of workers that serve these queues, one channel for each."""

    def __init__(self, channels: Sequence[Channel]) -> None:
        self._channels = channels
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._began = 0.0
        self._under_way: set[str] = set()
        self._abandoned = False
        self._burying: set[int] = set()
        self._gave_back_at = 0.0
        self.away_since: float | None = None
        """Since when the server can't be reached (monotonic), as far as is known."""

    def start(self) -> None:
        """Once; not before the first workers were forked."""
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="pressure clerk", daemon=True)
            try:
                thread.start()
            except RuntimeError as exc:
                log.warning("leases can't be renewed for now: %s", exc)
                return
            self._thread = thread

    @property
    def unanswered(self) -> bool:
        """Whether the server is away, or seems to be: don't wait for it if there is no time."""
        return self.away_since is not None or self._at_it() > UNANSWERED

    def _at_it(self) -> float:
        """For how long it has been doing what it does."""
        began = self._began
        return time.monotonic() - began if began else 0.0

    def do(self, job: Callable[[], None]) -> None:
        """Have something done. `PressureError`s are logged."""
        self._jobs.put(job)

    def do_again(self, what: str, job: Callable[[], None]) -> None:
        """Have something done that is done now and then, unless the last time is not over yet."""
        if what not in self._under_way:
            self._under_way.add(what)
            self.do(partial(self._do_again, what, job))

    def _do_again(self, what: str, job: Callable[[], None]) -> None:
        try:
            job()
        finally:
            self._under_way.discard(what)

    def renew(self, workers: Sequence[Snapshot]) -> None:
        """Renew the leases of these workers. Tells whether the server is there, also if there are
        none."""
        self.do_again("renew", partial(self._renew, workers))

    def bury(self, dead: Dead) -> threading.Event:
        """Give back what a dead worker held, and say what it died of. Returns what is set once it
        was given back, or could not be, or was nothing."""
        given_back = threading.Event()
        self._burying.add(dead.pid)
        self.do(partial(self._bury, dead, given_back))
        if not dead.held:
            given_back.set()
        return given_back

    def gave_back_since(self, when: float) -> bool:
        """Whether tasks may have been given back since then (monotonic), or may still be."""
        # The burial of whoever asks may be among them.
        return len(self._burying) > 1 or self._gave_back_at >= when

    def close(self, patience: float) -> bool:
        """Do what is left to be done, for `patience` seconds at most; less if the server is away.
        Returns whether all was done."""
        if self._thread is None:
            self.start()
        self._jobs.put(None)
        until = time.monotonic() + patience
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(STEP)
            away = self.away_since is not None or self._at_it() > NEVER_ANSWERED
            if self._thread.is_alive() and (away or time.monotonic() > until):
                self._abandoned = True
                return False
        return True

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None and not self._abandoned:
            self._began = time.monotonic()
            try:
                job()
            except PressureError as exc:
                log.warning("%s", exc)
            except Exception:
                log.exception("a supervisor could not do what it had to")
            self._began = 0.0

    def _renew(self, workers: Sequence[Snapshot]) -> None:
        began = time.monotonic()
        try:
            for number, channel in enumerate(self._channels):
                known = [one.consumers[number] for one in workers if number < len(one.consumers)]
                ids = [id for id in known if id is not None]
                if ids or number == 0:
                    self._renew_at(channel, ids)
        except PressureError as exc:
            if self.away_since is None:
                self.away_since = began
                log.warning(
                    "the server at %s is away, and workers wait for it: %s",
                    self._channels[0].handle.address,
                    exc.__cause__ or exc,
                )
        else:
            if self.away_since is not None:
                away = time.monotonic() - self.away_since
                self.away_since = None
                log.warning(
                    "the server at %s is back after %.0f s", self._channels[0].handle.address, away
                )

    def _renew_at(self, channel: Channel, ids: Sequence[bytes]) -> None:
        try:
            channel.renew(ids)
        except PressureError as exc:
            if not is_about_one_queue(exc):
                raise
            # The workers say so as well; those of the other queues must not lose their leases.
            log.debug("leases of queue %r can't be renewed: %s", channel.name, exc)

    def _bury(self, dead: Dead, given_back: threading.Event) -> None:
        snapshot, task = dead.snapshot, dead.snapshot.task
        try:
            if task is not None and dead.ended and self._conclude(dead, task):
                # It must not be blamed on the worker.
                task = None
            # A task may have ended the process with exit code 0, too.
            if snapshot.consumers and (dead.code != 0 or task is not None):
                self._give_back(dead, task)
                given_back.set()
                self._forget_clients(snapshot)
        finally:
            given_back.set()
            self._burying.discard(dead.pid)
            dead.notes.close()

    def _conclude(self, dead: Dead, task: bytes) -> bool:
        """The worker was killed to end its task, whose future gets the error."""
        snapshot = dead.snapshot
        said = {"why": dead.ended, "host": socket.gethostname(), "pid": dead.pid}
        body = pack_answer(
            Kind.ENDED,
            json.dumps(said).encode(),
            worker=_worker_name(dead.pid),
            deliveries=0,
            started=time.time() - (time.monotonic() - snapshot.started),
            finished=time.time(),
        )
        channel = self._channels[snapshot.queue]
        try:
            return conclude(channel, snapshot.consumer, snapshot.client, task, bytes(body))
        except PressureError as exc:
            log.warning("task %s's end could not be told: %s", task.hex(), exc)
            return False

    def _give_back(self, dead: Dead, task: bytes | None) -> None:
        snapshot = dead.snapshot
        try:
            if task is not None:
                # Before the task can be claimed again, so that its future knows in time.
                channel = self._channels[snapshot.queue]
                channel.notify(snapshot.client, task, _death_notice(dead))
            failure: PressureError | None = None
            for number, consumer in enumerate(snapshot.consumers):
                if consumer is not None:
                    charge = [task] if task is not None and number == snapshot.queue else []
                    try:
                        self._channels[number].reap(consumer, charge)
                    except PressureError as exc:
                        if not is_about_one_queue(exc):
                            raise
                        failure = exc
            self._gave_back_at = time.monotonic()
            if failure is not None:
                raise failure
        except PressureError as exc:
            # That the server is away was said already.
            level = logging.WARNING if self.away_since is None else logging.DEBUG
            log.log(level, "worker %s's tasks come back when its lease ends: %s", dead.pid, exc)

    def _forget_clients(self, snapshot: Snapshot) -> None:
        """Nobody waits any more for the tasks that the dead worker's tasks have submitted."""
        for number, client_id in enumerate(snapshot.nested):
            if client_id is not None:
                try:
                    remove_replies(self._channels[number], client_id)
                except PressureError as exc:
                    log.debug("a reply queue stays until its time is over: %s", exc)


def _worker_name(pid: int) -> bytes:
    return f"{socket.gethostname()}:{pid}".encode()[:255]


def _death_notice(dead: Dead) -> bytes:
    code = dead.code
    death = {
        "host": socket.gethostname(),
        "pid": dead.pid,
        "exit_code": code if code is None or code >= 0 else None,
        "signal": signal_name(code),
        "stderr": dead.stderr,
    }
    if dead.why:
        death["why"] = dead.why
    body = pack_answer(
        Kind.DEATH,
        json.dumps(death).encode(),
        worker=_worker_name(dead.pid),
        deliveries=0,
        started=0.0,
        finished=time.time(),
    )
    return bytes(body)
