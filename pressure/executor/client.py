"""`RedisExecutor`: `concurrent.futures.Executor` on a queue."""

from __future__ import annotations

import itertools
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import replace
from types import TracebackType
from typing import Any

from pressure.address import Address
from pressure.core import Settings
from pressure.credentials import resolve_keys
from pressure.executor.engine import Engine, exiting
from pressure.executor.futures import TaskFuture
from pressure.executor.mapping import chunks, results, run_chunk
from pressure.executor.options import Options
from pressure.server import shared_local_server

__all__ = ["RedisExecutor"]

RECONNECT_TIMEOUT = 300.0


class RedisExecutor(Executor):
    """Runs calls in worker processes, wherever these are.

    Without `url` (and without `PRESSURE_URL`) it starts an embedded server and `max_workers` local
    processes, and is a drop-in for `concurrent.futures.ProcessPoolExecutor`. With one, the
    `pressure-worker` daemons that serve `queue` do the work, on any number of machines.

    Args:
        max_workers: local worker processes; default: the number of CPUs. With a server of your own:
            None, since the daemons decide.
        url: the server.
        queue: the daemons serve it by this name.
        prefix: what all keys begin with.
        key: signs tasks and results (`PRESSURE_KEY`); the embedded server makes its own.
        mp_context: how local workers are started, as for `ProcessPoolExecutor`.
        initializer, initargs: called in each local worker process before its first task.
        max_tasks_per_child: a local worker process is replaced after so many tasks.
        options: settings for all tasks.
        settings: what is rarely changed, see `pressure.Settings`.

    The death of a worker costs only the task that it ran, and that only when it has killed
    `options.max_deliveries` of them: then its future raises `WorkerLostError`.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        url: str | None = None,
        queue: str = "default",
        prefix: str = "__pressure__",
        key: bytes | str | Iterable[bytes | str] | None = None,
        mp_context: Any = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        max_tasks_per_child: int | None = None,
        options: Options | None = None,
        settings: Settings | None = None,
    ) -> None:
        local = url is None and not os.environ.get("PRESSURE_URL")
        _check(max_workers, initializer, max_tasks_per_child, mp_context, local)
        if local:
            url = shared_local_server()
            queue = f"local-{os.getpid()}-{os.urandom(6).hex()}"
            max_workers = max_workers or os.cpu_count() or 1
        self._max_workers = max_workers
        self._options = options or Options()
        self._shutdown_lock = threading.Lock()
        self._shutdown = False
        address = Address.of(url)
        settings = settings or Settings(reconnect_timeout=RECONNECT_TIMEOUT)
        self._engine = Engine(
            address,
            queue,
            prefix,
            resolve_keys(replace(settings, max_deliveries=0), key, address),
            local_workers=max_workers if local else None,
            mp_context=mp_context,
            initializer=initializer,
            initargs=initargs,
            max_tasks_per_child=max_tasks_per_child,
        )
        # The engine outlives a collected executor until its work is done, as the stdlib's does.
        self._finalizer = weakref.finalize(self, self._engine.finish)
        self._finalizer.atexit = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> TaskFuture:
        """As `Executor.submit`; no keyword is reserved.

        Arguments are pickled now. What can't be pickled is the future's exception, as with
        `ProcessPoolExecutor`. Raises `RuntimeError` after `shutdown`.
        """
        return self._submit(fn, args, kwargs, self._options)

    def _submit(
        self, fn: Callable[..., Any], args: Any, kwargs: dict[str, Any], options: Options
    ) -> TaskFuture:
        with self._shutdown_lock:
            if self._shutdown or exiting():
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._engine.start()
            return self._engine.dispatcher.submit(fn, args, kwargs, options)

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        """As `Executor.map`: results in order; the error of a call is raised at its place.

        `chunksize` calls travel as one task. With `buffersize` (as in Python 3.14) at most so many
        tasks are submitted and not yet yielded, so that the iterables may be endless. `timeout`
        (seconds, from now) raises `TimeoutError`.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        deadline = None if timeout is None else time.monotonic() + timeout
        calls = zip(*iterables, strict=False)
        if chunksize == 1:
            submitted = (self.submit(fn, *args) for args in calls)
        else:
            submitted = (self.submit(run_chunk, fn, chunk) for chunk in chunks(calls, chunksize))
        futures = deque(itertools.islice(submitted, buffersize))
        outcome = results(futures, submitted, deadline)
        return outcome if chunksize == 1 else itertools.chain.from_iterable(outcome)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As `Executor.shutdown`."""
        with self._shutdown_lock:
            self._shutdown = True
        if cancel_futures:
            self._engine.dispatcher.cancel_all()
        self._engine.finish()
        if wait:
            self._engine.wait()

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
        """The local worker processes by pid, as `ProcessPoolExecutor` has them."""
        return self._engine.processes

    @property
    def _broken(self) -> BaseException | bool:
        return self._engine.dispatcher.failure or False


def _check(
    max_workers: int | None,
    initializer: Any,
    max_tasks_per_child: int | None,
    mp_context: Any,
    local: bool,
) -> None:
    if max_workers is not None and max_workers <= 0:
        raise ValueError("max_workers must be greater than 0")
    if initializer is not None and not callable(initializer):
        raise TypeError("initializer must be a callable")
    if max_tasks_per_child is not None:
        if not isinstance(max_tasks_per_child, int):
            raise TypeError("max_tasks_per_child must be an integer")
        if max_tasks_per_child <= 0:
            raise ValueError("max_tasks_per_child must be >= 1")
        if mp_context is not None and mp_context.get_start_method(allow_none=False) == "fork":
            raise ValueError(
                "max_tasks_per_child is incompatible with the 'fork' multiprocessing start method; "
                "supply a different mp_context."
            )
    if not local and (mp_context or initializer or max_tasks_per_child or max_workers):
        raise ValueError(
            "max_workers, mp_context, initializer and max_tasks_per_child are for local workers; "
            "with a server's url, give them to the pressure-worker daemons"
        )
