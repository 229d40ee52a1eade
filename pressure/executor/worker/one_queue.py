"""What a worker does at one queue: it claims tasks, and records what became of the last.

A queue about which the server answers with an error, since something else has written to its keys,
is set aside, and tried again after a pause that grows.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from pressure.channel import Channel, Consumer, Delivery, Verdict
from pressure.errors import PressureError, QueueDoesNotExistError, QueueError
from pressure.executor.context import before_outcomes
from pressure.executor.post import DEFAULT_BOUND
from pressure.executor.records import join_answers
from pressure.retry import is_about_one_queue

__all__ = ["QUIET", "Claimant", "OneQueue", "settle"]

QUIET = 1.0
"""After this time (seconds) a closed queue is asked again."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
"""After this time (seconds) a queue that was set aside is tried again, at first and at last."""


class Claimant(Protocol):
    """What a worker and its watchdog need of a consumer, or of several. What it says of `channel`
    and does with deliveries concerns the queue that the last claim was from."""

    lock: threading.RLock

    @property
    def channel(self) -> Channel: ...

    @property
    def server(self) -> bytes: ...

    @property
    def unsettled(self) -> bool: ...

    @property
    def looked(self) -> float: ...

    def exchange(
        self, verdicts: Sequence[Verdict], count: int, until: float | None = None
    ) -> list[Delivery]: ...

    def give_back(self, ids: Sequence[bytes]) -> None: ...

    def holds(self, id: bytes) -> bool: ...

    def unblock(self) -> None: ...

    def close(self) -> None: ...


class OneQueue(Consumer):
    """The consumer of a worker that serves only this queue.

    `tell` is called when the queue is set aside, with the reason, and when it is served again, with
    an empty text.
    """

    def __init__(self, channel: Channel, tell: Callable[[str], None]) -> None:
        super().__init__(channel.handle, join_answers)
        self.channel = channel
        self.trouble = ""
        """Why the queue is set aside; empty: it is not."""
        self.aside_until = 0.0
        """When it is to be tried again (monotonic)."""
        self._tell = tell
        self._pause = 0.0
        self._owed: Sequence[Verdict] = ()
        self._left: Sequence[bytes] = ()

    def open(self) -> None:
        """Have the queue, and register as a consumer."""
        try:
            self.channel.ensure(DEFAULT_BOUND)
            self.exchange((), 0)
        except PressureError as exc:
            self.set_aside(exc)

    def ensure(self) -> None:
        """It was deleted, or lost with the server's data: make it anew."""
        try:
            self.channel.ensure(DEFAULT_BOUND)
        except PressureError as exc:
            self.set_aside(exc)

    def claim(
        self,
        verdicts: Sequence[Verdict],
        left: Sequence[bytes],
        count: int,
        until: float | None = None,
        *,
        wait: bool = True,
    ) -> list[Delivery]:
        """Record verdicts, give back the ids that are `left`, and claim as `exchange` does.

        If the queue is set aside for what the server answers, nothing is claimed; what was to be
        said is said with the next claim.
        """
        if self.trouble:
            verdicts, left = [*self._owed, *verdicts], [*self._left, *left]
            self._owed = self._left = ()
            # Whether that is over is to be known before the next task comes.
            wait = False
        try:
            if left:
                # The watchdog has tried, and could not say whether it succeeded.
                with contextlib.suppress(QueueDoesNotExistError):
                    settle(self, verdicts)
                verdicts = ()
                self.give_back(left)
                left = ()
            deliveries = self.exchange(verdicts, count, until, wait=wait)
            if not count and deliveries:
                # What a reply had brought that was lost.
                self.give_back([delivery.id for delivery in deliveries])
                deliveries = []
        except PressureError as exc:
            self.set_aside(exc, verdicts, left)
            return []
        if self.trouble:
            self._recovered()
        return deliveries

    def set_aside(
        self, exc: PressureError, verdicts: Sequence[Verdict] = (), left: Sequence[bytes] = ()
    ) -> None:
        """Leave the queue alone for a while, if the error is about it; else raise that."""
        if not is_about_one_queue(exc):
            if self.trouble and isinstance(exc, QueueError):
                self._recovered()
            raise exc
        self._owed, self._left = [*self._owed, *verdicts], [*self._left, *left]
        self._pause = min(self._pause * 2, LONGEST_PAUSE) if self.trouble else FIRST_PAUSE
        self.aside_until = time.monotonic() + self._pause
        if not self.trouble:
            self._tell(str(exc))
        self.trouble = str(exc)

    def _recovered(self) -> None:
        self.trouble = ""
        self._tell("")

    def rest(self) -> bool:
        """Sleep for a while if the queue is set aside. Returns whether it is."""
        seconds = self.aside_until - time.monotonic()
        if seconds > 0:
            time.sleep(min(seconds, QUIET))
        return seconds > 0

    def exchange(
        self,
        verdicts: Sequence[Verdict],
        count: int,
        until: float | None = None,
        *,
        done: Sequence[bytes] = (),
        wait: bool = True,
    ) -> list[Delivery]:
        if verdicts:
            for call in before_outcomes:
                call()
        return super().exchange(verdicts, count, until, done=done, wait=wait)

    def unblock(self) -> None:
        """End a wait for a task. From any thread."""
        self.channel.unblock()


def settle(consumer: Claimant, verdicts: Sequence[Verdict], until: float | None = None) -> None:
    """Record verdicts without claiming anything."""
    found = consumer.exchange(verdicts, 0, until)
    if found:
        # What a reply had brought that was lost.
        consumer.give_back([delivery.id for delivery in found])
