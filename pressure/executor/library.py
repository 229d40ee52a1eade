"""What a worker keeps from one task to the next: functions, and arguments that tasks share."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from pressure.channel import Channel
from pressure.codec import BadSignature
from pressure.executor import sharing
from pressure.executor.payloads import loads
from pressure.executor.records import STORED, Task

__all__ = ["Library"]

FUNCTIONS = 1000
SHARED_BYTES = 256 * 1024 * 1024
"""How much of what tasks share is kept: those that were used last, and in any case the last one."""


class Library:
    """Fetches what lies beside the clients' reply queues, and keeps it."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._functions: dict[bytes, Callable[..., Any]] = {}
        self._shared: OrderedDict[tuple[bytes, bytes], tuple[Any, int]] = OrderedDict()
        self._size = 0
        self._lock = threading.RLock()
        sharing.serve(self.shared)

    def function(self, client_id: bytes, task: Task) -> Callable[..., Any]:
        """The function of a task. Raises what unpickling raises, and `BadSignature`."""
        known = self._functions.get(task.function)
        return known if known is not None else self._load(client_id, task)

    def _load(self, client_id: bytes, task: Task) -> Callable[..., Any]:
        data: Any = task.function
        if task.flags & STORED:
            data = self._channel.fetch(client_id, task.function)
            if data is None:
                raise BadSignature("its function is gone from the server")
        function: Callable[..., Any] = loads(data)
        if len(self._functions) >= FUNCTIONS:
            self._functions.clear()
        self._functions[task.function] = function
        return function

    def shared(self, client_id: bytes, digest: bytes) -> Any:
        """The object that a client shares under a digest. Its buffers are read-only, since other
        tasks will see it as well. Raises `LookupError` if it is there no more."""
        key = client_id, digest
        with self._lock:
            known = self._shared.get(key)
            if known is not None:
                self._shared.move_to_end(key)
                return known[0]
            data = self._channel.fetch(client_id, digest)
            if data is None:
                raise LookupError(
                    "a shared argument is gone from the server: its client released it before the "
                    "task ran"
                )
            value = loads(memoryview(data).toreadonly())
            while self._shared and self._size + len(data) > SHARED_BYTES:
                _, (_, size) = self._shared.popitem(last=False)
                self._size -= size
            self._shared[key] = value, len(data)
            self._size += len(data)
            return value
