"""Contexts like `multiprocessing.get_context(...)`'s, whose queues are this package's."""

from __future__ import annotations

from multiprocessing import context
from typing import Any

from pressure.multiprocessing.queues import JoinableQueue, Queue, SimpleQueue

__all__ = ["get_context"]


class _Queues:
    """What our contexts make in place of the standard library's."""

    Queue = Queue
    JoinableQueue = JoinableQueue
    SimpleQueue = SimpleQueue

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
