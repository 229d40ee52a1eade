"""What a worker keeps from one task to the next: functions, arguments that tasks share, and which
clients were there."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from pressure.channel import Channel
from pressure.content import Buffer, copy_of
from pressure.executor import sharing
from pressure.executor.descriptors import only_once
from pressure.executor.functions import stands_alone
from pressure.executor.payloads import loads
from pressure.executor.records import STORED, Task
from pressure.signing import BadSignature

__all__ = ["Library"]

FUNCTIONS = 1000
CLIENT_SECONDS = 5.0
"""For so long a client that was there is taken to be there."""
SHARED_BYTES = 256 * 1024 * 1024
"""How much of what tasks share is kept: those that were used last, and in any case the last one."""


_NOTHING: Any = object()


class _Held:
    """What was fetched, and the object that was made of it once it was asked for."""

    __slots__ = ("data", "value")

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.value = _NOTHING


class _Stateful:
    """A callable that each task gets a new copy of, so that none sees what another did to it."""

    __slots__ = ("data",)

    def __init__(self, data: Buffer) -> None:
        self.data = data

    def made(self) -> Callable[..., Any]:
        # Of a copy, for its buffers are the callable's.
        function: Callable[..., Any] = loads(copy_of(self.data))
        return function


class Library:
    """Fetches what lies beside the clients' reply queues, and keeps it.

    `channels` are those of the queues that are served; `current` says which of them is, now.
    """

    def __init__(self, channels: Sequence[Channel], current: Callable[[], Channel]) -> None:
        self._channels = channels
        self._current = current
        self._functions: dict[bytes, Callable[..., Any] | _Stateful] = {}
        self._clients: dict[bytes, float] = {}
        self._shared: OrderedDict[tuple[bytes, bytes], _Held] = OrderedDict()
        self._size = 0
        self._lock = threading.RLock()
        sharing.serve(self.shared)

    def function(self, client_id: bytes, task: Task) -> Callable[..., Any]:
        """The function of a task. Raises what unpickling raises, and `BadSignature`."""
        known = self._functions.get(task.function)
        if known is None:
            return self._load(client_id, task)
        return known.made() if isinstance(known, _Stateful) else known

    def _load(self, client_id: bytes, task: Task) -> Callable[..., Any]:
        data: Any = task.function
        if task.flags & STORED:
            data = self._fetched(client_id, task.function)
            if data is None:
                raise BadSignature("its function is gone from the server")
        function: Callable[..., Any] = loads(data)
        if only_once(bytes(data)):
            # What it was handed is to be closed when its task is done.
            return function
        if len(self._functions) >= FUNCTIONS:
            self._functions.clear()
        if stands_alone(function):
            self._functions[task.function] = function
            return function
        stateful = self._functions[task.function] = _Stateful(data)
        return stateful.made()

    def client_lives(self, client_id: bytes, now: float) -> bool:
        """Whether anybody waits for the answer to a task of the current queue. Looked up at most
        every few seconds."""
        if now - self._clients.get(client_id, -1e9) < CLIENT_SECONDS:
            return True
        if not self._current().reply_exists(client_id):
            self._clients.pop(client_id, None)
            return False
        if len(self._clients) > 1000:
            self._clients.clear()
        self._clients[client_id] = now
        return True

    def _fetched(self, client_id: bytes, name: bytes) -> Buffer | None:
        current = self._current()
        # A thread that a task has left behind may run one of another queue.
        for channel in [current, *(one for one in self._channels if one is not current)]:
            data = channel.fetch(client_id, name)
            if data is not None:
                return data
        return None

    def shared(self, client_id: bytes, digest: bytes, private: bool) -> Any:
        """The object that a client shares under a digest. Its buffers are read-only, since other
        tasks will see it as well; unless it is to be a `private` copy. Raises `LookupError` if it
        is there no more."""
        key = client_id, digest
        with self._lock:
            known = self._shared.get(key)
            if known is None:
                known = self._fetch(key)
            self._shared.move_to_end(key)
            if private:
                return loads(copy_of(known.data))
            if known.value is _NOTHING:
                known.value = loads(known.data.toreadonly(), shared=True)
            return known.value

    def _fetch(self, key: tuple[bytes, bytes]) -> _Held:
        data = self._fetched(*key)
        if data is None:
            raise LookupError(
                "a shared argument is gone from the server: its client released it before the task "
                "ran"
            )
        while self._shared and self._size + len(data) > SHARED_BYTES:
            _, dropped = self._shared.popitem(last=False)
            self._size -= len(dropped.data)
        held = self._shared[key] = _Held(memoryview(data))
        self._size += len(data)
        return held
