"""What concerns a queue as a whole: its life, its size, who may use it."""

from __future__ import annotations

import contextlib
import threading
import time
import warnings
from typing import Any, TypeVar

from pressure import flows, lifecycle
from pressure.arguments import checked_bound, usable_bound
from pressure.core import Core
from pressure.errors import QueueClosedError, QueueDoesNotExistError
from pressure.handle import Handle
from pressure.letters import DeadLetters
from pressure.link import Link
from pressure.protocol import Command, Status
from pressure.requests import Flow
from pressure.stats import QueueStats, parse_stats

__all__ = ["QueueControl"]

R = TypeVar("R")


class QueueControl:
    """The part of `pressure.PressureQueue` that handles no items."""

    def __init__(self, core: Core[Link], handle: Handle) -> None:
        self._core = core
        self._handle = handle

    @property
    def name(self) -> str:
        return self._core.name

    @property
    def dead_letters(self) -> DeadLetters:
        """What could not be delivered or read, and why: iterate (the newest first; `DeadLetter`s),
        `len`, `[id]`, `replay` to put them back into the queue, `purge` to drop them."""
        return DeadLetters(self._handle)

    # The queue's life

    def create(self, bound: int | None = None) -> None:
        """Make the queue. At most `bound` items may be in it; None or 0: no limit.

        Raises `QueueAlreadyExistsError`; `TypeError` or `ValueError` for a bad bound.
        """
        self._handle.call(lifecycle.create(self._core, checked_bound(bound)))

    @property
    def exists(self) -> bool:
        """Whether the queue has been created and not deleted."""
        return bool(self._handle.ask(Command(("EXISTS", self._core.protocol.keys.bound))))

    def closed(self) -> bool:
        """Whether the queue is closed. Raises `QueueDoesNotExistError`."""
        return bool(self._size()[2])

    def close(self) -> None:
        """Close the queue for everybody: no more puts; gets go on until it is drained.

        Everybody who is blocked on it wakes. Raises `QueueClosedError` if it is closed already, and
        `QueueInUseError` if a client of protocol 0.15 doesn't return the producer role. To release
        this handle alone is `disconnect()`.
        """
        self._described(lifecycle.close(self._core))

    def pause(self) -> None:
        """Have gets hand out nothing until `resume`, whoever calls and whoever restarts.

        To those who get, the queue looks empty: they wait, or raise `QueueEmptyError`. Puts go on,
        and so do leases, acknowledgements, and the tasks that workers have begun. What consumers
        have fetched ahead, they may still hand out. Clients of protocol 0.15 don't heed it. Pausing
        a paused queue does no harm. Raises `QueueDoesNotExistError`.
        """
        self._handle.call(lifecycle.pause(self._core))

    def resume(self) -> None:
        """End a pause, and wake those who wait. Raises `QueueDoesNotExistError`."""
        self._handle.call(lifecycle.resume(self._core))

    @property
    def paused(self) -> bool:
        """Whether the queue is paused. Raises `QueueDoesNotExistError`."""
        return self.stats().paused_at is not None

    @property
    def is_shutdown(self) -> bool:
        """`closed()`, by the name that `queue.Queue` has for it."""
        return self.closed()

    def shutdown(self, immediate: bool = False) -> None:
        """As `queue.Queue.shutdown` (Python 3.13): `close`, but calling it again does no harm.

        With `immediate`, what is queued is dropped and no longer counts as unfinished. What others
        hold on lease, or have just fetched ahead, stays theirs: given back, it can be got again.
        """
        with contextlib.suppress(QueueClosedError):
            self.close()
        if immediate:
            self.purge()

    def delete(self) -> None:
        """Delete the queue and all its data. Everybody who is blocked on it wakes.

        Raises `QueueDoesNotExistError`.
        """
        returned = self._handle.call(lifecycle.delete(self._core))
        self._handle.forget_queue()
        if not returned:
            warnings.warn(
                f"queue {self.name!r}: deleted, though a client of protocol 0.15 had not returned "
                "its role",
                RuntimeWarning,
                stacklevel=2,
            )

    def purge(self) -> int:
        """Drop all that is queued, which then no longer counts as unfinished; returns how many.

        What consumers hold stays theirs. Raises `QueueDoesNotExistError`.
        """
        self._handle.give_back_ahead()
        dropped: int = self._ask(self._core.protocol.drain())[1]
        return dropped

    # Looking

    def qsize(self) -> int:
        """How many items are in the queue now. Raises `QueueDoesNotExistError`."""
        length: int = self._size()[0]
        return length

    def empty(self) -> bool:
        """Whether the queue is empty now; as in the standard library, that may change at once."""
        return self.qsize() == 0

    def full(self) -> bool:
        """Whether the bound is reached now."""
        length, bound, *_ = self._size()
        return bool(0 < bound <= length)

    @property
    def maxsize(self) -> int:
        """The bound; 0: none. Assigning changes it, for everybody; what exceeds it stays."""
        bound = usable_bound(self._size()[1], self._core.protocol.keys.bound)
        return bound

    @maxsize.setter
    def maxsize(self, bound: int) -> None:
        self._ask(self._core.protocol.set_bound(checked_bound(bound)))

    def _size(self) -> Any:
        lagging = [one for one in list(self._core.sessions) if one.lags]
        # This may be called in the midst of something that only this thread can finish: by a signal
        # handler, or a finalizer.
        if lagging and not any(one.borrower == threading.get_ident() for one in lagging):
            self._handle.flush_idle()
            # Another thread may be just saying so; what it says later is about something later.
            under_way = [(one, one.acknowledging) for one in lagging if one.acknowledging]
            until = time.monotonic() + lifecycle.SETTLING
            while any(one.acknowledging is acks for one, acks in under_way):
                if time.monotonic() >= until:
                    break
                time.sleep(lifecycle.LOOK_AGAIN)
        return self._ask(self._core.protocol.size())[1:]

    def stats(self) -> QueueStats:
        """Counters, sizes and the last clients, at one instant."""
        return parse_stats(self._core, self._ask(self._core.protocol.stats()))

    def break_role(self, role: str) -> str:
        """Free the `"producer"` or `"consumer"` role of a client of protocol 0.15 that died.

        Returns the name of the client that held it; empty if nobody did.
        """
        if role not in ("producer", "consumer"):
            raise ValueError(f"a role is 'producer' or 'consumer', not {role!r}")
        return self._handle.call(lifecycle.break_role(self._core, role))

    def _ask(self, command: Command) -> Any:
        reply: Any = self._handle.ask(command)
        if reply[0] == Status.ABSENT:
            raise QueueDoesNotExistError(self.name)
        return reply

    def _described(self, flow: Flow[R]) -> R:
        if not self._core.generation:
            self._handle.call(flows.describe(self._core))
        return self._handle.call(flow)
