"""Faults of processes: SIGKILL and SIGSTOP, of a worker, a supervisor, a client, or a machine."""

from __future__ import annotations

import contextlib
import os
import random
import signal

from tests.faults.kit.fault import Fault
from tests.support.processes import Child
from tests.support.waiting import eventually


class Killed(Fault):
    """SIGKILL of one process, but not of what it started."""

    def __init__(self, child: Child) -> None:
        self._child = child

    def strike(self) -> None:
        self._child.kill()


class Frozen(Fault):
    """SIGSTOP of one process."""

    def __init__(self, child: Child) -> None:
        self._child = child

    def strike(self) -> None:
        self._child.stop()

    def heal(self) -> None:
        self._child.cont()


class WorkerKilled(Fault):
    """SIGKILL of one of the processes that `supervisor` has started. Its number is in `victims`."""

    def __init__(self, supervisor: Child) -> None:
        self._supervisor = supervisor
        self.victims: list[int] = []

    def strike(self) -> None:
        workers = [pid for pid in self._supervisor.family() if pid != self._supervisor.pid]
        if workers:
            victim = random.choice(workers)
            self.victims.append(victim)
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)


class MachineKilled(Fault):
    """SIGKILL of a process and of all that it has started, as when a machine loses its power."""

    def __init__(self, supervisor: Child) -> None:
        self._supervisor = supervisor

    def strike(self) -> None:
        # The supervisor first, or else it would see its workers die.
        self._supervisor.kill()
        for pid in self._supervisor.family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: not self._supervisor.family())


class MachineFrozen(Fault):
    """SIGSTOP of a process and of all that it has started."""

    def __init__(self, supervisor: Child) -> None:
        self._supervisor = supervisor
        self._stopped: list[int] = []

    def strike(self) -> None:
        self._stopped = self._supervisor.family()
        for pid in self._stopped:
            os.kill(pid, signal.SIGSTOP)

    def heal(self) -> None:
        for pid in self._stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self._stopped.clear()
