"""The daemon: a crew of workers for some queues, until it is told to stop."""

from __future__ import annotations

import faulthandler
import gc
import logging
import multiprocessing
import os
import signal
import socket
import tempfile
import time
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

from pressure.address import Address
from pressure.channel import Channel
from pressure.errors import PressureError
from pressure.executor.measures import Books
from pressure.executor.orders import Order, OrderKind
from pressure.executor.post import DEFAULT_BOUND, Post
from pressure.executor.supervision.crew import STEP, Crew, Daemon
from pressure.executor.supervision.health import HealthFile
from pressure.executor.supervision.logs import Sink, to_stderr
from pressure.executor.supervision.memory import Scales
from pressure.executor.supervision.metrics import Exporter, Source
from pressure.executor.supervision.systemd import ServiceManager
from pressure.executor.supervision.troubles import Troubles
from pressure.retry import is_about_one_queue
from pressure.settings import Settings

__all__ = ["RECONNECT_TIMEOUT", "Plan", "Supervisor", "default_name", "default_processes"]

log = logging.getLogger("pressure.worker")

RECONNECT_TIMEOUT = 86_400.0
"""A daemon waits for its server: an operator restarts that, not every worker."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a supervisor is to do. `grace` is in seconds; None: as long as the tasks take.

    `max_memory` is in bytes, see `Scales`. With `burst` the daemon ends when the queues are empty,
    with `max_idle_time` when no task has run for so many seconds.
    """

    address: Address
    queues: tuple[str, ...]
    prefix: str
    processes: int
    settings: Settings
    grace: float | None
    max_tasks: int | None = None
    max_memory: int | None = None
    name: str = ""
    burst: bool = False
    max_idle_time: float | None = None
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"


class Supervisor:
    """Runs a plan: starts the workers, replaces the dead, and stops on SIGTERM or SIGINT.

    The first signal lets the tasks that run finish, within the grace time, and gives the others
    back; a second one kills. SIGHUP replaces the workers, each when it has finished what it runs.
    SIGUSR1 writes to stderr where all threads of all processes are. If the supervisor itself is
    killed, its workers end, too. `sink` is given what workers write to stderr.
    """

    def __init__(self, plan: Plan, sink: Sink = to_stderr) -> None:
        self._plan = plan = replace(plan, name=plan.name or default_name())
        self._sink = sink
        self._signals = 0
        self._restart = self._dump = False
        self._order: Order | None = None
        self._idle_since = time.monotonic()
        self._seen: list[tuple[int, int]] = []
        client_id = os.urandom(16)
        self._channels = [
            Channel(
                queue,
                plan.address,
                tag=queue,
                prefix=plan.prefix,
                settings=plan.settings,
                client_id=client_id,
            )
            for queue in plan.queues
        ]
        scales = Scales(plan.max_memory) if plan.max_memory is not None else None
        self._books = Books() if plan.metrics_port is not None else None
        self._crew = Crew(
            plan.processes,
            self._channels,
            self._post,
            context=multiprocessing.get_context("fork"),
            daemon=Daemon(plan.name, self._obey, sink, scales, self._books),
        )

    def _post(self, notes: Any, stderr: Any) -> Post:
        plan = self._plan
        return Post(
            address=plan.address,
            queues=plan.queues,
            prefix=plan.prefix,
            settings=plan.settings,
            notes=notes,
            max_tasks=plan.max_tasks,
            stderr=stderr,
            burst=plan.burst,
            name=plan.name,
        )

    def run(self) -> None:
        """Work until stopped. Raises `ServerUnavailableError` if no server is there at first."""
        plan = self._plan
        manager = ServiceManager()
        self._make_queues()
        exporter = self._exporter()
        self._crew.open()
        self._handle_signals()
        health, troubles = HealthFile(plan.name), Troubles(plan.queues)
        # The workers then share this memory for longer.
        gc.collect()
        gc.freeze()
        self._crew.start()
        queues = ", ".join(repr(queue) for queue in plan.queues)
        serving = f"{plan.processes} processes serve queue {queues} at {plan.address}"
        log.info("%s", serving)
        manager.ready(serving)
        try:
            while not self._is_over():
                self._crew.step(min(STEP, manager.interval, self._idle_left()))
                manager.alive()
                members = self._crew.members
                health.write(members, self._crew.clerk.away_since, troubles.look(members))
                if self._restart:
                    self._restart = False
                    manager.reloading()
                    log.info("the workers are replaced, each when it has finished what it runs")
                    self._crew.replace_all()
                    manager.ready(serving)
                if self._dump:
                    self._dump_stacks()
            manager.stopping()
            self._stop()
        except BaseException:
            # Nobody looks after them any more, and the interpreter would wait for them to end.
            self._crew.dismiss()
            raise
        finally:
            health.close()
            if exporter is not None:
                exporter.close()

    def _make_queues(self) -> None:
        """Make those that aren't there. Raises what the server answers; about some of several
        queues only if about all: the others are served."""
        failures = []
        for channel in self._channels:
            try:
                channel.ensure(DEFAULT_BOUND)
            except PressureError as exc:
                if not is_about_one_queue(exc):
                    raise
                failures.append(exc)
        if len(failures) == len(self._channels):
            raise failures[0]

    def _exporter(self) -> Exporter | None:
        """Serves the metrics, if they are wanted. Raises `MetricsError`."""
        plan = self._plan
        if plan.metrics_port is None or self._books is None:
            return None
        source = Source(
            plan.address, plan.prefix, plan.queues, lambda: self._crew.members, self._books
        )
        return Exporter(source, plan.metrics_host, plan.metrics_port)

    def _is_over(self) -> bool:
        return bool(
            self._signals or self._order is not None or self._crew.retired or self._idle_left() <= 0
        )

    def _idle_left(self) -> float:
        """How long (seconds) the workers may still be idle."""
        limit = self._plan.max_idle_time
        if limit is None:
            return float("inf")
        notes = [(member.pid, member.notes.read()) for member in self._crew.members]
        seen = [(pid, snapshot.done) for pid, snapshot in notes]
        busy = any(snapshot.task is not None or not snapshot.ready for _, snapshot in notes)
        if busy or seen != self._seen or self._crew.clerk.away_since is not None:
            self._seen, self._idle_since = seen, time.monotonic()
        return max(0.0, self._idle_since + limit - time.monotonic())

    def _stop(self) -> None:
        grace = self._plan.grace
        if self._order is not None and self._order.grace is not None:
            grace = self._order.grace
        if self._signals or self._order is not None:
            log.info("stopping: tasks that run may finish; a second signal kills them")
        else:
            self._crew.clerk.do(self._say_what_is_left)
        began = time.monotonic()
        patience = 1 if self._signals else 0
        self._crew.stop(grace, impatient=lambda: self._signals > patience)
        for channel in self._channels:
            if self._crew.clerk.unanswered:
                channel.handle.abandon()
                continue
            try:
                channel.disconnect()
            except PressureError as exc:
                log.debug("could not sign off: %s", exc)
        log.info("stopped after %.1f s", time.monotonic() - began)

    def _say_what_is_left(self) -> None:
        paused = ", ".join(repr(channel.name) for channel in self._channels if channel.paused)
        but = f", but in what is paused: {paused}" if paused else ""
        log.info("stopping: nothing is left to do%s", but)

    # Signals and orders

    def _handle_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            # Unless it was started to outlive its terminal.
            signal.signal(signal.SIGHUP, self._on_restart)
        signal.signal(signal.SIGUSR1, self._on_dump)

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        self._crew.wake()

    def _on_restart(self, number: int, frame: FrameType | None) -> None:
        self._restart = True
        self._crew.wake()

    def _on_dump(self, number: int, frame: FrameType | None) -> None:
        self._dump = True
        self._crew.wake()

    def _dump_stacks(self) -> None:
        self._dump = False
        log.info("the stacks of all processes, first of the supervisor:")
        with tempfile.TemporaryFile() as file:
            faulthandler.dump_traceback(file)
            file.seek(0)
            self._sink(os.getpid(), file.read())
        for member in self._crew.members:
            # One that has no handler yet holds it back until it has.
            member.signal(signal.SIGUSR1)

    def _obey(self, order: Order) -> dict[str, Any]:
        if order.kind == OrderKind.STOP and self._order is None:
            log.info("an order to stop has come")
            self._order = order
            self._crew.wake()
        return {
            "name": self._plan.name,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "processes": len(self._crew.members),
            "stopping": bool(self._signals or self._order is not None),
        }


def default_processes() -> int:
    return os.cpu_count() or 1


def default_name() -> str:
    """What a daemon is called that was given no name."""
    return f"{socket.gethostname()}:{os.getpid()}"
