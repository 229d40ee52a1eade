"""`PressureQueue`: the contract of `queue.Queue`, on a server.

Here are the names and the promises. How an operation blocks, wakes and recovers is in
`pressure.flows`; connections and the pool of sessions are in `pressure.handle`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Generic, TypeVar

import redis

from pressure import lifecycle, putting, reading
from pressure.address import Address
from pressure.arguments import checked_count, deadline, put_deadline
from pressure.core import NOT_PICKLED, Core
from pressure.credentials import given_settings, resolve_keys
from pressure.encoding import Encoder
from pressure.errors import PressureError, QueueFullError
from pressure.handle import Handle
from pressure.keys import resolve_prefix, validate_name
from pressure.lease import Lease
from pressure.link import Link
from pressure.pace import Pace
from pressure.queue_control import QueueControl
from pressure.serializers import Serializer, serializer_for
from pressure.settings import Settings
from pressure.taker import Taker

__all__ = ["PressureQueue"]

T = TypeVar("T")


class PressureQueue(QueueControl, Generic[T]):
    """A handle to the queue `name`: a bounded, blocking FIFO queue that lives on the server.

    Any number of threads, processes and machines may use any number of handles. A queue exists from
    `create` to `delete`, and survives all of its handles.

    Args:
        name: up to 512 bytes of UTF-8.
        url: the server; default `PRESSURE_URL`, else redis://127.0.0.1:6379/0. Sentinel and Cluster
            have `redis+sentinel://` and `redis+cluster://`, see docs/sentinel-and-cluster.md.
        client: a `redis.Redis` (also of `Sentinel.master_for`) or `redis.RedisCluster` of your own
            instead, whose address, credentials and TLS are used.
        prefix: what all keys begin with. Default `PRESSURE_PREFIX`, or `__pressure__`.
        codec: `"pickle"`, `"raw"` for bytes as they are (which clients of protocol 0.15 in other
            languages understand), or an object with `dumps` and `loads`.
        key: signs all items; or several, of which the first signs and all are accepted. Default
            `PRESSURE_KEY`, or the embedded server's own. Raw items are never signed.
        min_replicas: how many replicas must have what is put before `put` returns (default: none).
            If they take longer than `settings.replica_timeout`, `NotReplicatedError` is raised; the
            item is in the queue all the same.
        settings: what is rarely changed, see `Settings`.

    Creating a handle talks to nobody; the first operation connects, and raises
    `ServerUnavailableError` if there is no server. From then on a lost server is sought for
    `settings.reconnect_timeout` seconds.
    """

    def __init__(
        self,
        name: str,
        *,
        url: str | None = None,
        client: redis.Redis | redis.RedisCluster | None = None,
        prefix: str | None = None,
        codec: str | Serializer = "pickle",
        key: bytes | str | Iterable[bytes | str] | None = None,
        min_replicas: int | None = None,
        settings: Settings | None = None,
    ) -> None:
        validate_name(name)
        serializer = serializer_for(codec)
        address = Address.of(url, client)
        settings = given_settings(settings).placed(name, address, min_replicas)
        if serializer is not None:
            settings = resolve_keys(settings, key, address)
        self._codec = codec
        core: Core[Link] = Core(name, resolve_prefix(prefix), serializer, settings)
        super().__init__(core, Handle(core, address))
        self._taker = Taker(self._handle)
        self._pace = Pace()

    # Putting

    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:
        """Put an item, as `queue.Queue.put`; returns once the server has accepted it.

        `timeout` is in seconds; None waits for ever. Raises `QueueFullError` (a `queue.Full`),
        `QueueClosedError` (a `ShutDown`), `QueueDoesNotExistError`, `ItemTooLargeError`, or what
        pickling raises: then nothing was put. A lost reply never makes a second copy. If the server
        stays away in the middle: `OutcomeUnknownError`.
        """
        self._put(item, self._put_until(block, timeout), "")

    def put_nowait(self, item: T) -> None:
        """`put(item, block=False)`."""
        self._put(item, 0.0, "")

    def overfill(self, item: T) -> None:
        """Put an item even if the queue is full."""
        self._put(item, 0.0, "overfill")

    def put_many(self, iterable: Iterable[T], timeout: float | None = None) -> int:
        """Put all items of an iterable, many at a time, in order; returns how many.

        It streams: the iterable may be endless, and the bound is honoured. When `timeout` (for the
        whole call) runs out, or the queue is closed, the error's `accepted` says how many were put.
        If the iterable raises, what it gave before is put. What it gives gathers while it is quick,
        so it must not wait for an answer to what it has just given: use `put` for that.
        """
        until = self._put_until(True, timeout)
        accepted = 0
        source = self._pace.batches(iterable, self._core.serialize)
        # Any other iterable may wait for something.
        ahead = isinstance(iterable, list | tuple)
        batches = Encoder(self._core, source, ahead=ahead, until=until)
        for batch, failure, prepared in batches:
            try:
                accepted += self._put_bodies(batch, until, "", prepared, batches.encode_next)
            except PressureError as exc:
                exc.accepted += accepted
                raise
            if failure is not None:
                if isinstance(failure, PressureError):
                    failure.accepted = accepted
                raise failure
        return accepted

    def _put_until(self, block: bool, timeout: float | None) -> float | None:
        if not block or timeout is None or not timeout < 0:
            return deadline(block, timeout)
        # What this handle knows of the bound may be out of date.
        return put_deadline(block, timeout, self.maxsize)

    def _put(self, item: T, until: float | None, mode: str) -> None:
        self._put_bodies([self._core.serialize(item)], until, mode)

    def _put_bodies(
        self,
        bodies: list[bytes],
        until: float | None,
        mode: str,
        prepared: putting.Prepared | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> int:
        handle = self._handle
        session = handle.acquire()
        try:
            flow = putting.put_bodies(self._core, session, bodies, until, mode, prepared=prepared)
            accepted = handle.run(flow, session, until, meanwhile=meanwhile)
            handle.release(session)
        except BaseException:
            handle.release_cut_short(session)
            raise
        if accepted < len(bodies):
            full = QueueFullError(self.name)
            full.accepted = accepted
            raise full
        return accepted

    # Getting

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Take the oldest item, as `queue.Queue.get`.

        `timeout` is in seconds; None waits for ever. Raises `QueueEmptyError` (a `queue.Empty`),
        `QueueClosedError` (a `ShutDown`) once the queue is closed and drained,
        `QueueDoesNotExistError`, or `PayloadError` for an item that can't be read, which is then in
        the dead-letter list. An item whose reply was lost is not lost. It is acknowledged with the
        next call or within 50 ms; a crash before that delivers it once more.
        """
        return self._taker.get(deadline(block, timeout))  # type: ignore[no-any-return]

    def get_nowait(self) -> T:
        """`get(block=False)`."""
        return self._taker.get(0.0)  # type: ignore[no-any-return]

    def get_many(self, max_items: int, timeout: float | None = None) -> list[T]:
        """Wait for an item as `get` does, and take what else is there, up to `max_items`."""
        return self._taker.get_many(deadline(True, timeout), checked_count(max_items))

    def __iter__(self) -> Iterator[T]:
        """Get items until the queue is closed and drained.

        A fast consumer fetches several at a time, if nobody else waits for them; what is fetched
        and not used is given back within 100 ms, and at once when the loop is left.
        """
        return self._taker.each()

    # Leases

    def lease(self, timeout: float | None = None) -> Lease[T]:
        """Take the oldest item on lease: it is in the queue again unless it is acknowledged.

        ``with q.lease(timeout=5) as item:`` acknowledges when the block succeeds and gives the item
        back when it raises. `timeout` is for the wait (seconds). The lease renews itself while this
        process lives. Raises as `get` does.
        """
        return self._taker.lease(deadline(True, timeout))

    def ack(self, lease: Lease[T]) -> None:
        """`lease.ack()`."""
        lease.ack()

    def give_back(self, lease: Lease[T], *, charge: bool = True) -> None:
        """`lease.give_back()`."""
        lease.give_back(charge=charge)

    # join

    def task_done(self) -> None:
        """Say that an item that `get` returned is done, as `queue.Queue.task_done`.

        Raises `ValueError` if called more often than items were got, by all consumers together.
        """
        self._handle.flush_idle()
        counted = self._handle.call_over(lambda session: lifecycle.task_done(self._core, session))
        if not counted and not self._core.may_count_twice:
            raise ValueError("task_done() called too many times")

    def join(self, timeout: float | None = None) -> None:
        """Wait until every item is done, whoever got it, as `queue.Queue.join`.

        A consumer that dies doesn't hold it up: what it had on lease comes back, and what it had
        got counts as done. Raises `TimeoutError` if `timeout` (seconds) is given and runs out.
        """
        until = deadline(True, timeout)
        if not self._handle.call(lifecycle.join(self._core, until), until):
            raise TimeoutError(f"queue {self.name!r}: not finished within {timeout} s")

    @property
    def unfinished_tasks(self) -> int:
        """How many items are queued, on lease, or got and not yet done."""
        return self._handle.call(lifecycle.unfinished(self._core))

    # Looking

    def peek(self) -> T:
        """The oldest item, which stays where it is. Raises `QueueEmptyError`."""
        return self._peek(-1)

    def peek_reverse(self) -> T:
        """The newest item, which stays where it is. Raises `QueueEmptyError`."""
        return self._peek(0)

    def _peek(self, index: int) -> T:
        return self._handle.call(reading.peek(self._core, index))  # type: ignore[no-any-return]

    # Other clients, other threads

    def unblock(self) -> None:
        """End what other threads of this process are blocked in on this handle.

        They raise `OperationUnblocked`. What was being put is discarded; what was being received
        stays in the queue or reaches its caller.
        """
        self._handle.unblock()

    # This handle

    def disconnect(self) -> None:
        """Release this handle's connections, and give back what it holds. The queue lives on.

        The handle can still be used: it connects again.
        """
        self._handle.disconnect()

    def __enter__(self) -> PressureQueue[T]:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.disconnect()

    def __reduce__(self) -> Any:
        raise TypeError(NOT_PICKLED)

    def __repr__(self) -> str:
        return f"<PressureQueue {self.name!r} at {self._handle.address}>"
