"""One who claims what lies in a queue, and records what became of it.

Outcomes travel to reply queues, each named after a client, in the same slot as the queue itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from pressure import flows
from pressure.blobs import CROWDED_BYTES, INLINE_BYTES, inline_bytes
from pressure.channel.replies import reply_core
from pressure.codec import Codec
from pressure.content import Content
from pressure.core import Core
from pressure.errors import QueueDoesNotExistError, ServerOutOfMemoryError
from pressure.exchanging import Joined, await_one, exchange, let_go, wait_for_one
from pressure.handle import Handle
from pressure.keys import Keys
from pressure.link import Link
from pressure.parcels import (
    Delivery,
    Record,
    open_item,
    pack,
    quickly_opened,
    quickly_opened_all,
)
from pressure.protocol import Command, Outcome
from pressure.requests import Flow

__all__ = ["Consumer", "Sealed", "Verdict"]


class Sealed(NamedTuple):
    """An answer that lies beside its reply queue already, and the item that is to be put there."""

    item: bytes


class Verdict(NamedTuple):
    """What became of a delivery: an answer for its client (None: none), and the reason (JSON) why
    it goes to the dead letters (empty: it doesn't)."""

    delivery: Delivery
    answer: bytes | Content | Sealed | None
    dead_letter: str = ""


Join = Callable[[Sequence[tuple[bytes, bytes]]], bytes]
"""Makes one answer of several, each with the id of the delivery that it is for."""
JOINED_BYTES = INLINE_BYTES // 2
"""Of answers that are joined there are no more bytes than this in an item."""

# Quicker than the class itself, for what is made for each task.
_outcome: Callable[[tuple[bytes, Keys | None, bytes, str]], Outcome] = partial(
    tuple.__new__, Outcome
)


class Consumer:
    """One consumer of a channel. Its operations exclude each other by `lock`, which is held also
    while one of them blocks.

    With `join`, verdicts on all that it holds travel in one item for each client, which it writes
    and its client reads: what an item costs is shared by them.
    """

    def __init__(self, handle: Handle, join: Join | None = None) -> None:
        self.handle = handle
        self._join = join
        self._core = handle.core
        self._session = handle.acquire()
        self.lock = threading.RLock()
        self._codecs: dict[bytes, tuple[Core[Link], Codec]] = {}

    @property
    def id(self) -> bytes:
        """Its name at the server. It changes when the connection is lost."""
        return self._session.consumer

    @property
    def known(self) -> bool:
        """Whether the server knows it as a consumer: only then can `next` wait."""
        return self._session.known

    @property
    def unsettled(self) -> bool:
        """Whether an item came that only the next `exchange` accounts for."""
        return self._session.moved > 0

    @property
    def looked(self) -> float:
        """When the server last answered to a claim (monotonic)."""
        return self._core.looked

    @property
    def server(self) -> bytes:
        """Where it has claimed last (`Link.server`)."""
        return self._session.link.server

    @property
    def life(self) -> int:
        """Changes when its leases were lost: what it holds is then somebody else's."""
        return self._session.life

    def exchange(
        self,
        verdicts: Sequence[Verdict],
        count: int,
        until: float | None = None,
        *,
        done: Sequence[bytes] = (),
        wait: bool = True,
    ) -> list[Delivery]:
        """Record verdicts and claim up to `count` deliveries, waiting for the first until `until`.
        `done` are the ids of deliveries that are to be acknowledged, and no more. Without `wait` it
        only registers as one who waits (`pressure.channel.racing`).

        A verdict on a lost lease is dropped. Returns an empty list at `until`, or after `unblock`.
        """
        with self.lock:
            flow = self._exchange(verdicts, count, until, done, wait)
            return self.handle.run(flow, self._session, until)

    def _exchange(
        self,
        verdicts: Sequence[Verdict],
        count: int,
        until: float | None,
        done: Sequence[bytes],
        wait: bool,
    ) -> Flow[list[Delivery]]:
        if not self._core.generation:
            yield from flows.describe(self._core)
        # What was recorded by an exchange that failed only afterwards is held no more. Said again,
        # it would be about a later item of that id.
        leased = self._session.leased
        all_done = bool(done) and not verdicts and leased == dict.fromkeys(done, 1)
        left = () if all_done else done
        outcomes = [_outcome((id, None, b"", "")) for id in left if id in leased]
        inline = inline_bytes(len(verdicts))
        joined = self._joined(verdicts) if len(verdicts) > 1 and not outcomes else None
        for verdict in () if joined is not None else verdicts:
            # Generators cost more than what they mostly do here.
            outcome = self._quick_outcome(verdict, inline)
            outcomes.append(outcome or (yield from self._outcome(verdict, inline)))
        items = yield from exchange(
            self._core,
            self._session,
            outcomes,
            count,
            until,
            wait=wait,
            all_done=all_done,
            joined=joined,
        )
        return (yield from self._opened(items))

    def _opened(self, items: Sequence[bytes]) -> Flow[list[Delivery]]:
        deliveries = []
        try:
            for item, opened in zip(items, quickly_opened_all(self._core, items), strict=True):
                # Generators cost more than what they mostly do here.
                deliveries.append(opened or (yield from open_item(self._core, item)))
        except BaseException:
            let_go(self._session, items)
            raise
        return deliveries

    def _joined(self, verdicts: Sequence[Verdict]) -> Joined | None:
        """These with few values, if they are all short answers to clients that are known."""
        join = self._join
        if join is None:
            return None
        tags = []
        batches: list[tuple[bytes, list[tuple[bytes, bytes]]]] = []
        last, size = b"", 0
        for (id, client_id, *_), answer, dead_letter in verdicts:
            if dead_letter or type(answer) is not bytes or len(answer) > CROWDED_BYTES:
                return None
            size += len(answer)
            if client_id != last or size > JOINED_BYTES:
                if client_id not in self._codecs:
                    return None
                last, size = client_id, len(answer)
                batches.append((client_id, []))
            batches[-1][1].append((id, answer))
            tags.append(id)
        values = []
        for client_id, answers in batches:
            core, codec = self._codecs[client_id]
            first, body = answers[0]
            if len(answers) > 1:
                body = join(answers)
            value = codec.pack_record(first, body, 0)
            values.append(_outcome((b"", core.protocol.keys, value, "")))
        return Joined(tags, values, lambda: [self._short_outcome(one) for one in verdicts])

    def _short_outcome(self, verdict: Verdict) -> Outcome:
        """Of a short answer to a client that was known a moment ago."""
        delivery, answer, dead_letter = verdict
        assert type(answer) is bytes
        core = self._codecs.get(delivery.client_id, (None, None))[0]
        core = core or reply_core(self._core, delivery.client_id)
        assert core.codec is not None
        value = core.codec.pack_record(delivery.id, answer, 0)
        return Outcome(delivery.id, core.protocol.keys, value, dead_letter)

    def _quick_outcome(self, verdict: Verdict, inline: int) -> Outcome | None:
        delivery, answer, dead_letter = verdict
        if answer is None:
            return Outcome(delivery.id, None, b"", dead_letter)
        known = self._codecs.get(delivery.client_id)
        if known is None or type(answer) is not bytes:
            return None
        core, codec = known
        if len(answer) > inline:
            return None
        value = codec.pack_record(delivery.id, answer, 0)
        return _outcome((delivery.id, core.protocol.keys, value, dead_letter))

    def _outcome(self, verdict: Verdict, inline: int) -> Flow[Outcome]:
        delivery, answer, dead_letter = verdict
        if answer is None:
            return Outcome(delivery.id, None, b"", dead_letter)
        known = self._codecs.get(delivery.client_id)
        if known is None:
            if len(self._codecs) > 1000:
                self._codecs.clear()
            core = reply_core(self._core, delivery.client_id)
            assert core.codec is not None
            known = self._codecs[delivery.client_id] = core, core.codec
        core, codec = known
        if isinstance(answer, Sealed):
            return Outcome(delivery.id, core.protocol.keys, answer.item, dead_letter)
        try:
            value = yield from pack(core, codec, Record(delivery.id, answer), inline=inline)
        except QueueDoesNotExistError:
            # Too large to travel inline, and nobody is there to fetch it.
            return Outcome(delivery.id, None, b"", dead_letter)
        except ServerOutOfMemoryError:
            if len(answer) > INLINE_BYTES:
                raise
            # The step that frees what the task takes up may still be made.
            value = codec.pack_record(delivery.id, bytes(answer), 0)
        return Outcome(delivery.id, core.protocol.keys, value, dead_letter)

    def next(self, until: float | None = None) -> Delivery | None:
        """Wait for one delivery without recording anything: the quickest way when little comes.

        None at `until`, or now and then: `exchange` then says whether the queue is still there.
        """
        with self.lock:
            return self.handle.run(self._next(until), self._session, until)

    def _next(self, until: float | None) -> Flow[Delivery | None]:
        session = self._session
        if not session.known or session.stale:
            return None
        item = yield from wait_for_one(self._core, session, until)
        if item is None:
            return None
        # Generators cost more than what they mostly do here.
        delivery = quickly_opened(self._core, item)
        return delivery or (yield from self._opened([item]))[0]

    @property
    def link(self) -> Link:
        return self._session.link

    def waiting(self) -> Flow[bytes | None] | None:
        """After an `exchange` without `wait`: a flow of one request that blocks for one item, or
        until a pause is over. None if it must ask again first."""
        if not self._session.known or self._session.stale:
            return None
        return await_one(self._core, self._session)

    def opened(self, item: bytes) -> Delivery:
        """What `waiting` has brought, as a delivery."""
        delivery = quickly_opened(self._core, item)
        return delivery or self.handle.run(self._opened([item]), self._session)[0]

    def hand_back(self, items: Sequence[bytes]) -> None:
        """Return what `waiting` has brought, as if it had not come."""
        if items:
            # First it is counted as taken, since it is counted as given back then.
            found = self.exchange((), 0)
            ids = [self._core.tag_of(item) for item in items]
            self.give_back([*ids, *(delivery.id for delivery in found)])

    def give_back(self, ids: Sequence[bytes], *, charge: bool = False) -> None:
        """Return what was claimed to the head of the queue."""
        with self.lock:
            session = self._session
            command = self._core.protocol.give_back(session.consumer, ids, charge=charge)
            self.handle.run(_one(command), session, time.monotonic() + 5.0)
            for id in ids:
                session.leased.pop(id, None)
                session.marks.pop(id, None)

    def holds(self, id: bytes) -> bool:
        """Whether it holds a delivery: the lease was not lost, and it was not given back."""
        with self.lock:
            taken = self._core.protocol.keys.taken(self._session.consumer)
            command = Command(("LRANGE", taken, 0, -1))
            items: Any = self.handle.run(_one(command), self._session)
            return any(self._core.tag_of(item) == id for item in items)

    def close(self) -> None:
        """Give everything back and sign off."""
        self.handle.release(self._session)


def _one(command: Command) -> Flow[object]:
    reply: object = yield command
    return reply
