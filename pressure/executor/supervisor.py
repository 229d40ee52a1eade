"""The daemon: a crew of workers on one queue, until it is told to stop."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from types import FrameType
from typing import Any

from pressure.address import Address
from pressure.channel import Channel
from pressure.core import Settings
from pressure.errors import PressureError
from pressure.executor.crew import Crew
from pressure.executor.post import DEFAULT_BOUND, Post

__all__ = ["RECONNECT_TIMEOUT", "Plan", "Supervisor", "default_processes"]

log = logging.getLogger("pressure.worker")

RECONNECT_TIMEOUT = 86_400.0
"""A daemon waits for its server: an operator restarts that, not every worker."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a supervisor is to do. `grace` is in seconds; None: as long as the tasks take."""

    address: Address
    queue: str
    prefix: str
    processes: int
    settings: Settings
    grace: float | None
    max_tasks: int | None = None


class Supervisor:
    """Runs a plan: starts the workers, replaces the dead, and stops on SIGTERM or SIGINT.

    The first signal lets the tasks that run finish, within the grace time, and gives the others
    back; a second one kills. If the supervisor itself is killed, its workers end, too.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._signals = 0
        self._channel = Channel(
            plan.queue,
            plan.address,
            tag=plan.queue,
            prefix=plan.prefix,
            settings=plan.settings,
        )
        self._crew = Crew(
            plan.processes,
            self._channel,
            self._post,
            context=multiprocessing.get_context("fork"),
        )

    def _post(self, notes: str, stderr: Any) -> Post:
        plan = self._plan
        return Post(
            address=plan.address,
            queue=plan.queue,
            prefix=plan.prefix,
            settings=plan.settings,
            notes=notes,
            max_tasks=plan.max_tasks,
            stderr=stderr,
        )

    def run(self) -> None:
        """Work until stopped. Raises `ServerUnavailableError` if no server is there at first."""
        plan = self._plan
        self._channel.ensure(DEFAULT_BOUND)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self._crew.open()
        self._crew.start()
        log.info("%d processes serve queue %r at %s", plan.processes, plan.queue, plan.address)
        while not self._signals:
            self._crew.step()
        self._stop()

    def _stop(self) -> None:
        log.info("stopping: tasks that run may finish; a second signal kills them")
        began = time.monotonic()
        self._crew.stop(self._plan.grace, impatient=lambda: self._signals > 1)
        try:
            self._channel.disconnect()
        except PressureError as exc:
            log.debug("could not sign off: %s", exc)
        log.info("stopped after %.1f s", time.monotonic() - began)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        self._crew.wake()


def default_processes() -> int:
    return os.cpu_count() or 1
