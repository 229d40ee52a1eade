"""What does a pool's work: an executor, the jobs under way, and the threads that feed `imap`."""

from __future__ import annotations

import _thread
import atexit
import itertools
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future
from multiprocessing import util
from typing import Any

from pressure.executor.client.futures import TaskFuture
from pressure.executor.client.redis_executor import RedisExecutor
from pressure.multiprocessing.calls import (
    Function,
    Outcome,
    pack_chunk,
    pack_function,
    run,
    unpack_outcome,
)
from pressure.multiprocessing.results import IMapIterator, Job, MapResult

__all__ = ["PoolExecutor", "Staff"]

PATIENCE = 5.0
"""How long (seconds) `terminate` waits for killed processes to be gone."""


class PoolExecutor(RedisExecutor):
    """The executor of a pool."""

    # As multiprocessing.Pool does.
    _replaces_forked = True
    _ends_first = False

    def start(self) -> None:
        """Start the processes now: the initializer is to run even if no call comes."""
        self._engine.start(everybody=True)

    def abandon(self, error: BaseException) -> None:
        """Kill the local processes, and give all futures the error. Doesn't wait."""
        self._shutdown = True
        self._engine.abandon(error)

    def wait(self, timeout: float) -> None:
        """After `abandon`: wait until everything is gone."""
        self._engine.wait(timeout)


class Staff:
    """Does a pool's work. Nothing here refers to the pool, so that one may be collected: only the
    jobs do, while they are under way."""

    def __init__(self, executor: PoolExecutor, *, local: bool) -> None:
        self.executor = executor
        self.local = local
        self._pid = os.getpid()
        # Reentrant: a collection in here may end another job's or pool's life. Callers take the
        # lock itself: the condition's `with` is Python, and Ctrl-C in it would leave the lock held.
        self._lock = threading.RLock()
        self._condition = threading.Condition(self._lock)
        # Guarded by the lock:
        self._jobs: set[Job] = set()
        # Of calls that daemons run, which only an order can end.
        self._remote: set[Future[bytes]] = set()
        self._feeders: set[threading.Thread] = set()
        self._closed = False
        self._terminated = False
        _working.add(self)
        _end_with_process()

    def is_mine(self) -> bool:
        """Whether this is the process that made the pool."""
        return self._pid == os.getpid()

    def watch(self, job: Job) -> None:
        """A job begins. Raises `ValueError` after `close` and `terminate`."""
        with self._lock:
            if self._closed or self._terminated:
                raise ValueError("Pool not running")
            self._jobs.add(job)

    def forget(self, job: Job) -> None:
        """A job is complete."""
        with self._lock:
            self._jobs.discard(job)

    def send(self, job: Job, index: int, pack: Callable[[], bytes]) -> None:
        """Send a call. What can't be pickled is the outcome of that call."""
        try:
            future = self.executor.submit(run, pack(), self.local)
        except Exception as exc:
            job.put(index, (False, exc))
            return
        if not self.local:
            with self._lock:
                self._remote.add(future)
            future.add_done_callback(self._answered)
        future.add_done_callback(lambda done: job.put(index, _outcome(done)))

    def _answered(self, future: Future[bytes]) -> None:
        with self._lock:
            self._remote.discard(future)

    def send_chunks(
        self,
        job: MapResult[Any],
        func: Callable[..., Any],
        iterable: Iterable[Any],
        size: int,
        count: int,
        *,
        starred: bool,
    ) -> None:
        """Send the `count` chunks of a `map`."""
        sent = 0
        left: Outcome = (True, [])
        try:
            function = pack_function(func, local=self.local)
            items = iter(iterable)
            while sent < count and (chunk := tuple(itertools.islice(items, size))):
                self._send_chunk(job, sent, function, chunk, starred=starred)
                sent += 1
        except Exception as exc:
            left = (False, exc)
        if sent < count:
            # The iterable failed, or was shorter than it had said.
            job.put(sent, left, chunks=count - sent)

    def _send_chunk(
        self, job: Job, index: int, function: Function, chunk: tuple[Any, ...], *, starred: bool
    ) -> None:
        local = self.local
        self.send(job, index, lambda: pack_chunk(function, chunk, starred=starred, local=local))

    def feed(
        self, job: IMapIterator[Any], func: Callable[..., Any], iterable: Iterable[Any], size: int
    ) -> None:
        """Send the calls of an `imap` from a thread of its own, since its iterable may block."""
        thread = threading.Thread(
            target=self._feed, args=(job, func, iterable, size), name="pressure feeder", daemon=True
        )
        try:
            with self._lock:
                self._feeders.add(thread)
            thread.start()
        except BaseException as exc:
            # Perhaps it runs by now, and Ctrl-C came as its beginning was waited for.
            job.abandon(exc)
            self._fed(thread)
            self.forget(job)
            raise

    def _feed(
        self, job: IMapIterator[Any], func: Callable[..., Any], iterable: Iterable[Any], size: int
    ) -> None:
        count = 0
        error: BaseException | None = None
        try:
            function = pack_function(func, local=self.local)
            items = iter(iterable)
            while job.wait_for_room():
                chunk = tuple(itertools.islice(items, size))
                if not chunk:
                    break
                self._send_chunk(job, count, function, chunk, starred=False)
                count += 1
                # The iterable may block for long: keep nothing alive meanwhile.
                del chunk
        except Exception as exc:
            error = exc
        finally:
            job.end(count, error)
            del job, error
            self._fed(threading.current_thread())

    def _fed(self, feeder: threading.Thread) -> None:
        with self._lock:
            self._feeders.discard(feeder)
            finished = self._closed and not self._feeders
            self._condition.notify_all()
        if finished:
            self.executor.shutdown(wait=False)

    def close(self) -> None:
        """No more jobs will come."""
        with self._lock:
            self._closed = True
            finished = not self._feeders
        if finished:
            self.executor.shutdown(wait=False)

    def join(self) -> None:
        """After `close` or `terminate`: wait until all is done and the processes are gone."""
        with self._lock:
            self._condition.wait_for(lambda: not self._feeders or self._terminated)
        self.executor.shutdown(wait=True)
        _working.discard(self)

    def terminate(self) -> None:
        """Kill what runs and drop what waits. Doesn't wait."""
        with self._lock:
            self._terminated = True
            jobs, self._jobs = self._jobs, set()
            remote, self._remote = self._remote, set[Future[bytes]]()
            self._condition.notify_all()
        _working.discard(self)
        error = CancelledError("the pool was terminated")
        for job in jobs:
            job.abandon(error)
        if remote:
            # What can't be cancelled has begun.
            self.executor.shutdown(wait=False, cancel_futures=True)
            for future in remote:
                if isinstance(future, TaskFuture) and not future.done():
                    self.executor.terminate(future)
        self.executor.abandon(error)

    def wait(self) -> None:
        """After `terminate`: wait, for a bounded time, until the processes are gone."""
        self.executor.wait(PATIENCE)

    def release(self) -> None:
        """The pool was collected. That happens in any thread, whatever locks it holds, so the work
        is done in another one, whose start must not be waited for either."""
        try:
            _thread.start_new_thread(self.terminate, ())
        except RuntimeError:
            # The interpreter is ending, and has no other threads any more.
            self.terminate()


def _outcome(future: Future[bytes]) -> Outcome:
    try:
        return unpack_outcome(future.result(0))
    except BaseException as exc:
        return False, exc


_working: set[Staff] = set()
_ending_in = 0
"""The process whose end is taken care of."""


def _end_with_process() -> None:
    """As in `pressure.keeper`: processes of `multiprocessing` don't call what `atexit` knows."""
    global _ending_in
    if _ending_in != os.getpid():
        _ending_in = os.getpid()
        util.Finalize(None, _at_exit, exitpriority=16)


def _at_exit() -> None:
    """A pool that is still at work does not hold up the interpreter's exit: as in the standard
    library it is terminated when all threads have ended that are no daemons."""
    working = list(_working)
    for staff in working:
        staff.terminate()
    for staff in working:
        staff.wait()


def _after_fork() -> None:
    # The parent's pools are the parent's to end.
    _working.clear()


# This module is imported after the keeper, whose own hook closes the connections: so this one is
# called first.
atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork)
