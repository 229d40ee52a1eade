"""A client of the published `pressure` protocol 0.15, for tests of living together with it.

It is written from the protocol's facts and shares no code with `pressure`. As the published clients
do, it sends plain commands one by one, so it can die between any two of them. That is what `at` is
for: it is called with a step's name after each command, and may raise `Crash`, hold the thread, or
kill the process. Nothing is cleaned up then; a token that was taken stays taken.

The steps, in their order, are `STEPS`.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

import redis

from tests.support import acl

DEFAULT_PREFIX = "__pressure__"
TOKEN = b"0"

# `X.closed` is reached only if the queue turns out to be closed, and `X.open` only if not.
STEPS = (
    *(f"create.{step}" for step in ("bound", "freed_producer", "freed_consumer", "freed_not_full")),
    *("put.bound", "put.took_producer", "put.set_producer", "put.open", "put.closed"),
    *("put.took_not_full", "put.pushed", "put.returned_not_full", "put.counted"),
    "put.returned_producer",
    *("get.bound", "get.took_consumer", "get.set_consumer", "get.open", "get.closed"),
    *("get.popped", "get.returned_not_full", "get.counted", "get.returned_consumer"),
    *("close.bound", "close.took_producer", "close.set_producer", "close.open", "close.pushed"),
    "close.returned_producer",
    *("delete.dropped_bound", "delete.woke", "delete.took_producer", "delete.dropped_producer"),
    *("delete.took_consumer", "delete.dropped_consumer", "delete.dropped_rest"),
)


class PublishedError(Exception):
    """Any refusal by this client."""


class InUse(PublishedError):
    """Somebody else holds the role, and the wait for it is over."""


class Full(PublishedError):
    """No room, and the wait for it is over."""


class Empty(PublishedError):
    """No value, and the wait for one is over."""


class Closed(PublishedError):
    """The queue is closed (and, for a get, drained)."""


class DoesNotExist(PublishedError):
    """No queue of this name."""


class AlreadyExists(PublishedError):
    """A queue of this name exists already."""


class Crash(BaseException):
    """The client died here; raised by a crash point, caught by the test."""


def crash_at(step: str) -> Callable[[str], None]:
    """A crash point that raises `Crash` when `step` is reached.

    Raises:
        ValueError: no step has this name.
    """
    if step not in STEPS:
        raise ValueError(f"no step is called {step!r}")

    def at(reached: str) -> None:
        if reached == step:
            raise Crash(step)

    return at


class PublishedClient:
    """One client of one queue. Not for use by two threads at once, as it was published.

    Args:
        name: the queue's name.
        url: the server's address.
        prefix: what its keys begin with.
        client_id: what the role keys will say; host, pid and thread unless given.
        at: the crash point, called with the name of each step after its command.
    """

    def __init__(
        self,
        name: str,
        url: str,
        prefix: str = DEFAULT_PREFIX,
        client_id: str | None = None,
        *,
        at: Callable[[str], None] = lambda step: None,
    ) -> None:
        self.name = name
        self.client_id = client_id or (
            f"{socket.gethostname()}_pid{os.getpid()}_{threading.get_ident()}"
        )
        self.at = at
        # It blocks at the server for as long as its caller waits: no time-out, and no retries.
        self._redis = redis.Redis.from_url(acl.as_admin(url), socket_timeout=None)
        base = f"{prefix}:{name}"
        self._base = base
        self._bound = f"{base}:bound"
        self._closed = f"{base}:closed"
        self._not_full = f"{base}:not_full"
        self._producer = f"{base}:producer"
        self._producer_free = f"{base}:producer_free"
        self._consumer = f"{base}:consumer"
        self._consumer_free = f"{base}:consumer_free"
        self._stats = f"{base}:stats:"

    def create(self, bound: int = 0) -> None:
        """Create the queue; a `bound` of 0 means none. Raises AlreadyExists."""
        if not self._redis.setnx(self._bound, bound):
            raise AlreadyExists(self.name)
        self.at("create.bound")
        self._redis.lpush(self._producer_free, TOKEN)
        self.at("create.freed_producer")
        self._redis.lpush(self._consumer_free, TOKEN)
        self.at("create.freed_consumer")
        self._redis.lpush(self._not_full, TOKEN)
        self.at("create.freed_not_full")

    @property
    def exists(self) -> bool:
        """Whether the queue exists."""
        return bool(self._redis.exists(self._bound))

    @property
    def length(self) -> int:
        """The number of values in it. Raises DoesNotExist."""
        self._read_bound()
        return self._redis.llen(self._base)

    @property
    def closed(self) -> bool:
        """Whether it was closed. Raises DoesNotExist."""
        self._read_bound()
        return self._is_closed()

    def put(self, data: bytes, timeout: float | None = None, *, overfill: bool = False) -> None:
        """Put one value; `timeout` seconds (None: for ever) cover the waits for role and room.

        Raises:
            DoesNotExist, Closed, InUse, Full
        """
        deadline = _deadline(timeout)
        bound = self._read_bound()
        self.at("put.bound")
        self._become(self._producer, self._producer_free, deadline, "put")
        if self._is_closed():
            self.at("put.closed")
            self._redis.lpush(self._producer_free, TOKEN)
            raise Closed(self.name)
        self.at("put.open")
        if bound and not overfill:
            if self._pop_token(self._not_full, deadline) is None:
                self._redis.lpush(self._producer_free, TOKEN)
                raise Full(self.name)
            self.at("put.took_not_full")
        self._redis.lpush(self._base, data)
        self.at("put.pushed")
        self._restore_not_full(bound)
        self.at("put.returned_not_full")
        self._count("produced", data)
        self.at("put.counted")
        self._redis.lpush(self._producer_free, TOKEN)
        self.at("put.returned_producer")

    def put_nowait(self, data: bytes) -> None:
        """Put one value or raise at once: as `put` with a time-out of 0."""
        self.put(data, timeout=0)

    def get(self, timeout: float | None = None) -> bytes:
        """Take the oldest value; `timeout` seconds (None: for ever) cover role and value.

        Raises:
            DoesNotExist, Closed, InUse, Empty
        """
        deadline = _deadline(timeout)
        bound = self._read_bound()
        self.at("get.bound")
        self._become(self._consumer, self._consumer_free, deadline, "get")
        value = self._take(deadline)
        self.at("get.popped")
        self._restore_not_full(bound)
        self.at("get.returned_not_full")
        self._count("consumed", value)
        self.at("get.counted")
        self._redis.lpush(self._consumer_free, TOKEN)
        self.at("get.returned_consumer")
        return value

    def get_nowait(self) -> bytes:
        """Take the oldest value or raise at once: as `get` with a time-out of 0."""
        return self.get(timeout=0)

    def __iter__(self) -> Iterator[bytes]:
        """The values, until the queue is closed and drained."""
        while True:
            try:
                yield self.get()
            except Closed:
                return

    def close(self, timeout: float | None = None) -> None:
        """Close the queue for good. Raises DoesNotExist, Closed (it was already), InUse."""
        self._read_bound()
        self.at("close.bound")
        self._become(self._producer, self._producer_free, _deadline(timeout), "close")
        already = self._is_closed()
        if not already:
            self.at("close.open")
            self._redis.lpush(self._closed, TOKEN, TOKEN)
            self.at("close.pushed")
        self._redis.lpush(self._producer_free, TOKEN)
        if already:
            raise Closed(self.name)
        self.at("close.returned_producer")

    def delete(self, timeout: float | None = None) -> None:
        """Delete the queue once both roles are free, waking who is blocked.

        Raises:
            DoesNotExist: there was none.
            InUse: a role stayed taken for `timeout` seconds; the queue is half deleted then.
        """
        deadline = _deadline(timeout)
        if not self._redis.delete(self._bound):
            raise DoesNotExist(self.name)
        self.at("delete.dropped_bound")
        self._redis.lpush(self._not_full, TOKEN)
        self._redis.lpush(self._closed, TOKEN, TOKEN)
        self.at("delete.woke")
        for role, key, free in (
            ("producer", self._producer, self._producer_free),
            ("consumer", self._consumer, self._consumer_free),
        ):
            if self._pop_token(free, deadline) is None:
                raise InUse(f"{role} of {self.name}")
            self.at(f"delete.took_{role}")
            self._redis.delete(key, free)
            self.at(f"delete.dropped_{role}")
        counters = [
            f"{self._stats}{done}_{unit}"
            for done in ("produced", "consumed")
            for unit in ("messages", "bytes")
        ]
        self._redis.delete(self._not_full, self._closed, *counters, self._base)
        self.at("delete.dropped_rest")

    def disconnect(self) -> None:
        """Drop the connection, as the end of the process would."""
        self._redis.close()

    def _read_bound(self) -> int:
        bound = self._redis.get(self._bound)
        if bound is None:
            raise DoesNotExist(self.name)
        return int(bound)

    def _is_closed(self) -> bool:
        return bool(self._redis.exists(self._closed))

    def _become(self, role: str, free: str, deadline: float | None, doing: str) -> None:
        short = role.rpartition(":")[2]
        if self._pop_token(free, deadline) is None:
            raise InUse(self.name)
        self.at(f"{doing}.took_{short}")
        self._redis.set(role, self.client_id)
        self.at(f"{doing}.set_{short}")

    def _take(self, deadline: float | None) -> bytes:
        closed = self._is_closed()
        self.at("get.closed" if closed else "get.open")
        if closed:
            if not self._redis.llen(self._base):
                self._redis.lpush(self._consumer_free, TOKEN)
                raise Closed(self.name)
            popped = self._pop((self._base,), deadline)
        else:
            popped = self._pop((self._base, self._closed), deadline)
        if popped is None:
            self._redis.lpush(self._consumer_free, TOKEN)
            raise Empty(self.name)
        key, value = popped
        if key == self._closed:
            self._redis.lpush(self._consumer_free, TOKEN)
            raise Closed(self.name)
        return value

    def _restore_not_full(self, bound: int) -> None:
        if bound == 0 or self._redis.llen(self._base) < bound:
            self._redis.lpush(self._not_full, TOKEN)
            self._redis.ltrim(self._not_full, 0, 0)

    def _count(self, done: str, data: bytes) -> None:
        self._redis.incr(f"{self._stats}{done}_messages")
        self._redis.incrby(f"{self._stats}{done}_bytes", len(data))

    def _pop_token(self, key: str, deadline: float | None) -> bytes | None:
        popped = self._pop((key,), deadline)
        return None if popped is None else popped[1]

    def _pop(self, keys: tuple[str, ...], deadline: float | None) -> tuple[str, bytes] | None:
        left = 0.0 if deadline is None else deadline - time.monotonic()
        if deadline is not None and left <= 0:
            # BRPOP takes 0 for "for ever", so what must not wait uses RPOP.
            for key in keys:
                value = self._redis.rpop(key)
                if isinstance(value, bytes):
                    return key, value
            return None
        popped = self._redis.brpop(list(keys), left)
        if popped is None:
            return None
        key_name, value = popped
        assert isinstance(key_name, bytes)
        assert isinstance(value, bytes)
        return key_name.decode(), value


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout
