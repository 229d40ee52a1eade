"""Tasks that failed and are to be tried again, by their client.

A retry is sent like a new task under the same id, so that any worker may take it. Until then the
future is pending again, and may be cancelled. One thread looks after all that wait, and it is there
only while something does.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from pressure.executor.client.answers import outcome, resolve
from pressure.executor.client.futures import TaskFuture
from pressure.executor.client.ledger import Ledger
from pressure.executor.errors import (
    NestingError,
    ResultPayloadError,
    TaskPayloadError,
    TaskTerminatedError,
)
from pressure.executor.records import Answer

__all__ = ["Retries"]

log = logging.getLogger("pressure.executor")

FINAL = (TaskTerminatedError, TaskPayloadError, ResultPayloadError, NestingError)
"""Another try would end in the same way, or is not wanted."""


class Retries:
    """`ledger` sends a task once more if it is still wanted; `over` hears of each that is done."""

    def __init__(self, ledger: Ledger, over: Callable[[TaskFuture[Any]], None]) -> None:
        self._ledger = ledger
        self._over = over
        self._condition = threading.Condition(threading.Lock())
        self._waiting: list[tuple[float, int, TaskFuture[Any]]] = []
        self._order = itertools.count()
        self._thread: threading.Thread | None = None

    def finish(self, task: TaskFuture[Any], answer: Answer) -> None:
        """Resolve the future of a task that may be retried, or try it again."""
        result, error = outcome(task, answer)
        if error is not None and self._retry(task, error):
            return
        # First: once it is resolved there is nothing that could be sent.
        self._ledger.forget([task._task_id])
        resolve(task, answer, result, error)
        self._over(task)

    def _retry(self, task: TaskFuture[Any], error: BaseException) -> bool:
        options = task._options
        if isinstance(error, FINAL) or not isinstance(error, options.retry_for):
            return False
        if task._attempts > options.retries:
            return False
        try:
            delay = options.delay(task._attempts)
        except Exception as exc:
            log.error("task %s is not retried: its backoff failed: %r", task.task_id, exc)
            return False
        if not task._retried():
            return False
        log.debug("task %s is retried in %.3g s after %r", task.task_id, delay, error)
        task._deaths = ()
        with self._condition:
            due = time.monotonic() + delay
            heapq.heappush(self._waiting, (due, next(self._order), task))
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="pressure retries", daemon=True
                )
                self._thread.start()
            self._condition.notify()
        return True

    def _run(self) -> None:
        while True:
            with self._condition:
                if not self._waiting:
                    self._thread = None
                    return
                left = self._waiting[0][0] - time.monotonic()
                if left > 0:
                    self._condition.wait(left)
                    continue
                task = heapq.heappop(self._waiting)[2]
            self._ledger.again(task._task_id)
            del task

    def close(self) -> None:
        """Nothing is tried again any more."""
        with self._condition:
            self._waiting.clear()
            self._condition.notify()
