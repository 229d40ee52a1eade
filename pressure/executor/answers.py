"""What an answer makes of a future."""

from __future__ import annotations

import concurrent.futures.process
import contextlib
import json
import logging
from concurrent.futures import InvalidStateError
from typing import Any

from pressure.executor import pickling
from pressure.executor.errors import ResultPayloadError, TaskPayloadError, WorkerLostError
from pressure.executor.futures import TaskFuture
from pressure.executor.records import Answer, Kind

__all__ = ["PendingTask", "finish", "settle", "start"]

log = logging.getLogger("pressure.executor")

# What ProcessPoolExecutor hangs on an exception's __cause__. The stubs know only part of it.
RemoteTraceback: Any = vars(concurrent.futures.process)["_RemoteTraceback"]


class PendingTask:
    """A task without an answer: what is needed to send it again, and what was heard of it."""

    __slots__ = ("deaths", "future", "max_deliveries", "record")

    def __init__(self, future: TaskFuture, record: bytes, max_deliveries: int) -> None:
        self.future = future
        self.record = record
        self.max_deliveries = max_deliveries
        self.deaths: list[dict[str, Any]] = []


def start(future: TaskFuture) -> None:
    """The task runs: from now on it can't be cancelled."""
    if not future.running() and not future.done():
        with contextlib.suppress(InvalidStateError, RuntimeError):
            future.set_running_or_notify_cancel()


def finish(task: PendingTask, answer: Answer) -> None:
    future = task.future
    future._withdrawer = None
    future._info = {
        "worker": answer.worker,
        "started": answer.started,
        "finished": answer.finished,
        "deliveries": answer.deliveries,
    }
    try:
        result, error = _outcome(task, answer)
    except BaseException as exc:
        result, error = (
            None,
            ResultPayloadError(
                f"the result of task {future.task_id} cannot be unpickled here "
                f"({type(exc).__name__}: {exc})"
            ),
        )
        error.__cause__ = exc if isinstance(exc, Exception) else None
    settle(future, result, error)


def settle(future: TaskFuture, result: Any, error: BaseException | None) -> None:
    try:
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)
    except InvalidStateError:
        log.debug("task %s was resolved before", future.task_id)


def _outcome(task: PendingTask, answer: Answer) -> tuple[Any, BaseException | None]:
    if answer.kind == Kind.RESULT:
        return pickling.loads(answer.payload), None
    if answer.kind == Kind.ERROR:
        text, data = pickling.loads(answer.payload)
        error: BaseException = pickling.loads(data)
        error.__cause__ = RemoteTraceback(f'\n"""\n{text}"""')
        return None, error
    if answer.kind == Kind.UNREADABLE:
        why = answer.payload.decode(errors="replace")
        return None, TaskPayloadError(
            f"task {task.future.task_id} could not be read by worker {answer.worker}: {why}"
        )
    if answer.kind == Kind.LOST:
        return None, _worker_lost(task, answer)
    said = json.loads(answer.payload)
    broken = ResultPayloadError(f"task {task.future.task_id}: {said['error']}")
    if said["traceback"]:
        broken.__cause__ = RemoteTraceback(f'\n"""\n{said["traceback"]}"""')
    return None, broken


def _worker_lost(task: PendingTask, answer: Answer) -> WorkerLostError:
    lines = [
        f"task {task.future.task_id}: its worker died, {answer.deliveries} time(s); "
        "the task is in the dead letters"
    ]
    for death in task.deaths:
        how = death.get("signal") or f"exit code {death.get('exit_code')}"
        lines.append(f"  {death.get('host')}, pid {death.get('pid')}: {how}")
        lines += [f"    stderr: {line}" for line in death.get("stderr") or ()]
    return WorkerLostError("\n".join(lines), tuple(task.deaths), answer.deliveries)
