"""joblib, and what builds on it, on an executor::

    import joblib
    import pressure.joblib

    pressure.joblib.register()
    with joblib.parallel_config(backend="pressure", executor=ex):
        joblib.Parallel()(joblib.delayed(f)(x) for x in xs)

Without an executor there is one of local processes, as many as `n_jobs` says, or one of the workers
at `PRESSURE_URL` if that is set. It is kept for the next call. Calls of `Parallel` inside a task
use threads of that task's process, and deeper ones run in sequence, as with joblib's own backends.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

try:
    from joblib.parallel import (
        AutoBatchingMixin,
        FallbackToBackend,
        ParallelBackendBase,
        SequentialBackend,
        register_parallel_backend,
    )
except ImportError as exc:
    raise ImportError("pressure.joblib needs joblib: pip install 'joblib>=1.5'") from exc

from pressure.executor.client.base import TaskExecutor
from pressure.executor.client.futures import TaskFuture
from pressure.executor.client.redis_executor import RedisExecutor

__all__ = ["PressureBackend", "register"]


def register(*, make_default: bool = False) -> None:
    """Give joblib the backend "pressure"."""
    register_parallel_backend("pressure", PressureBackend, make_default=make_default)


class PressureBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """A joblib backend.

    Args:
        nesting_level: set by joblib.
        executor: a `RedisExecutor` or its `options(...)`; it is not shut down. Default: one of
            local processes, or of the workers at `PRESSURE_URL`, made when it is needed.

    If a call fails, what the same `Parallel` has under way is terminated.
    """

    supports_retrieve_callback = True
    default_n_jobs = -1

    def __init__(
        self, nesting_level: int | None = None, executor: TaskExecutor | None = None, **kwargs: Any
    ) -> None:
        super().__init__(nesting_level=nesting_level, **kwargs)
        if executor is not None and not isinstance(executor, TaskExecutor):
            raise TypeError(f"executor must be a RedisExecutor, not {executor!r}")
        self._given = executor
        self._executor = executor
        self._lock = threading.Lock()
        self._under_way: set[Future[Any]] = set()

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many calls can run at a time. -1: all workers, as far as the executor knows them;
        else all CPUs of this machine."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        if n_jobs > 0:
            return n_jobs
        workers: int | None = getattr(self._given, "_max_workers", None)
        return max((workers or os.cpu_count() or 1) + 1 + n_jobs, 1)

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        prefer: str | None = None,
        require: str | None = None,
        **backend_kwargs: Any,
    ) -> int:
        """Called by joblib before anything is submitted."""
        workers = self.effective_n_jobs(n_jobs)
        if workers == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        self._executor = self._given or _shared_executor(workers)
        return workers

    def submit(
        self, func: Callable[[], Any], callback: Callable[[Future[Any]], object] | None = None
    ) -> TaskFuture[Any]:
        """Called by joblib, also from a callback, that is from the executor's listener thread."""
        assert self._executor is not None, "configure comes first"
        # A batch is an argument and not the function, since functions are kept.
        future = self._executor.submit(_run, func)
        with self._lock:
            self._under_way.add(future)
        future.add_done_callback(self._forget)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def _forget(self, future: Future[Any]) -> None:
        with self._lock:
            self._under_way.discard(future)

    def retrieve_result_callback(self, future: Future[Any]) -> Any:
        """Called by joblib in the callback."""
        return future.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Called by joblib when a call has failed."""
        with self._lock:
            under_way = list(self._under_way)
        for future in under_way:
            if self._executor is not None and isinstance(future, TaskFuture):
                self._executor.terminate(future)

    def terminate(self) -> None:
        """Called by joblib at the end. The executor is kept."""
        self._executor = self._given
        self.reset_batch_stats()


def _run(batch: Callable[[], Any]) -> Any:
    return batch()


_lock = threading.Lock()
_executors: dict[int | str, RedisExecutor] = {}


def _shared_executor(workers: int) -> RedisExecutor:
    """The executor of the workers at `PRESSURE_URL` or, without that, of so many local processes:
    one for all that use this backend."""
    url = os.environ.get("PRESSURE_URL")
    key = url or workers
    with _lock:
        executor = _executors.get(key)
        if executor is None or executor._broken:
            executor = _executors[key] = RedisExecutor(None if url else workers)
        return executor


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    _executors.clear()


os.register_at_fork(after_in_child=_after_fork)
