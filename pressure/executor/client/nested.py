"""`current_executor()`: tasks that submit tasks.

A worker process whose tasks submit is a client, too: one for all of them, made when it is needed,
with a reply queue of its own. Children go to the head of the task queue, and may exceed its bound,
since whoever waits for them keeps a worker from doing anything else.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from pressure.channel import Delivery
from pressure.content import Content
from pressure.executor import context
from pressure.executor.client.answers import settle, start
from pressure.executor.client.base import TaskExecutor
from pressure.executor.client.dispatcher import Dispatcher
from pressure.executor.client.futures import TaskFuture
from pressure.executor.client.options import USUAL, Options
from pressure.executor.client.statistics import ExecutorStats
from pressure.executor.client.waiting import ChildFuture
from pressure.executor.errors import NestingError
from pressure.executor.post import DEFAULT_BOUND
from pressure.executor.records import unpack_answer
from pressure.executor.sharing import Shared

__all__ = ["NestedExecutor", "current_executor"]

log = logging.getLogger("pressure.worker")

T = TypeVar("T")
WINDOW = 2000
DEPTH = 100
"""So many tasks may wait for each other in one thread."""
FAREWELL = 2.0
IDLE = 0.25
"""A process that does next to nothing for so long (seconds) while its children wait for a worker
waits for them in a way that can't be seen from here."""
LITTLE = 0.2
"""Next to nothing: this part of a CPU."""


def current_executor() -> TaskExecutor:
    """Inside a task: an executor on the queue from which this task came.

    Its tasks are preferred to those that wait already. A task that waits for its children, with
    `result`, `exception`, `map`, `wait` or `as_completed`, runs those that nobody else has begun,
    also if it then takes longer than a time-out that it waits with; so nothing deadlocks, however
    few workers there are. More than 100 tasks can't wait for each other in one process: the
    innermost future raises `NestingError`. Where a task waits for its children in another way (an
    event loop, polling), they are run in another thread of its process if no worker takes them;
    there no time-out ends them, nor `terminate`, which returns False then.

    What a task leaves behind when it ends is done by others, as long as this worker process lives.

    Raises `RuntimeError` outside of tasks.
    """
    here = context.here()
    if here is None:
        raise RuntimeError("no task runs here: current_executor() is for the code of tasks")
    queue = here.queue()
    # A time-out that is raised while it connects would pass for one of the connection.
    shield = here.guard.shield() if _in_main_thread() else contextlib.nullcontext()
    with shield, _lock:
        made = _made.get(queue)
        if made is None or made.here is not here:
            made = _made[queue] = NestedExecutor(here, queue)
        return made


_made: dict[str, NestedExecutor] = {}
_lock = threading.Lock()


class NestedExecutor(TaskExecutor):
    """See `current_executor`. All tasks of a process and a queue share it, so `shutdown` ends
    nothing."""

    def __init__(self, here: context.Here, queue: str) -> None:
        self.here = here
        self._options = USUAL
        self._dispatcher = _NestedDispatcher(here, queue)
        self._dispatcher.start()
        here.outstanding.append(self._dispatcher.outstanding)
        here.at_exit.append(self._dispatcher.leave)

    def _submit(
        self, fn: Callable[..., Any], args: Any, kwargs: dict[str, Any], options: Options
    ) -> TaskFuture[Any]:
        with self._dispatcher.shielded():
            future = self._dispatcher.submit(fn, args, kwargs, options)
            self._dispatcher.attend()
        return future

    def _terminate(self, future: TaskFuture[Any], grace: float) -> bool:
        return self._dispatcher.terminate(future, grace)

    def share(self, obj: T) -> Shared[T]:
        with self._dispatcher.shielded():
            return self._dispatcher.shelf.share(obj)

    def stats(self) -> ExecutorStats:
        with self._dispatcher.shielded():
            return self._dispatcher.stats()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Cancel what has not begun (`cancel_futures`), and wait for all that this process's tasks
        have submitted (`wait`). The executor can still be used."""
        if cancel_futures:
            self._dispatcher.cancel_all()
        if wait:
            for future in self._dispatcher.outstanding():
                with contextlib.suppress(BaseException):
                    future.exception()


class _NestedDispatcher(Dispatcher):
    """A dispatcher whose futures' waiters run tasks themselves."""

    _future_type = ChildFuture

    def __init__(self, here: context.Here, queue: str) -> None:
        self._here = here
        channel = here.post.channel(queue)
        super().__init__(
            channel,
            bound=DEFAULT_BOUND,
            window=WINDOW,
            heed_workers=False,
            same_main=here.post.same_main,
            local=here.post.local,
        )
        here.notes.nested(channel.client_id, here.post.queues.index(queue))
        self._client_id = channel.client_id
        # The ids of the children that run in other threads than the main one.
        self._aside: set[bytes] = set()
        self._attending = threading.Lock()
        self._attendant: threading.Thread | None = None
        self._helpers: set[threading.Thread] = set()
        # How often one of them was done with a child: then there are enough of them.
        self._helped = 0
        self.waits: set[object] = set()

    def start(self) -> None:
        super().start()
        self._sender.producer.at_head = True

    def shielded(self) -> AbstractContextManager[None]:
        """While something is sent or received, it isn't broken off for the sake of a time-out."""
        return self._here.guard.shield() if _in_main_thread() else contextlib.nullcontext()

    def outstanding(self) -> list[TaskFuture[Any]]:
        with self.ledger.lock:
            return [task for task in self.ledger.tasks.values()]

    def terminate(self, future: TaskFuture[Any], grace: float) -> bool:
        if self._here.guard.terminate(future._task_id, grace):
            return True
        # Nothing can be raised in another thread, and its process is that of who asks.
        return future._task_id not in self._aside and super().terminate(future, grace)

    def help(self, future: ChildFuture[Any]) -> bool:
        """Run a child here if nobody has begun it (`waiting.Helper`)."""
        with self.shielded():
            taken = self._recall.take_back([future._task_id])
        for task in taken:
            self._run_here(task)
        return bool(taken)

    def _run_here(self, task: TaskFuture[Any]) -> None:
        if _nested.depth >= DEPTH:
            settle(
                task,
                None,
                NestingError(f"{DEPTH} tasks wait for each other in this process"),
            )
            return
        record = task._record
        delivery = Delivery(
            task._task_id,
            self._client_id,
            record.joined() if isinstance(record, Content) else record,
            0,
            task._options.max_deliveries,
            int(time.time() * 1000),
        )
        guard = self._here.guard if _in_main_thread() else None
        try:
            if guard is None:
                self._aside.add(task._task_id)
            else:
                guard.begin_inner(task._task_id)
            with _one_deeper():
                self._sender.provide(task._needs)
                start(task)
                answer = self._here.run(delivery).answer
                assert isinstance(answer, bytes | Content)
                body = answer.joined() if isinstance(answer, Content) else answer
                if task._options.retries:
                    with self.ledger.lock:
                        self.ledger.tasks[delivery.id] = task
                self._resolve_one(task, unpack_answer(body))
        except BaseException as exc:
            # It was this thread's own task that was interrupted.
            self.ledger.forget([task._task_id])
            settle(task, None, exc)
            raise
        finally:
            if guard is None:
                self._aside.discard(task._task_id)
            else:
                guard.end_inner(task._task_id)
        if guard is not None:
            guard.pay()

    # Children that are waited for in ways of the user's own

    def attend(self) -> None:
        """See to it that the children are run."""
        if self._attendant is None:
            with self._attending:
                if self._attendant is None:
                    self._attendant = threading.Thread(
                        target=self._attend, name="pressure nested", daemon=True
                    )
                    self._attendant.start()

    def _attend(self) -> None:
        worked, helped = time.process_time(), 0
        while not self._done.wait(IDLE):
            before, worked = worked, time.process_time()
            if worked - before > LITTLE * IDLE or self.waits or len(self._helpers) >= DEPTH:
                continue
            before_helped, helped = helped, self._helped
            if helped == before_helped and any(map(_is_unbegun, self.outstanding())):
                thread = threading.Thread(target=self._assist, daemon=True)
                self._helpers.add(thread)
                thread.start()

    def _assist(self) -> None:
        """Run the children that nobody has begun, one after the other: the latest first, for which
        others may wait."""
        tried: set[bytes] = set()
        try:
            while not self.waits:
                for future in reversed(self.outstanding()):
                    if _is_unbegun(future) and future._task_id not in tried:
                        break
                else:
                    return
                tried.add(future._task_id)
                if isinstance(future, ChildFuture):
                    self.help(future)
                    self._helped += 1
        except BaseException as exc:
            log.debug("a child ended its thread: %r", exc)
        finally:
            self._helpers.discard(threading.current_thread())

    def leave(self) -> None:
        """The worker ends: cancel what has not begun, and clean up."""
        self.cancel_all()
        self.finish()
        until = time.monotonic() + FAREWELL
        while not self.wait(0.02):
            if time.monotonic() > until:
                self.fail(RuntimeError("the worker process whose task submitted this has ended"))
            self.unblock()
            if time.monotonic() > until + FAREWELL:
                break
        self.close()


def _is_unbegun(future: TaskFuture[Any]) -> bool:
    return not (future.running() or future.done())


class _Nested(threading.local):
    depth = 0


_nested = _Nested()
_levels = 0
_usual_limit = 0
_limit_lock = threading.Lock()


@contextlib.contextmanager
def _one_deeper() -> Iterator[None]:
    """Let the task that runs in here recurse as deeply as one that does not run inside another."""
    global _levels, _usual_limit
    frames, frame = 0, sys._getframe()
    while frame.f_back is not None:
        frames, frame = frames + 1, frame.f_back
    with _limit_lock:
        if not _levels:
            _usual_limit = sys.getrecursionlimit()
        _levels += 1
        sys.setrecursionlimit(max(sys.getrecursionlimit(), _usual_limit + frames))
    _nested.depth += 1
    try:
        yield
    finally:
        _nested.depth -= 1
        with _limit_lock:
            _levels -= 1
            if not _levels:
                sys.setrecursionlimit(_usual_limit)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
