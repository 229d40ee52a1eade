"""How an executor is getting on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pressure.channel import Channel
from pressure.errors import PressureError
from pressure.executor.client.futures import TaskFuture
from pressure.executor.client.ledger import Ledger
from pressure.executor.records import Answer, Kind, read_head

__all__ = ["ExecutorStats", "Tally", "gather"]


_RESULT = int(Kind.RESULT)


@dataclass(frozen=True, slots=True)
class ExecutorStats:
    """What `stats` returns.

    Attributes:
        pending: tasks that wait here to be sent.
        queued: tasks that were sent, and of which it is not known that they run.
        running: tasks that have been running for longer than a moment.
        done: tasks that ended with a result.
        failed: tasks that ended with an error, or could not be submitted.
        cancelled: tasks that were cancelled before they began.
        workers: the worker processes (`host:pid`) that have sent answers.
        queue_depth: tasks of all clients that wait in the queue; None if the server can't say.
    """

    pending: int
    queued: int
    running: int
    done: int
    failed: int
    cancelled: int
    workers: frozenset[str]
    queue_depth: int | None


class Tally:
    """What became of tasks so far."""

    __slots__ = ("cancelled", "done", "failed", "workers")

    def __init__(self) -> None:
        self.done = 0
        self.failed = 0
        self.cancelled = 0
        self.workers: set[bytes] = set()

    def answered(self, answer: Answer) -> None:
        """A task has ended with this."""
        self.workers.add(answer.worker)
        if answer.kind == _RESULT:
            self.done += 1
        else:
            self.failed += 1

    def ended(self, future: TaskFuture[Any]) -> None:
        """A task has ended with what its future has."""
        if future._head:
            self.workers.add(read_head(future._head).worker)
        if future.cancelled():
            self.cancelled += 1
        elif future.exception() is None:
            self.done += 1
        else:
            self.failed += 1


def gather(ledger: Ledger, tally: Tally, channel: Channel) -> ExecutorStats:
    """How things are. Asks the server for the queue's depth."""
    with ledger.lock:
        tasks, sent = len(ledger.tasks), list(ledger.sent)
        tasks_sent = [ledger.tasks[task_id] for task_id in sent if task_id in ledger.tasks]
        running = sum(task.running() for task in tasks_sent)
    try:
        depth = channel.size()
    except PressureError:
        depth = None
    return ExecutorStats(
        pending=tasks - len(sent),
        queued=len(sent) - running,
        running=running,
        done=tally.done,
        failed=tally.failed + ledger.refused,
        cancelled=tally.cancelled,
        workers=frozenset(worker.decode(errors="replace") for worker in tally.workers),
        queue_depth=depth,
    )
