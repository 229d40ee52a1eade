"""The one retry policy: when to try again, how long to wait, when to give up.

redis-py's own retries are off on our connections: its defaults send a command again after a lost
reply, which would put an item twice. Here only what may be repeated is repeated.
"""

from __future__ import annotations

import random
import ssl
import time

import redis.exceptions as redis_errors

from pressure.address import Address
from pressure.errors import PressureError, ServerOutOfMemoryError, ServerRefusedError
from pressure.nodes import named

__all__ = ["Backoff", "Broken", "Disconnected", "Oom", "classify", "is_about_one_queue"]

FIRST_DELAY = 0.02
LONGEST_DELAY = 0.5
"""So a server that is back is found within half a second (at most)."""

_PASSING = (
    "LOADING",
    "READONLY",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "BUSY ",
    "MISCONF",
    "NOREPLICAS",
    "UNBLOCKED",
    "MOVED",
    "ASK",
    "max number of clients reached",
    "ERR max number of clients reached",
)
_FINAL = ("NOPERM", "NOAUTH", "WRONGPASS", "ERR unknown command", "unknown command")


class Broken(Exception):
    """The connection failed, or the server asked to try again later. Internal."""

    def __init__(self, cause: BaseException, *, sent: bool) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.sent = sent


class Disconnected(Exception):
    """Thrown into a flow after reconnecting: what it sent may have been done or not. Internal."""


class Oom(ServerOutOfMemoryError):
    """The server is out of memory; for a blocking take this means: poll instead. Internal."""


def classify(exc: Exception, *, sent: bool, address: Address) -> Exception:
    """What a redis-py exception means: `Broken` (try again) or a final error with a cure in it."""
    exc = named(exc)
    text, where = str(exc), str(address)
    if isinstance(exc, redis_errors.OutOfMemoryError) or text.startswith("OOM"):
        return Oom(
            f"the server at {where} has reached its maxmemory and refused to store more: "
            "let consumers drain it, or raise maxmemory"
        )
    if isinstance(
        exc,
        redis_errors.AuthenticationError
        | redis_errors.AuthorizationError
        | redis_errors.NoPermissionError,
    ) or text.startswith(_FINAL):
        return ServerRefusedError(f"the server at {where} refused: {text}")
    if isinstance(exc, redis_errors.ConnectionError | redis_errors.TimeoutError | OSError):
        distrusted = _distrusted(exc)
        if distrusted is not None:
            why = distrusted.verify_message.rstrip(".")
            return ServerRefusedError(
                f"the server at {where} is not trusted: {why}. Its "
                "certificate must be signed by a known authority (ssl_ca_certs=FILE in the URL "
                "names another one) and made out to the host name in the URL"
            )
        return Broken(exc, sent=sent)
    if isinstance(exc, redis_errors.AskError | redis_errors.ClusterCrossSlotError) and (
        not address.is_cluster
    ):
        return ServerRefusedError(
            f"the server at {where} is a node of a Cluster: the URL for that is "
            "redis+cluster://HOST:PORT, with one or more of its nodes"
        )
    if isinstance(
        exc,
        redis_errors.ReadOnlyError
        | redis_errors.ClusterDownError
        | redis_errors.TryAgainError
        | redis_errors.AskError,
    ) or text.startswith(_PASSING):
        return Broken(exc, sent=False)
    return PressureError(f"the server at {where} answered with an error: {text}")


def is_about_one_queue(exc: PressureError) -> bool:
    """Whether the server has answered with an error that is no other queue's: something else has
    written to this one's keys, say."""
    # All that means something else has a class of its own.
    return type(exc) is PressureError


def _distrusted(exc: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """Why the server's certificate was refused, if that is what is behind an exception."""
    while exc is not None:
        if isinstance(exc, ssl.SSLCertVerificationError):
            return exc
        exc = exc.__cause__ or exc.__context__
    return None


class Backoff:
    """Waits of a growing, jittered length, until a limit."""

    def __init__(self, limit: float) -> None:
        self._until = time.monotonic() + limit
        self._delay = FIRST_DELAY

    def delay(self, deadline: float | None = None) -> float | None:
        """How long to wait before the next try (seconds), or None if there is no next try."""
        until = self._until if deadline is None else min(self._until, deadline)
        left = until - time.monotonic()
        if left <= 0:
            return None
        delay = random.uniform(0.5, 1.0) * self._delay
        self._delay = min(self._delay * 2, LONGEST_DELAY)
        return min(delay, left)
