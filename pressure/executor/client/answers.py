"""What an answer makes of a future."""

from __future__ import annotations

import concurrent.futures.process
import contextlib
import copy
import logging
import pickle
import traceback
from collections.abc import Iterable
from concurrent.futures import InvalidStateError
from typing import Any

from pressure.channel import Delivery
from pressure.content import Buffer
from pressure.executor import pickling
from pressure.executor.client.futures import TaskFuture
from pressure.executor.errors import (
    ResultPayloadError,
    TaskLostError,
    TaskPayloadError,
    TaskTerminatedError,
    TaskTimeoutError,
    WorkerLostError,
)
from pressure.executor.records import Answer, Kind, read_head, split_answers, unpack_answer

__all__ = [
    "OTHER_KEY",
    "explained",
    "finish",
    "fresh",
    "outcome",
    "read",
    "read_all",
    "resolve",
    "settle",
    "start",
]

log = logging.getLogger("pressure.executor")

# What ProcessPoolExecutor hangs on an exception's __cause__. The stubs know only part of it.
RemoteTraceback: Any = vars(concurrent.futures.process)["_RemoteTraceback"]


OTHER_KEY = (
    "unless somebody has altered it, the workers sign with another key than this program, or only "
    "one side has one: give both the same (PRESSURE_KEY, key=, --key-file); `pressure doctor` "
    "compares them. Whether the task ran is not known"
)

# What many tasks return needs no unpickling.
_CONSTANTS = {pickle.dumps(value, pickling.PROTOCOL): value for value in (None, True, False)}
_SHORT = max(map(len, _CONSTANTS))
_UNKNOWN: Any = object()
_RESULT = int(Kind.RESULT)


def read_all(deliveries: Iterable[Delivery], most_bytes: int) -> list[tuple[bytes, Answer | str]]:
    """What these say of their tasks, in order."""
    found: list[tuple[bytes, Answer | str]] = []
    for delivery in deliveries:
        found += read(delivery, most_bytes)
    return found


def read(delivery: Delivery, most_bytes: int) -> list[tuple[bytes, Answer | str]]:
    """What an item says of each of its tasks: an answer, or why it can't be read. `most_bytes` is
    what an answer may have."""
    if delivery.error:
        why = f"{delivery.error}; {OTHER_KEY}" if delivery.refused else delivery.error
        return [(id, why) for id in _concerned(delivery)]
    try:
        several = split_answers(delivery.body)
        if several is None:
            return [(delivery.id, _read(delivery.body, most_bytes))]
        return [(id, _read(record, most_bytes)) for id, record in several]
    except ValueError as exc:
        return [(delivery.id, str(exc))]


def _concerned(delivery: Delivery) -> list[bytes]:
    """The tasks of an item that can't be used: they hear of it, however wrong it is."""
    try:
        several = split_answers(delivery.unchecked)
    except ValueError:
        several = None
    return [id for id, _ in several or ()] or [delivery.id]


def _read(record: Buffer, most_bytes: int) -> Answer | str:
    if len(record) > most_bytes:
        return f"it has {len(record):,} bytes, and max_item_bytes is {most_bytes:,} here"
    try:
        return unpack_answer(record)
    except ValueError as exc:
        return str(exc)


def start(future: TaskFuture[Any]) -> None:
    """The task runs: from now on it can't be cancelled."""
    if not future.running() and not future.done():
        with contextlib.suppress(InvalidStateError, RuntimeError):
            future.set_running_or_notify_cancel()


def finish(task: TaskFuture[Any], answer: Answer) -> None:
    kind, head, payload, output = answer
    if kind == _RESULT and len(payload) <= _SHORT and not output:
        result = _CONSTANTS.get(bytes(payload), _UNKNOWN)
        if result is not _UNKNOWN:
            # As `resolve`, with fewer calls.
            task._head = head
            settle(task, result, None)
            return
    resolve(task, answer, *outcome(task, answer))


def resolve(
    task: TaskFuture[Any], answer: Answer, result: Any, error: BaseException | None
) -> None:
    task._head = answer.head
    if answer.output:
        task._output = answer.output
    settle(task, result, error)


def outcome(task: TaskFuture[Any], answer: Answer) -> tuple[Any, BaseException | None]:
    """The result, or the error, that an answer stands for."""
    try:
        return _outcome(task, answer)
    except BaseException as exc:
        advice = ""
        if isinstance(exc, ImportError | AttributeError):
            advice = "; what a task returns or raises has to be there on this side, too"
        error = ResultPayloadError(
            f"the result of task {task.task_id}, from worker {_worker(answer)}, cannot be "
            f"unpickled here ({type(exc).__name__}: {exc}){advice}"
        )
        error.__cause__ = exc if isinstance(exc, Exception) else None
        return None, error


def settle(future: TaskFuture[Any], result: Any, error: BaseException | None) -> None:
    future._over()
    try:
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)
    except InvalidStateError:
        log.debug("task %s was resolved before", future.task_id)
    except BaseException:
        # Out of a callback. The thread that calls them serves all other futures, too.
        log.exception("a callback of task %s failed", future.task_id)


def explained(exc: BaseException) -> BaseException:
    """What kept a task from being pickled, as the stdlib hands it out: its cause is its traceback
    as text. Without the frame that caught it, which refers to the future."""
    caught = exc.__traceback__
    text = "".join(traceback.format_exception(exc))
    if exc.__suppress_context__:
        # Nobody is to see it: the failure of a second way to pickle it, mostly.
        exc.__context__ = None
    exc.__cause__ = RemoteTraceback(f'\n"""\n{text}"""')
    return exc.with_traceback(caught and caught.tb_next)


def fresh(exc: BaseException) -> BaseException:
    """A copy for one more future: each has an exception of its own, whose traceback grows."""
    try:
        twin = copy.copy(exc)
    except Exception:
        return exc
    twin.__cause__ = exc.__cause__
    return twin


def _outcome(task: TaskFuture[Any], answer: Answer) -> tuple[Any, BaseException | None]:
    if answer.kind == Kind.RESULT:
        return pickling.loads(answer.payload), None
    if answer.kind == Kind.ERROR:
        text, data = pickling.loads(answer.payload)
        error: BaseException = pickling.loads(data)
        error.__cause__ = RemoteTraceback(f'\n"""\n{text}"""')
        return None, error
    if answer.kind == Kind.UNREADABLE:
        why = bytes(answer.payload).decode(errors="replace")
        return None, TaskPayloadError(
            f"task {task.task_id} could not be read by worker {_worker(answer)}: {why}"
        )
    if answer.kind == Kind.LOST:
        return None, _worker_lost(task, answer)
    if answer.kind == Kind.DOUBTFUL:
        return None, TaskLostError(
            f"task {task.task_id} was put to another server than the one that worker "
            f"{_worker(answer)} has it from, or to an earlier run of it, where it may have been "
            "begun; it may run at most once, so it was not run again"
        )
    said = answer.json()
    if answer.kind == Kind.ENDED:
        return None, _ended(task, said)
    broken = ResultPayloadError(f"task {task.task_id} on worker {_worker(answer)}: {said['error']}")
    if said["traceback"]:
        broken.__cause__ = RemoteTraceback(f'\n"""\n{said["traceback"]}"""')
    return None, broken


def _worker(answer: Answer) -> str:
    return answer.worker.decode(errors="replace")


def _ended(task: TaskFuture[Any], said: dict[str, Any]) -> TaskTimeoutError | TaskTerminatedError:
    where = f"its worker process {said['pid']} on {said['host']} was killed"
    if said["why"] == "timeout" and task._options.timeout is None:
        return TaskTimeoutError(
            f"task {task.task_id} waited for one of its own, which it ran itself and which did not "
            f"end in time, so {where}"
        )
    if said["why"] == "timeout":
        return TaskTimeoutError(
            f"task {task.task_id} did not end within its timeout of "
            f"{task._options.timeout} s and {task._options.grace:g} s more, so {where}"
        )
    return TaskTerminatedError(
        f"task {task.task_id} did not end when it was terminated, so {where}"
    )


def _worker_lost(task: TaskFuture[Any], answer: Answer) -> WorkerLostError:
    deliveries = read_head(answer.head).deliveries
    lines = [
        f"task {task.task_id}: its worker died, {deliveries} time(s); "
        "the task is in the dead letters"
    ]
    for death in task._deaths:
        how = death.get("signal") or f"exit code {death.get('exit_code')}"
        if death.get("why"):
            how += f" ({death['why']})"
        lines.append(f"  {death.get('host')}, pid {death.get('pid')}: {how}")
        lines += [f"    stderr: {line}" for line in death.get("stderr") or ()]
    return WorkerLostError("\n".join(lines), task._deaths, deliveries)
