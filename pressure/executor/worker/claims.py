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
from functools import partial
from typing import Protocol

from pressure.channel import Channel, Consumer, Delivery, Verdict
from pressure.channel.racing import Race
from pressure.errors import PressureError, QueueClosedError, QueueDoesNotExistError
from pressure.executor.notes import MOST_CLAIMED, Notes
from pressure.executor.worker.one_queue import QUIET, OneQueue
from pressure.retry import is_about_one_queue

__all__ = ["Claims", "next_count"]

BATCH_SECONDS = 0.045
"""How much work a worker claims at once. Of tasks that take 10 ms it has four in hand, so that it
rarely waits for the next; what waits behind a long one goes back."""
FEW = 16
"""Who claims no more than this gets only a share of what is queued (`lua/exchange.lua`)."""
RECENT = 0.010
"""A queue that was empty so long ago (seconds) is not asked again while another has tasks."""


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


class Tell(Protocol):
    """As `Notes.trouble`."""

    def __call__(self, text: str, queue: int = 0) -> None: ...


class _Source:
    """One of the queues."""

    def __init__(self, number: int, channel: Channel, tell: Tell) -> None:
        self.number = number
        self.consumer = OneQueue(channel, partial(tell, queue=number))
        self.count = 1
        self.empty_at = float("-inf")
        self.closed_until = 0.0
        self.noted = b""


class Claims:
    """The consumers of a worker of several queues, in turn. With `burst` it never waits: nothing is
    claimed if all queues are empty. `tell` hears why a queue is set aside."""

    def __init__(
        self, channels: Sequence[Channel], notes: Notes, tell: Tell, *, burst: bool = False
    ) -> None:
        self.lock = threading.RLock()
        self._sources = [_Source(number, channel, tell) for number, channel in enumerate(channels)]
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
            self._notes.consumer(source.consumer.id, source.number, ready=False)
            source.consumer.open()
            self._note(source)

    @property
    def channel(self) -> Channel:
        return self._current.consumer.channel

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
        failure: PressureError | None = None
        for source in self._sources:
            try:
                source.consumer.close()
            except PressureError as exc:
                if not is_about_one_queue(exc):
                    raise
                failure = exc
        if failure is not None:
            raise failure

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
                self._record(owed, left)
                owed = ()
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

    def _record(self, verdicts: Sequence[Verdict], left: Sequence[bytes] = ()) -> None:
        source = self._current
        # Its clients hear of a queue that is gone by themselves.
        with contextlib.suppress(QueueDoesNotExistError):
            source.consumer.claim(verdicts, left, 0)
        self._look_at(source)

    def _ask(self, source: _Source, verdicts: Sequence[Verdict], most: int) -> list[Delivery]:
        deliveries: list[Delivery] = []
        try:
            count = min(source.count, most)
            deliveries = source.consumer.claim(verdicts, (), count, wait=False)
        except QueueDoesNotExistError:
            source.consumer.ensure()
        except QueueClosedError:
            source.closed_until = time.monotonic() + QUIET
        self._look_at(source)
        if not deliveries:
            source.empty_at = time.monotonic()
        return deliveries

    def _look_at(self, source: _Source) -> None:
        """After something was done with it that may have been answered with an error."""
        self._note(source)
        if source.consumer.trouble:
            source.closed_until = source.consumer.aside_until

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
                    self._set_aside()
                    if race.rung:
                        break
        finally:
            found |= race.end()
        self._set_aside()
        return self._choose(claimed, found)

    def _set_aside(self) -> None:
        """What the server has answered with an error to those that waited."""
        while self._race.failed:
            consumer, exc = self._race.failed.pop()
            source = next(one for one in self._sources if one.consumer is consumer)
            source.consumer.set_aside(exc)
            self._look_at(source)

    def _choose(
        self, claimed: tuple[_Source, list[Delivery]] | None, found: dict[Consumer, bytes]
    ) -> list[Delivery]:
        """Turn to one queue, and give back what the others have brought at the same time: it must
        not wait for this one's tasks."""
        for source in list(self._in_turn()):
            item = found.pop(source.consumer, None)
            if item is None:
                continue
            consumer = source.consumer
            try:
                if claimed is None:
                    claimed = source, [consumer.opened(item)]
                else:
                    consumer.hand_back([item])
            except PressureError as exc:
                # It is known as taken, and not begun.
                consumer.set_aside(exc, left=[consumer.channel.core.tag_of(item)])
            self._look_at(source)
        if claimed is None:
            return []
        source, deliveries = claimed
        self._turn_to(source)
        return deliveries
