"""What a worker claims, and from which queue next.

A worker of one queue has one consumer, each of whose claims also records what became of the last
tasks. A worker of several queues has a consumer of each, and serves them in turn: it claims tasks
of one queue at a time, for some milliseconds' work, then of the next that has any. So no queue
waits for another to be empty. When all are, it waits at all of them at once
(`pressure.channel.racing`).
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from pressure.channel import Channel, Consumer, Delivery, Verdict
from pressure.channel.racing import Race
from pressure.errors import QueueClosedError, QueueDoesNotExistError
from pressure.executor.context import before_outcomes
from pressure.executor.notes import MOST_CLAIMED, Notes
from pressure.executor.post import DEFAULT_BOUND
from pressure.executor.records import join_answers

__all__ = ["QUIET", "Claimant", "Claims", "OneQueue", "next_count", "settle"]

BATCH_SECONDS = 0.045
"""How much work a worker claims at once. Of tasks that take 10 ms it has four in hand, so that it
rarely waits for the next; what waits behind a long one goes back."""
FEW = 16
"""Who claims no more than this gets only a share of what is queued (`lua/exchange.lua`)."""
RECENT = 0.010
"""A queue that was empty so long ago (seconds) is not asked again while another has tasks."""
QUIET = 1.0
"""After this time (seconds) a closed queue is asked again."""


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
    """The consumer of a worker that serves only this queue."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(channel.handle, join_answers)
        self.channel = channel

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


def next_count(count: int, ran: int, seconds: float) -> int:
    """How many tasks to claim after `ran` of `count` took `seconds`: twice as many if that was
    quick, as many as fit into the time if it was not. Of short tasks also if there were fewer: many
    workers would else share them out in ever smaller claims."""
    short = ran > 1 and seconds < ran * BATCH_SECONDS / (2 * FEW)
    if seconds < BATCH_SECONDS / 2 and (ran >= count or short):
        return min(count * 2, MOST_CLAIMED)
    if seconds < BATCH_SECONDS and ran < count:
        return count
    return max(1, min(count * 2, int(ran * BATCH_SECONDS / seconds), MOST_CLAIMED))


class _Source:
    """One of the queues."""

    def __init__(self, number: int, channel: Channel) -> None:
        self.number = number
        self.channel = channel
        self.consumer = OneQueue(channel)
        self.count = 1
        self.empty_at = float("-inf")
        self.closed_until = 0.0
        self.noted = b""


class Claims:
    """The consumers of a worker of several queues, in turn. With `burst` it never waits: nothing is
    claimed if all queues are empty."""

    def __init__(self, channels: Sequence[Channel], notes: Notes, *, burst: bool = False) -> None:
        self.lock = threading.RLock()
        self._sources = [_Source(number, channel) for number, channel in enumerate(channels)]
        self._current = self._sources[0]
        self._notes = notes
        self._burst = burst
        read, self._bell = os.pipe()
        for end in (read, self._bell):
            os.set_blocking(end, False)
        self._race = Race(read)

    def open(self) -> None:
        """Register as a consumer of each queue."""
        for source in self._sources:
            source.channel.ensure(DEFAULT_BOUND)
            self._notes.consumer(source.consumer.id, source.number, ready=False)
            source.consumer.exchange((), 0)
            self._note(source)

    @property
    def channel(self) -> Channel:
        return self._current.channel

    @property
    def server(self) -> bytes:
        return self._current.consumer.server

    @property
    def unsettled(self) -> bool:
        return self._current.consumer.unsettled

    @property
    def looked(self) -> float:
        return max(source.consumer.looked for source in self._sources)

    def exchange(
        self, verdicts: Sequence[Verdict], count: int, until: float | None = None
    ) -> list[Delivery]:
        with self.lock:
            try:
                return self._current.consumer.exchange(verdicts, count, until)
            finally:
                self._note(self._current)

    def give_back(self, ids: Sequence[bytes]) -> None:
        with self.lock:
            self._current.consumer.give_back(ids)

    def holds(self, id: bytes) -> bool:
        with self.lock:
            return self._current.consumer.holds(id)

    def unblock(self) -> None:
        """End a wait for a task. From any thread."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._bell, b"\0")

    def close(self) -> None:
        for source in self._sources:
            source.consumer.close()

    def ran(self, tasks: int, seconds: float) -> None:
        """So long the last claim's tasks took, as far as they were run."""
        self._current.count = next_count(self._current.count, tasks, seconds)

    def next(
        self,
        verdicts: Callable[[], Sequence[Verdict]],
        unbegun: Callable[[], Sequence[bytes]],
        most: int,
    ) -> list[Delivery]:
        """Record the verdicts on what was claimed last, give back what was not begun of that, and
        claim up to `most` tasks of the queue whose turn it is, waiting for the first. Returns an
        empty list after `unblock`, and with `burst` if there are none."""
        with self.lock:
            owed = verdicts()
            left = unbegun()
            if left:
                # The watchdog has tried, and could not say whether it succeeded.
                self._record(owed)
                owed = ()
                self._current.consumer.give_back(left)
            deliveries = self._claim_in_turn(owed, most)
            if deliveries or self._burst:
                return deliveries
            return self._wait(most)

    def _in_turn(self) -> Iterator[_Source]:
        """All sources, the one whose turn it was last."""
        after = self._current.number + 1
        yield from self._sources[after:]
        yield from self._sources[:after]

    def _claim_in_turn(self, owed: Sequence[Verdict], most: int) -> list[Delivery]:
        now = time.monotonic()
        later = []
        for source in self._in_turn():
            last = source is self._current
            if not last and (now - source.empty_at < RECENT or now < source.closed_until):
                later.append(source)
                continue
            deliveries = self._ask(source, owed if last else (), most)
            if deliveries:
                if owed and not last:
                    self._record(owed)
                self._turn_to(source)
                return deliveries
        for source in later if self._burst else ():
            deliveries = self._ask(source, (), most)
            if deliveries:
                self._turn_to(source)
                return deliveries
        return []

    def _record(self, verdicts: Sequence[Verdict]) -> None:
        source = self._current
        # Its clients hear of a queue that is gone by themselves.
        with contextlib.suppress(QueueDoesNotExistError):
            settle(source.consumer, verdicts)
        self._note(source)

    def _ask(self, source: _Source, verdicts: Sequence[Verdict], most: int) -> list[Delivery]:
        deliveries: list[Delivery] = []
        try:
            deliveries = source.consumer.exchange(verdicts, min(source.count, most), wait=False)
        except QueueDoesNotExistError:
            # Deleted, or lost with the server's data.
            source.channel.ensure(DEFAULT_BOUND)
        except QueueClosedError:
            source.closed_until = time.monotonic() + QUIET
        self._note(source)
        if not deliveries:
            source.empty_at = time.monotonic()
        return deliveries

    def _note(self, source: _Source) -> None:
        id = source.consumer.id
        if id != source.noted:
            source.noted = id
            self._notes.consumer(id, source.number)

    def _turn_to(self, source: _Source) -> None:
        self._current = source
        self._notes.serving(source.number)

    def _wait(self, most: int) -> list[Delivery]:
        """Wait at all queues at once. All have just been found empty."""
        race = self._race
        fresh = True
        claimed: tuple[_Source, list[Delivery]] | None = None
        found: dict[Consumer, bytes] = {}
        try:
            while not found and claimed is None:
                watched = True
                for source in self._in_turn():
                    if race.runs(source.consumer) or time.monotonic() < source.closed_until:
                        continue
                    if not fresh:
                        deliveries = self._ask(source, (), most)
                        if deliveries:
                            claimed = source, deliveries
                            break
                    if time.monotonic() >= source.closed_until:
                        race.start(source.consumer)
                        watched = watched and race.runs(source.consumer)
                else:
                    fresh = False
                    for consumer, item in race.wait(QUIET if watched else 0.0):
                        if item is not None:
                            found[consumer] = item
                    if race.rung:
                        break
        finally:
            found |= race.end()
        return self._choose(claimed, found)

    def _choose(
        self, claimed: tuple[_Source, list[Delivery]] | None, found: dict[Consumer, bytes]
    ) -> list[Delivery]:
        """Turn to one queue, and give back what the others have brought at the same time: it must
        not wait for this one's tasks."""
        for source in list(self._in_turn()):
            item = found.pop(source.consumer, None)
            if item is None:
                continue
            if claimed is None:
                claimed = source, [source.consumer.opened(item)]
            else:
                source.consumer.hand_back([item])
            self._note(source)
        if claimed is None:
            return []
        source, deliveries = claimed
        self._turn_to(source)
        return deliveries
