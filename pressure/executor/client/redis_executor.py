"""`RedisExecutor`: `concurrent.futures.Executor` on a queue."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace
from types import TracebackType
from typing import Any, TypeVar

from pressure.address import Address
from pressure.credentials import resolve_keys
from pressure.executor.client.base import TaskExecutor
from pressure.executor.client.engine import Engine, exiting
from pressure.executor.client.futures import TaskFuture
from pressure.executor.client.options import USUAL, Options
from pressure.executor.client.statistics import ExecutorStats
from pressure.executor.errors import WorkerLostError
from pressure.executor.sharing import Shared
from pressure.keys import resolve_prefix
from pressure.server import shared_local_server
from pressure.settings import Settings

__all__ = ["RedisExecutor"]

RECONNECT_TIMEOUT = 300.0
FOR_DAEMONS = {
    "max_workers": "--processes",
    "initializer": "--preload",
    "max_tasks_per_child": "--max-tasks-per-child",
}
"""What the daemons have for what local workers are given here."""
T = TypeVar("T")


class RedisExecutor(TaskExecutor):
    """Runs calls in worker processes, wherever these are.

    Without `url` (and without `PRESSURE_URL`) it starts an embedded server and `max_workers` local
    processes, and is a drop-in for `concurrent.futures.ProcessPoolExecutor`. With one, the
    `pressure-worker` daemons that serve `queue` do the work, on any number of machines.

    Args:
        max_workers: local worker processes; default: the number of CPUs. With a server of your own:
            None, since the daemons decide.
        mp_context: how local workers are started, as for `ProcessPoolExecutor`.
        initializer, initargs: called in each local worker process before its first task.
        url: the server; also `redis+sentinel://` and `redis+cluster://`, see
            docs/sentinel-and-cluster.md.
        queue: the daemons serve it by this name.
        prefix: what all keys begin with. Default `PRESSURE_PREFIX`, or `__pressure__`.
        key: signs tasks and results (`PRESSURE_KEY`); the embedded server makes its own.
        max_tasks_per_child: a local worker process is replaced after so many tasks.
        max_pending: `submit` waits while so many futures are pending (default: no limit).
        no_workers_timeout: after so many seconds (default: never) without any worker on the queue
            what is pending gets `NoWorkersError`; a warning is logged in any case.
        options: settings for all tasks.
        min_replicas: how many replicas each batch of tasks waits for before the next one is sent.
            If they take too long, that is logged: what turns out to be lost is sent again.
        settings: what is rarely changed, see `pressure.Settings`.

    The death of a worker costs only the task that it ran, and that only when it has killed
    `options.max_deliveries` of them: then its future raises `WorkerLostError`.
    """

    # Whether `max_tasks_per_child` may go with the start method "fork".
    _replaces_forked = False
    # Whether the interpreter's exit begins with the end of this executor: its work is waited for,
    # and no more is taken on.
    _ends_first = True

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: Any = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        url: str | None = None,
        queue: str = "default",
        prefix: str | None = None,
        key: bytes | str | Iterable[bytes | str] | None = None,
        max_tasks_per_child: int | None = None,
        max_pending: int | None = None,
        no_workers_timeout: float | None = None,
        options: Options | None = None,
        min_replicas: int | None = None,
        settings: Settings | None = None,
    ) -> None:
        local = url is None and not os.environ.get("PRESSURE_URL")
        _check(max_workers, initializer, max_tasks_per_child)
        if not local:
            _check_for_daemons(
                "PRESSURE_URL" if url is None else "url",
                max_workers=max_workers,
                mp_context=mp_context,
                initializer=initializer,
                max_tasks_per_child=max_tasks_per_child,
            )
        _check_limits(max_pending, no_workers_timeout)
        if not self._replaces_forked:
            _check_start_method(max_tasks_per_child, mp_context)
        if local:
            url = shared_local_server()
            queue = f"local-{os.getpid()}-{os.urandom(6).hex()}"
            max_workers = max_workers or os.cpu_count() or 1
        self._max_workers = max_workers
        self._options = options or USUAL
        self._shutdown = False
        address = Address.of(url)
        settings = settings or Settings(reconnect_timeout=RECONNECT_TIMEOUT)
        settings = settings.placed(queue, address, 0 if local else min_replicas)
        self._engine = Engine(
            address,
            queue,
            resolve_prefix(prefix),
            resolve_keys(replace(settings, max_deliveries=0), key, address),
            local_workers=max_workers if local else None,
            mp_context=mp_context,
            initializer=initializer,
            initargs=initargs,
            max_tasks_per_child=max_tasks_per_child,
            max_pending=max_pending,
            no_workers_timeout=no_workers_timeout,
            ends_first=self._ends_first,
        )
        # The engine outlives a collected executor until its work is done, as the stdlib's does.
        self._finalizer = weakref.finalize(self, self._engine.finish)
        self._finalizer.atexit = False

    def _submit(
        self, fn: Callable[..., Any], args: Any, kwargs: dict[str, Any], options: Options
    ) -> TaskFuture[Any]:
        if self._shutdown:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if exiting() and self._ends_first:
            # Two texts, as of the standard library's, which shuts down by itself if it was used.
            what = "shutdown" if self._engine.was_used else "interpreter shutdown"
            raise RuntimeError(f"cannot schedule new futures after {what}")
        return self._engine.submit(fn, args, kwargs, options)

    def _terminate(self, future: TaskFuture[Any], grace: float) -> bool:
        return self._engine.dispatcher.terminate(future, grace)

    def share(self, obj: T) -> Shared[T]:
        if self._shutdown or (exiting() and self._ends_first):
            raise RuntimeError("cannot share anything after shutdown")
        self._engine.start()
        return self._engine.dispatcher.shelf.share(obj)

    def stats(self) -> ExecutorStats:
        return self._engine.dispatcher.stats()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As `Executor.shutdown`. With `cancel_futures`, the tasks that local workers are about to
        begin are run, as they are by `ProcessPoolExecutor`."""
        self._shutdown = True
        if cancel_futures:
            local = self._engine.context is not None
            self._engine.dispatcher.cancel_all(spare=self._max_workers or 0 if local else 0)
        self._engine.finish()
        if wait:
            self._engine.wait()

    def terminate_workers(self) -> None:
        """As `ProcessPoolExecutor.terminate_workers` (Python 3.14): local worker processes are sent
        SIGTERM and then, if they don't end at once, SIGKILL. What is pending is cancelled, and what
        runs gets a `WorkerLostError`. Workers elsewhere finish what they run."""
        self._end_workers("terminate")

    def kill_workers(self) -> None:
        """As `terminate_workers`, but with SIGKILL."""
        self._end_workers("kill")

    def _end_workers(self, how: str) -> None:
        processes = self._engine.processes.copy()
        self._shutdown = True
        if self._engine.context is None:
            self.shutdown(wait=False, cancel_futures=True)
            return
        self._engine.dispatcher.cancel_all()
        for process in processes.values():
            if how == "terminate" and process.is_alive():
                process.terminate()
        self._engine.abandon(WorkerLostError(f"its worker was ended by {how}_workers()"))

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is not None and issubclass(exc_type, KeyboardInterrupt):
            # Ctrl-C: what waits is cancelled, what runs gets a bounded time to end.
            self._engine.interrupt()
        self.shutdown(wait=True)

    @property
    def _processes(self) -> dict[int, Any]:
        # As `ProcessPoolExecutor` has it, and the next ones.
        return self._engine.processes

    @property
    def _mp_context(self) -> Any:
        return self._engine.context

    @property
    def _executor_manager_thread(self) -> threading.Thread | None:
        return self._engine.thread

    @property
    def _call_queue(self) -> Any:
        return self._engine

    @property
    def _broken(self) -> BaseException | bool:
        return self._engine.dispatcher.failure or False


def _check(max_workers: Any, initializer: Any, max_tasks_per_child: int | None) -> None:
    if max_workers is not None and not hasattr(max_workers, "__index__"):
        raise TypeError(f"max_workers must be an integer or None, not {type(max_workers).__name__}")
    if max_workers is not None and max_workers <= 0:
        raise ValueError("max_workers must be greater than 0")
    if initializer is not None and not callable(initializer):
        raise TypeError("initializer must be a callable")
    if max_tasks_per_child is not None:
        if not isinstance(max_tasks_per_child, int):
            raise TypeError("max_tasks_per_child must be an integer")
        if max_tasks_per_child <= 0:
            raise ValueError("max_tasks_per_child must be >= 1")


def _check_for_daemons(origin: str, **for_local: Any) -> None:
    """Refuse what only local workers could be given. `origin` is where the url comes from."""
    given = [name for name, value in for_local.items() if value]
    if not given:
        return
    options = [FOR_DAEMONS[name] for name in given if name in FOR_DAEMONS]
    instead = f"give them {' and '.join(options)} instead" if options else "leave it out"
    local = "unset PRESSURE_URL" if origin == "PRESSURE_URL" else "give no url"
    raise ValueError(
        f"{' and '.join(given)} {'is' if len(given) == 1 else 'are'} for local workers, but by "
        f"{origin} the tasks go to a server, where pressure-worker daemons run them: {instead}, "
        f"or {local} to have local workers"
    )


def _check_limits(max_pending: int | None, no_workers_timeout: float | None) -> None:
    if max_pending is not None and not isinstance(max_pending, int):
        raise TypeError("max_pending must be an integer or None")
    if max_pending is not None and max_pending < 1:
        raise ValueError("max_pending must be >= 1")
    if no_workers_timeout is not None and not no_workers_timeout > 0:
        raise ValueError("no_workers_timeout must be > 0 (seconds)")


def _check_start_method(max_tasks_per_child: int | None, mp_context: Any) -> None:
    if max_tasks_per_child is None or mp_context is None:
        return
    if mp_context.get_start_method(allow_none=False) == "fork":
        raise ValueError(
            "max_tasks_per_child is incompatible with the 'fork' multiprocessing start method; "
            "supply a different mp_context."
        )
