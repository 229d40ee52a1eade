"""What does an executor's work, and ends after it."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from queue import Empty, SimpleQueue
from typing import Any

from pressure.address import Address
from pressure.channel import Channel
from pressure.executor.by_value import shares_main
from pressure.executor.client.answers import fresh
from pressure.executor.client.dispatcher import Dispatcher
from pressure.executor.client.futures import TaskFuture
from pressure.executor.client.options import Options
from pressure.executor.errors import NoWorkersError
from pressure.executor.post import DEFAULT_BOUND, Post
from pressure.executor.supervision.crew import STEP, Crew
from pressure.settings import Settings

__all__ = ["Engine", "exiting"]

log = logging.getLogger("pressure.executor")

WINDOW = 2000
GRACE = 5.0
UNBLOCK = 0.02
LINGER = 1.0
ABANDON = 5.0
"""How long (seconds) the end of all work waits for a server that is away."""


class Engine:
    """What does an executor's work: the dispatcher, and the local workers if there are any.

    Nothing here refers to the executor, so that one may be collected while its work goes on.
    """

    def __init__(
        self,
        address: Address,
        queue: str,
        prefix: str,
        settings: Settings,
        *,
        local_workers: int | None,
        mp_context: Any,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        max_tasks_per_child: int | None,
        max_pending: int | None,
        no_workers_timeout: float | None,
        ends_first: bool,
    ) -> None:
        self.ends_first = ends_first
        context = mp_context
        if context is None and local_workers is not None:
            method = "spawn" if max_tasks_per_child is not None else None
            context = multiprocessing.get_context(method)
        same_main = context is not None and shares_main(context.get_start_method())
        self._channel = Channel(queue, address, tag=queue, prefix=prefix, settings=settings)
        self.dispatcher = Dispatcher(
            self._channel,
            bound=DEFAULT_BOUND,
            window=WINDOW,
            max_pending=max_pending,
            no_workers_timeout=no_workers_timeout,
            heed_workers=local_workers is None,
            same_main=same_main,
            local=local_workers is not None,
        )
        self.dispatcher.on_idle = self._wake
        self.context: Any = None
        self.thread: threading.Thread | None = None
        self._process = os.getpid()
        self._crew: Crew | None = None
        self._growing = False
        self._grace: float | None = None
        self._start_lock = threading.Lock()
        self._started = False
        # The garbage collector may ring it.
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._ended = threading.Event()
        if local_workers is not None:
            self._crew_channel = Channel(
                queue, address, tag=queue, prefix=prefix, settings=settings
            )

            def post(notes: Any, stderr: Any) -> Post:
                return Post(
                    address=address,
                    queues=(queue,),
                    prefix=prefix,
                    settings=settings,
                    notes=notes,
                    max_tasks=max_tasks_per_child,
                    stderr=stderr,
                    initializer=initializer,
                    initargs=initargs,
                    same_main=same_main,
                )

            self.context = context
            # Processes that are not forked are slow to start, so they are started as need be.
            self._growing = context.get_start_method() != "fork"
            self._crew = Crew(
                local_workers,
                [self._crew_channel],
                post,
                context=context,
                broken=self.dispatcher.fail,
                patient=initializer is not None,
            )

    @property
    def was_used(self) -> bool:
        """Whether it was started in this process."""
        return self._started

    @property
    def processes(self) -> dict[int, Any]:
        """The local worker processes by pid. Waits a moment for those that are being started."""
        if self._crew is None:
            return {}
        if self._started and self.context.get_start_method() != "fork":
            self._crew.await_growth(GRACE)
        return self._crew.processes

    def submit(
        self, fn: Callable[..., Any], args: Any, kwargs: dict[str, Any], options: Options
    ) -> TaskFuture[Any]:
        """As `Dispatcher.submit`, after all that is needed was started."""
        if not self._started:
            self._start()
        future = self.dispatcher.submit(fn, args, kwargs, options)
        if self._growing:
            self._grow()
        return future

    def start(self, *, everybody: bool = False) -> None:
        """Start all that is needed, once; with `everybody` all the local workers at once."""
        if everybody:
            self._growing = False
        self._start()

    def _start(self) -> None:
        # Before the lock, which may have been held by another thread when this process was forked.
        if self._process != os.getpid():
            raise RuntimeError("this executor belongs to the parent process: make one of your own")
        with self._start_lock:
            self._start_once()

    def _grow(self) -> None:
        """As many processes as there ever were tasks at once. As with `ProcessPoolExecutor`, those
        that could not be pickled count."""
        ledger, crew = self.dispatcher.ledger, self._crew
        assert crew is not None
        if not crew.want(len(ledger.tasks) + ledger.refused):
            self._growing = False

    def _start_once(self) -> None:
        if self._started:
            return
        failure = self.dispatcher.failure
        if failure is not None:
            if isinstance(failure, Exception):
                raise fresh(failure)
            # It was Ctrl-C, and is none now.
            raise NoWorkersError("the start of this executor was interrupted: make another one")
        crew = self._crew
        # Taken by whoever supervises: that is the thread, or who was cut short in starting it.
        supervised = threading.Lock()
        self._channel.ensure(DEFAULT_BOUND)
        # Before the first fork: a worker must not take its parent's engine for its own.
        _engines.add(self)
        try:
            if crew is not None:
                # Processes first, while this one has few threads: they may be forked.
                crew.open()
                crew.want(1 if self._growing else None)
                crew.start()
            self.dispatcher.start()
            target, name = (
                (self._wait, "pressure engine") if crew is None else (self._watch, "pressure crew")
            )
            self.thread = threading.Thread(target=_supervise, args=(target, supervised), name=name)
            self.thread.daemon = True
            self.thread.start()
        except BaseException as exc:
            self._grace = 0.0
            self.dispatcher.fail(exc)
            self._end_start(supervised)
            _engines.discard(self)
            raise
        self._started = True

    def _end_start(self, supervised: threading.Lock) -> None:
        """The start was cut short, and all has failed: leave nothing behind."""
        if not supervised.acquire(blocking=False):
            # Its thread runs, and does that.
            self._wake()
            self._ended.wait(GRACE)
            return
        if self._crew is not None:
            self._crew.stop(0.0)
        if self.dispatcher.idents:
            self.dispatcher.unblock()
            self._close()

    def _watch(self) -> None:
        """Supervise until the work is done, then stop the workers and clean up."""
        crew = self._crew
        assert crew is not None
        try:
            ending = _Ending(self.dispatcher)
            while not self.dispatcher.wait(0):
                if ending.given_up(hurry=self._grace == 0):
                    break
                crew.step(UNBLOCK if self.dispatcher.is_done() else STEP)
            broken = self.dispatcher.failure is not None
            crew.stop(self._grace if self._grace is not None else GRACE if broken else None)
            self._delete_queue()
        except BaseException as exc:
            log.exception("the supervisor of local workers failed")
            self.dispatcher.fail(_as_broken(exc))
            crew.dismiss()
        finally:
            self._close()

    def _wait(self) -> None:
        ending = _Ending(self.dispatcher)
        while not self.dispatcher.wait(0) and not ending.given_up(hurry=self._grace == 0):
            with contextlib.suppress(Empty):
                self._bell.get(timeout=UNBLOCK if self.dispatcher.is_done() else None)
        self._close()

    def _delete_queue(self) -> None:
        try:
            self._crew_channel.delete()
        except Exception as exc:
            log.debug("the queue could not be deleted: %s", exc)
        self._crew_channel.disconnect()

    def _close(self) -> None:
        try:
            self.dispatcher.close()
        finally:
            _engines.discard(self)
            self._ended.set()

    def finish(self) -> None:
        """No more tasks will come."""
        if self._process != os.getpid():
            # A forked child's copy is collected: the locks may be held, by nobody, for ever.
            return
        self.dispatcher.finish()
        self._wake()

    def disown(self) -> None:
        """In a forked child, whose threads are gone and whose connections are the parent's."""
        self._started = False
        self._start_lock = threading.Lock()

    def interrupt(self) -> None:
        """Cancel what has not begun, and give what runs a bounded time."""
        self.dispatcher.cancel_all()
        self.finish()
        if self._started and not self._ended.wait(GRACE):
            self._grace = 0.0
            self.dispatcher.fail(CancelledError("interrupted"))

    def abandon(self, error: BaseException) -> None:
        """End at once: local workers are killed, and every future gets the error. Doesn't wait."""
        if self._crew is not None:
            self._crew.dismiss()
        self.dispatcher.fail(error)
        self.finish()

    def _wake(self) -> None:
        if self._crew is not None:
            self._crew.wake()
        self._bell.put(None)

    def wait(self, timeout: float | None = None) -> None:
        """Wait until all is done and nothing is left behind, for `timeout` seconds at most.

        A callback of a future runs in a thread that this would wait for. There it doesn't wait, and
        without a `timeout` raises `RuntimeError`, as the standard library does.
        """
        if not self._started or self._process != os.getpid() or self._ended.is_set():
            return
        me = threading.current_thread()
        if me not in self.dispatcher.threads and me is not self.thread:
            self._ended.wait(timeout)
        elif timeout is None:
            raise RuntimeError("cannot join current thread")

    join_thread = wait
    """As the call queue of `ProcessPoolExecutor` has it."""


def _supervise(work: Callable[[], None], supervised: threading.Lock) -> None:
    """What an engine's thread does."""
    if supervised.acquire(blocking=False):
        work()


class _Ending:
    """Ends the wait of a dispatcher's listener when there is nothing more to come."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._away_since: float | None = None
        self._done_since: float | None = None

    def given_up(self, *, hurry: bool) -> bool:
        """Do it, if it is time. True if the server has been away for too long to wait for it. In a
        hurry, the listener gets a moment: Ctrl-C in `wait` and `as_completed` leaves the locks of
        futures taken, and it may wait for one."""
        if not self._dispatcher.is_done():
            return False
        self._done_since = self._done_since or time.monotonic()
        away = self._dispatcher.away_since is not None
        if hurry and (away or time.monotonic() - self._done_since > LINGER):
            return True
        if self._dispatcher.unblock():
            self._away_since = None
            return False
        now = time.monotonic()
        self._away_since = self._away_since or now
        return now - self._away_since > ABANDON and not self._dispatcher.resolving


def _as_broken(exc: BaseException) -> BaseException:
    error = NoWorkersError(f"no worker process could be started ({type(exc).__name__}: {exc})")
    error.__cause__ = exc
    return error


_engines: set[Engine] = set()
_exiting = False


def exiting() -> bool:
    """Whether the interpreter is on its way out."""
    return _exiting


def _at_exit() -> None:
    """Interpreter exit waits for the work, as the standard library's executors do. After Ctrl-C
    what has not begun is cancelled."""
    global _exiting
    _exiting = True
    engines = [engine for engine in _engines if engine.ends_first]
    interrupted = isinstance(getattr(sys, "last_value", None), KeyboardInterrupt)
    try:
        for engine in engines:
            if interrupted:
                engine.interrupt()
            else:
                engine.finish()
        for engine in engines:
            engine.wait()
    except KeyboardInterrupt:
        for engine in engines:
            engine.interrupt()
        for engine in engines:
            engine.wait(GRACE)


def _after_fork() -> None:
    # The parent's engines are the parent's to end, and to use: here the next one to try is told so.
    for engine in _engines:
        engine.disown()
    _engines.clear()


# As concurrent.futures does: before non-daemon threads are joined, while threads can still start.
threading._register_atexit(_at_exit)  # type: ignore[attr-defined]
os.register_at_fork(after_in_child=_after_fork)
