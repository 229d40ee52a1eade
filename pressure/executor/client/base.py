"""What all executors have in common: `submit`, `map`, and options."""

from __future__ import annotations

import itertools
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator
from concurrent.futures import Executor
from typing import Any, ParamSpec, TypeVar, overload

from pressure.copying import RefusedError
from pressure.executor.client.futures import TaskFuture
from pressure.executor.client.mapping import chunks, flattened, results, run_chunk
from pressure.executor.client.options import UNCHANGED, Options
from pressure.executor.client.progress import load, shown, total_of
from pressure.executor.client.statistics import ExecutorStats
from pressure.executor.sharing import Shared

__all__ = ["OptionsView", "TaskExecutor"]

P = ParamSpec("P")
T = TypeVar("T")


class TaskExecutor(Executor):
    """The methods are `concurrent.futures.Executor`'s, and take the same arguments."""

    _options: Options

    def __reduce__(self) -> Any:
        raise RefusedError(
            f"cannot pickle a {type(self).__name__}: it belongs to the process that made it; tasks "
            "that submit tasks get theirs from pressure.current_executor()"
        )

    @abstractmethod
    def _submit(
        self, fn: Callable[..., Any], args: Any, kwargs: dict[str, Any], options: Options
    ) -> TaskFuture[Any]: ...

    @abstractmethod
    def _terminate(self, future: TaskFuture[Any], grace: float) -> bool: ...

    @overload
    def submit(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> TaskFuture[T]: ...

    @overload
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> TaskFuture[T]: ...

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> TaskFuture[Any]:
        """As `Executor.submit`; no keyword is reserved.

        Function and arguments are pickled now. What can't be pickled is the future's exception, as
        with `ProcessPoolExecutor`. Each task gets a function of its own if that has a state (a
        bound method, a partial); and what occurs both there and in the arguments is one object,
        unless the function is larger than 16 KiB, for such a one is sent once for many tasks.

        Local workers have a `__main__` of their own, as those of `ProcessPoolExecutor`: what of it
        goes by name, and its classes also in functions that go by value (lambdas, nested ones), is
        what that was when they were forked, or what the script defines when they import it.

        A NumPy array that is read-only arrives read-only, also in a result, and small ones need not
        own their data (`array.resize` refuses then), as pickle's protocol 5 has it.
        (`ProcessPoolExecutor` uses an older protocol up to Python 3.13, with which all are writable
        and small ones own their data.)

        `multiprocessing` connections and sockets are handed over to local workers, once: a task
        that is run again can't have them. For others they are refused, with a `TypeError`. What a
        program has registered with `multiprocessing.reduction.ForkingPickler` is heeded, but not
        the reducers of PyTorch: tensors are copied, not shared.

        Raises `RuntimeError` after `shutdown`.
        """
        return self._submit(fn, args, kwargs, self._options)

    @overload
    def map(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        progress: bool = False,
    ) -> Iterator[T]: ...

    @overload
    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        progress: bool = False,
    ) -> Iterator[T]: ...

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        progress: bool = False,
    ) -> Iterator[Any]:
        """As `Executor.map`: results in order; the error of a call is raised at its place.

        `chunksize` calls travel as one task, and options hold for that. With `buffersize` (as in
        Python 3.14) at most so many tasks are submitted and not yet yielded, so that the iterables
        may be endless. `timeout` (seconds, from now) raises `TimeoutError`. `progress` shows a bar
        that counts the results as they are yielded (by tqdm, in a terminal or a notebook).
        """
        bar = load() if progress else None
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
        if chunksize > 1:
            outcome = flattened(outcome)
        return outcome if bar is None else shown(outcome, total_of(iterables), bar)

    @abstractmethod
    def share(self, obj: T) -> Shared[T]:
        """Send a large object once, for many tasks.

        What is returned stands for it in the arguments of this executor's tasks, which get the
        object as it is now. It is one object for all tasks in a worker process: they must not
        change it; NumPy arrays of numbers in it are read-only. `release()` it, or use it in a
        `with` block; it goes by itself when nothing refers to it any more, or with the executor.

        Raises what pickling raises, `RuntimeError` after `shutdown`, and what the server refuses.
        """

    @abstractmethod
    def stats(self) -> ExecutorStats:
        """How many tasks wait, run, and are done, and who has run them. A server that is away is
        waited for a second, and one that stands still for some seconds."""

    def options(
        self,
        *,
        max_deliveries: int = UNCHANGED,
        timeout: float | None = UNCHANGED,
        grace: float = UNCHANGED,
        retries: int = UNCHANGED,
        retry_for: type[BaseException] | Collection[type[BaseException]] = UNCHANGED,
        backoff: float | Callable[[int], float] = UNCHANGED,
        capture_output: bool = UNCHANGED,
    ) -> OptionsView:
        """This executor, with other settings for the tasks that are submitted through it:
        `max_deliveries`, `timeout`, `grace`, `retries`, `retry_for`, `backoff`, `capture_output`;
        see `Options`. What isn't given stays as it is here.

        The view has `submit` and `map`, and is an `Executor` itself. Raises `TypeError` and
        `ValueError` for what makes no sense.
        """
        return self._with(
            self._options.but(
                max_deliveries=max_deliveries,
                timeout=timeout,
                grace=grace,
                retries=retries,
                retry_for=retry_for,
                backoff=backoff,
                capture_output=capture_output,
            )
        )

    def _with(self, options: Options) -> OptionsView:
        return OptionsView(self, options)

    def terminate(self, future: TaskFuture[Any]) -> bool:
        """End a task of this executor, also while it runs, on whatever machine.

        What has not begun, or is in the queue again since its worker died, is cancelled. Inside a
        running task `TaskTerminatedError` is raised, and that is its future's exception then. A
        task that doesn't end within its option `grace` is ended with its worker process, which is
        replaced. On a view (see `options`) that view's `grace` counts.

        Returns False if the task is done, else True, without waiting for the end: a task that
        can't be found in time is ended when it starts, and where the server is away (then this may
        take some seconds), when it is back. Nothing that was terminated is retried.

        A child that its parent runs itself (see `current_executor`) is ended like others, if need
        be with the process of both; but one that runs in another thread than its process's main one
        can't be, and this returns False.
        """
        if not isinstance(future, TaskFuture):
            raise TypeError(f"terminate needs a future of this executor, not {future!r}")
        return self._terminate(future, self._grace(future))

    def _grace(self, future: TaskFuture[Any]) -> float:
        return future._options.grace


class OptionsView(TaskExecutor):
    """What `options` returns: the same executor, whose `submit` and `map` give each task these
    options. It can't be changed; its `options` makes another one."""

    _executor: TaskExecutor

    def __init__(self, executor: TaskExecutor, options: Options) -> None:
        object.__setattr__(self, "_executor", executor)
        object.__setattr__(self, "_options", options)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a view of an executor can't be changed; options() makes another one")

    def __repr__(self) -> str:
        return f"<{self._executor!r} with {self._options}>"

    def _with(self, options: Options) -> OptionsView:
        return OptionsView(self._executor, options)

    def _submit(
        self, fn: Callable[..., Any], args: Any, kwargs: dict[str, Any], options: Options
    ) -> TaskFuture[Any]:
        return self._executor._submit(fn, args, kwargs, options)

    def _terminate(self, future: TaskFuture[Any], grace: float) -> bool:
        return self._executor._terminate(future, grace)

    def _grace(self, future: TaskFuture[Any]) -> float:
        return self._options.grace

    def share(self, obj: T) -> Shared[T]:
        return self._executor.share(obj)

    def stats(self) -> ExecutorStats:
        return self._executor.stats()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut down the executor itself."""
        self._executor.shutdown(wait, cancel_futures=cancel_futures)

    @property
    def _max_workers(self) -> int | None:
        return getattr(self._executor, "_max_workers", None)
