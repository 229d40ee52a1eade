"""Contexts like `multiprocessing.get_context(...)`'s, with this package's queues and pools."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from multiprocessing import context
from typing import Any

from pressure.multiprocessing.pool import Pool
from pressure.multiprocessing.queues import JoinableQueue, Queue, SimpleQueue

__all__ = ["get_context"]

_LOOK_INSIDE = ("concurrent.futures.process", "multiprocessing.pool")
"""Modules that use more of a `SimpleQueue` than what is documented."""


class _Queues:
    """What our contexts make in place of the standard library's."""

    Queue = Queue
    JoinableQueue = JoinableQueue

    def SimpleQueue(self, *, name: str | None = None, url: str | None = None) -> Any:
        """Our `SimpleQueue`; but `ProcessPoolExecutor` and the standard library's own pool get the
        standard one, since they wait for what comes at the pipe inside."""
        caller = sys._getframe(1).f_globals.get("__name__")
        if caller in _LOOK_INSIDE and name is None and url is None:
            return super().SimpleQueue()  # type: ignore[misc]
        return SimpleQueue(name=name, url=url)

    def Pool(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] | None = (),
        maxtasksperchild: int | None = None,
    ) -> Pool:
        return Pool(processes, initializer, initargs, maxtasksperchild, context=self)

    def get_context(self, method: str | None = None) -> Any:
        return self if method is None else get_context(method)


def _derive(real: Any) -> Any:
    cls: Any = type(type(real).__name__, (_Queues, type(real)), {"__module__": __name__})
    globals()[cls.__name__] = cls
    return cls()


_contexts = {method: _derive(real) for method, real in vars(context)["_concrete_contexts"].items()}


def get_context(method: str | None = None) -> Any:
    """As `multiprocessing.get_context`. Raises `ValueError` for an unknown start method."""
    real: Any = vars(context)["_default_context"].get_context(method)
    return _contexts[real.get_start_method()]
