"""Every exception that `pressure` raises of its own, under one root.

::

    PressureError
    ├── QueueError                      names the queue it is about
    │   ├── QueueAlreadyExistsError
    │   ├── QueueDoesNotExistError
    │   ├── QueueClosedError            is a ShutDown (and so ends iteration, as in Python 3.13)
    │   ├── QueueFullError              is a queue.Full
    │   ├── QueueEmptyError             is a queue.Empty
    │   ├── QueueInUseError             a client of protocol 0.15 holds the role
    │   ├── ItemTooLargeError           is a ValueError; nothing was sent
    │   ├── NotReplicatedError          accepted, but too few replicas have it yet
    │   ├── OperationUnblocked          another thread called unblock()
    │   ├── LeaseLostError              the item went back to the queue meanwhile
    │   └── PayloadError                the item cannot be read; it is in the dead-letter list
    │       └── SignatureError          its signature is missing or wrong; it was not unpickled
    ├── ServerError                     names host and port, never a password
    │   ├── ServerUnavailableError      is a ConnectionError
    │   ├── OutcomeUnknownError         the server stayed away in the middle of a put
    │   ├── ServerOutOfMemoryError      `maxmemory` is reached; the put was refused
    │   └── ServerRefusedError          credentials, permissions or version; retrying is no use
    ├── ServerNotFoundError             no server program to start an embedded server with
    └── ServerStartError                the embedded server did not come up

`queue.Empty` and `queue.Full` are what the non-blocking and timed methods of `queue.Queue` raise,
so code written for the standard library's queues needs no change.
"""

from __future__ import annotations

import queue
import sys
from typing import TYPE_CHECKING, Any

__all__ = [
    "ItemTooLargeError",
    "LeaseLostError",
    "NotReplicatedError",
    "OperationUnblocked",
    "OutcomeUnknownError",
    "PayloadError",
    "PressureError",
    "QueueAlreadyExistsError",
    "QueueClosedError",
    "QueueDoesNotExistError",
    "QueueEmptyError",
    "QueueError",
    "QueueFullError",
    "QueueInUseError",
    "ServerError",
    "ServerNotFoundError",
    "ServerOutOfMemoryError",
    "ServerRefusedError",
    "ServerStartError",
    "ServerUnavailableError",
    "ShutDown",
    "SignatureError",
]

if TYPE_CHECKING or sys.version_info < (3, 13):

    class ShutDown(Exception):
        """The queue was shut down; on Python 3.13 and later this is `queue.ShutDown` itself."""

else:
    ShutDown = queue.ShutDown


class PressureError(Exception):
    """The root of all errors of this library.

    `accepted` is how many items of a `put_many` had been accepted before.
    """

    accepted = 0


class QueueError(PressureError):
    """An error about one queue, whose name is in `queue`."""

    summary = "the operation failed"

    def __init__(self, queue: str, detail: str = "") -> None:
        super().__init__(queue, detail)
        self.queue = queue
        self.detail = detail

    def __str__(self) -> str:
        return f"queue {self.queue!r}: {self.detail or self.summary}"


class QueueAlreadyExistsError(QueueError):
    """`create` on a queue that exists."""

    summary = "it exists already"


class QueueDoesNotExistError(QueueError):
    """The queue was never created, or has been deleted."""

    summary = "it does not exist; create() makes it"


DELETED_MEANWHILE = "it was deleted while this operation waited"


class QueueClosedError(QueueError, ShutDown):
    """The queue is closed: nothing more can be put, and (for `get`) nothing is left in it."""

    summary = "it is closed"


class QueueFullError(QueueError, queue.Full):
    """The bound is reached, and stayed so for the whole time-out."""

    summary = "it is full"


class QueueEmptyError(QueueError, queue.Empty):
    """There was nothing to get, for the whole time-out."""

    summary = "it is empty"


class QueueInUseError(QueueError):
    """A client of the published protocol 0.15 holds the producer or consumer role."""

    summary = "its role is held by another client"


class OperationUnblocked(QueueError):
    """Another thread ended this blocked operation with `unblock()`."""

    summary = "the blocked operation was ended by unblock()"


class ItemTooLargeError(QueueError, ValueError):
    """The encoded item exceeds the limit; nothing was sent. `size` and `limit` are in bytes."""

    def __init__(self, queue: str, size: int, limit: int) -> None:
        super().__init__(
            queue,
            f"an item of {size:,} bytes exceeds the limit of {limit:,} bytes (max_item_bytes)",
        )
        self.size = size
        self.limit = limit

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.queue, self.size, self.limit), self.__dict__


class NotReplicatedError(QueueError):
    """The put was accepted, and fewer replicas than `min_replicas` say in time that they have it.

    The items **are in the queue** (`accepted` says how many), so don't put them again: but they may
    be lost if the primary dies now. `replicas` acknowledged, `wanted` were asked for.
    """

    def __init__(self, queue: str, replicas: int, wanted: int) -> None:
        super().__init__(
            queue,
            f"the put was accepted, but only {replicas} of {wanted} replicas (min_replicas) have "
            "it so far; don't repeat it",
        )
        self.replicas = replicas
        self.wanted = wanted

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.queue, self.replicas, self.wanted), self.__dict__


class LeaseLostError(QueueError):
    """The lease ran out, so the item went back to the queue: somebody else may have it now."""

    summary = "the lease was lost; the item may be delivered again"


class PayloadError(QueueError):
    """An item could not be decoded. It was moved to the dead-letter list; the queue goes on."""

    summary = "an item could not be decoded"


class SignatureError(PayloadError):
    """An item's signature is missing or wrong. It was not unpickled."""

    summary = "an item's signature is missing or wrong"


class ServerError(PressureError):
    """An error about a server."""


class ServerUnavailableError(ServerError, ConnectionError):
    """The server could not be reached, or stayed away longer than `reconnect_timeout`."""


class OutcomeUnknownError(ServerUnavailableError):
    """The server stayed away in the middle of a put, or of a lease's acknowledgement: the item may
    be in the queue or not."""


class ServerOutOfMemoryError(ServerError):
    """The server refused to store more (`maxmemory`). Nothing was put; consumers can drain."""


class ServerRefusedError(ServerError):
    """The server refused the command for good: credentials, permissions, or its version."""


class ServerNotFoundError(PressureError):
    """There is no `valkey-server` or `redis-server` to start the embedded server with."""


class ServerStartError(PressureError):
    """The embedded server did not start; the message quotes its last log lines."""
