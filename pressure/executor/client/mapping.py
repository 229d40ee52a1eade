"""The parts of `Executor.map`."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

from pressure.executor.client.futures import TaskFuture, cancel_many
from pressure.executor.coroutines import CoroutineType, completed

__all__ = ["chunks", "flattened", "results", "run_call", "run_chunk"]


def chunks(calls: Iterable[Any], size: int) -> Iterator[tuple[Any, ...]]:
    iterator = iter(calls)
    while chunk := tuple(itertools.islice(iterator, size)):
        yield chunk


def run_call(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    return fn(*args, **kwargs)


def run_chunk(fn: Callable[..., Any], chunk: tuple[Any, ...]) -> list[Any]:
    results = [fn(*args) for args in chunk]
    for index, result in enumerate(results):
        if type(result) is CoroutineType:
            results[index] = completed(result)
    return results


def results(
    futures: deque[TaskFuture[Any]], more: Iterator[TaskFuture[Any]], deadline: float | None
) -> Generator[Any, None, None]:
    """The results in order, each forgotten when it is yielded; on an early end the rest is
    cancelled."""
    try:
        while futures:
            left = None if deadline is None else deadline - time.monotonic()
            result = futures[0].result(left)
            futures.popleft()
            futures.extend(itertools.islice(more, 1))
            holder = [result]
            del result
            yield holder.pop()
    finally:
        cancel_many(futures)


def flattened(chunks: Generator[list[Any], None, None]) -> Generator[Any, None, None]:
    """The results in lists of them, each forgotten when it is yielded. Ends with `close`, too."""
    with contextlib.closing(chunks):
        for chunk in chunks:
            chunk.reverse()
            while chunk:
                yield chunk.pop()
