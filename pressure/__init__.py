"""Python's bounded, blocking queue on Redis or Valkey, and executors on top of it."""

from pressure._version import __version__
from pressure.core import Settings
from pressure.errors import (
    ItemTooLargeError,
    LeaseLostError,
    OperationUnblocked,
    OutcomeUnknownError,
    PayloadError,
    PressureError,
    QueueAlreadyExistsError,
    QueueClosedError,
    QueueDoesNotExistError,
    QueueEmptyError,
    QueueError,
    QueueFullError,
    QueueInUseError,
    ServerError,
    ServerNotFoundError,
    ServerOutOfMemoryError,
    ServerRefusedError,
    ServerStartError,
    ServerUnavailableError,
    ShutDown,
    SignatureError,
)
from pressure.lease import Lease
from pressure.letters import DeadLetter
from pressure.queue import PressureQueue
from pressure.server import LocalServer, local_server
from pressure.stats import QueueStats

__all__ = [
    "DeadLetter",
    "ItemTooLargeError",
    "Lease",
    "LeaseLostError",
    "LocalServer",
    "OperationUnblocked",
    "OutcomeUnknownError",
    "PayloadError",
    "PressureError",
    "PressureQueue",
    "QueueAlreadyExistsError",
    "QueueClosedError",
    "QueueDoesNotExistError",
    "QueueEmptyError",
    "QueueError",
    "QueueFullError",
    "QueueInUseError",
    "QueueStats",
    "ServerError",
    "ServerNotFoundError",
    "ServerOutOfMemoryError",
    "ServerRefusedError",
    "ServerStartError",
    "ServerUnavailableError",
    "Settings",
    "ShutDown",
    "SignatureError",
    "__version__",
    "local_server",
]
