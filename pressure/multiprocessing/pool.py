"""`multiprocessing.Pool` on an executor::

    from pressure.multiprocessing import Pool

    with Pool(4) as pool:
        print(pool.map(f, range(100)))

Without a server's url it is a drop-in: local processes, an embedded server between them. With one,
the `pressure-worker` daemons that serve the queue do the work. Unlike the standard library's, it
survives the death of a worker process, and a worker may start processes of its own.
"""

from __future__ import annotations

import multiprocessing
import operator
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sized
from multiprocessing import TimeoutError, util
from multiprocessing.pool import ThreadPool
from types import TracebackType
from typing import Any, TypeVar

from pressure.multiprocessing.calls import MaybeEncodingError, RemoteTraceback, pack_call
from pressure.multiprocessing.results import (
    AsyncResult,
    ErrorCallback,
    IMapIterator,
    IMapUnorderedIterator,
    MapResult,
)
from pressure.multiprocessing.staff import PoolExecutor, Staff

__all__ = [
    "ApplyResult",
    "AsyncResult",
    "IMapIterator",
    "IMapUnorderedIterator",
    "MapResult",
    "MaybeEncodingError",
    "Pool",
    "RemoteTraceback",
    "ThreadPool",
    "TimeoutError",
]

ApplyResult = AsyncResult

S = TypeVar("S")
T = TypeVar("T")

INIT = "INIT"
RUN = "RUN"
CLOSE = "CLOSE"
TERMINATE = "TERMINATE"

AHEAD = 1000
"""An `imap` takes elements from its iterable while fewer calls than this are under way."""


class Pool:
    """As `multiprocessing.Pool`.

    Args:
        processes: local worker processes; default: the number of CPUs. With a server of your own:
            how many the daemons have, as far as you know; only the default `chunksize` depends on
            it.
        initializer, initargs: called in each local worker process before its first call. If it
            raises, the pool is broken and every call raises `InitializerError`.
        maxtasksperchild: a local worker process is replaced after so many calls or chunks.
        context: how local processes are started; default: `multiprocessing.get_context()`.
        url, queue, prefix, key: the server and the daemons, as for `RedisExecutor`.

    A call whose worker process dies is run again, three times at most; then it raises
    `WorkerLostError`.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] | None = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
        *,
        url: str | None = None,
        queue: str = "default",
        prefix: str | None = None,
        key: bytes | str | Iterable[bytes | str] | None = None,
    ) -> None:
        self._state = INIT
        if processes is None:
            processes = _cpu_count()
        processes = operator.index(processes)
        if processes < 1:
            raise ValueError("Number of processes must be at least 1")
        if maxtasksperchild is not None and (
            not isinstance(maxtasksperchild, int) or maxtasksperchild < 1
        ):
            raise ValueError("maxtasksperchild must be a positive int or None")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        local = url is None and not os.environ.get("PRESSURE_URL")
        executor = PoolExecutor(
            processes if local else None,
            url=url,
            queue=queue,
            prefix=prefix,
            key=key,
            mp_context=_Naming(context or multiprocessing.get_context()) if local else context,
            initializer=initializer,
            initargs=tuple(initargs or ()),
            max_tasks_per_child=maxtasksperchild,
        )
        self._processes = processes
        self._staff = Staff(executor, local=local)
        # For a pool that is collected while it runs. Not called in a forked child.
        self._finalizer = util.Finalize(self, self._staff.release)
        self._state = RUN
        executor.start()

    def __del__(self, _warn: Any = warnings.warn, _run: str = RUN) -> None:
        if self._state == _run and self._staff.is_mine():
            _warn(f"unclosed running multiprocessing pool {self!r}", ResourceWarning, source=self)

    def __repr__(self) -> str:
        cls = type(self)
        return (
            f"<{cls.__module__}.{cls.__qualname__} state={self._state} pool_size={self._processes}>"
        )

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def __enter__(self) -> Pool:
        self._check_running()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.terminate()

    def apply(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
    ) -> T:
        """`func(*args, **kwds)` in a worker process."""
        return self.apply_async(func, args, kwds).get()

    def apply_async(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        callback: Callable[[T], object] | None = None,
        error_callback: ErrorCallback = None,
    ) -> AsyncResult[T]:
        """As `apply`, but doesn't wait. One of the callbacks gets the result or the exception,
        before the result is ready; it runs in a thread on which all results depend."""
        self._check_running()
        staff = self._staff
        result: AsyncResult[T] = AsyncResult(self, staff.forget, callback, error_callback)
        staff.watch(result)
        staff.send(result, 0, lambda: pack_call(func, args, kwds or {}, local=staff.local))
        return result

    def map(
        self, func: Callable[[S], T], iterable: Iterable[S], chunksize: int | None = None
    ) -> list[T]:
        """The list of `func(item)` for each item. If one raises, so does this, when all chunks of
        `chunksize` items are done."""
        return list(self.map_async(func, iterable, chunksize).get())

    def map_async(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: ErrorCallback = None,
    ) -> MapResult[T]:
        """As `map`, but doesn't wait. The callback gets the whole list."""
        return self._map(func, iterable, chunksize, callback, error_callback, starred=False)

    def starmap(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
    ) -> list[T]:
        """As `map`, with `func(*item)`."""
        return list(self.starmap_async(func, iterable, chunksize).get())

    def starmap_async(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: ErrorCallback = None,
    ) -> MapResult[T]:
        """As `map_async`, with `func(*item)`."""
        return self._map(func, iterable, chunksize, callback, error_callback, starred=True)

    def _map(
        self,
        func: Callable[..., T],
        iterable: Iterable[Any],
        chunksize: int | None,
        callback: Callable[[list[T]], object] | None,
        error_callback: ErrorCallback,
        *,
        starred: bool,
    ) -> MapResult[T]:
        self._check_running()
        if chunksize is not None and chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize:n}")
        if not isinstance(iterable, Sized):
            iterable = list(iterable)
        if chunksize is None:
            chunksize = max(1, -(-len(iterable) // (self._processes * 4)))
        staff = self._staff
        count = -(-len(iterable) // chunksize)
        result: MapResult[T] = MapResult(self, staff.forget, count, callback, error_callback)
        if count:
            staff.watch(result)
            staff.send_chunks(result, func, iterable, chunksize, count, starred=starred)
        return result

    def imap(
        self, func: Callable[[S], T], iterable: Iterable[S], chunksize: int = 1
    ) -> IMapIterator[T]:
        """An iterator over `func(item)` for each item, in order. The iterable is read by a thread,
        not much further than calls are done, so it may be endless."""
        return self._imap(IMapIterator, func, iterable, chunksize)

    def imap_unordered(
        self, func: Callable[[S], T], iterable: Iterable[S], chunksize: int = 1
    ) -> IMapIterator[T]:
        """As `imap`, but in the order in which the results come."""
        return self._imap(IMapUnorderedIterator, func, iterable, chunksize)

    def _imap(
        self,
        kind: type[IMapIterator[T]],
        func: Callable[..., T],
        iterable: Iterable[Any],
        chunksize: int,
    ) -> IMapIterator[T]:
        self._check_running()
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize:n}")
        result = kind(self, self._staff.forget, ahead=AHEAD)
        self._staff.watch(result)
        self._staff.feed(result, func, iterable, chunksize)
        return result

    def close(self) -> None:
        """No more calls may come. The worker processes end when all is done."""
        if self._state == RUN:
            self._state = CLOSE
            self._staff.close()

    def terminate(self) -> None:
        """End at once: what waits is dropped, and what runs is killed; by a daemon when that has
        been told, which this doesn't wait for."""
        self._state = TERMINATE
        self._finalizer.cancel()
        self._staff.terminate()
        self._staff.wait()

    def join(self) -> None:
        """Wait until all is done and the processes are gone. After `close` or `terminate`."""
        if self._state == RUN:
            raise ValueError("Pool is still running")
        self._staff.join()

    def _check_running(self) -> None:
        if self._state != RUN or not self._staff.is_mine():
            raise ValueError("Pool not running")

    @property
    def _pool(self) -> list[Any]:
        """The local worker processes, under the name that the standard library's have."""
        return list(self._staff.executor._processes.values())

    def _repopulate_pool(self) -> None:
        """Nothing to do: processes that have ended are replaced at once."""


class _Naming:
    """A context, but for the names of its processes: those that the standard library's have."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def Process(self, *args: Any, **kwargs: Any) -> Any:
        process = self._context.Process(*args, **kwargs)
        process.name = process.name.replace("Process", "PoolWorker")
        return process


def _cpu_count() -> int:
    count: Callable[[], int | None] = getattr(os, "process_cpu_count", os.cpu_count)
    return count() or 1
