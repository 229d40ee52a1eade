"""A queue as the executor uses it: records of bytes, claimed on lease and answered.

A `Channel` is a queue whose items carry a message id of the sender's choice. A `Consumer` claims
items and records what became of them, in one step with claiming the next. Outcomes travel to reply
queues, each named after a client, in the same slot as the queue itself.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from pressure import flows, lifecycle, parcels
from pressure.address import Address
from pressure.codec import Codec
from pressure.content import Buffer, Content
from pressure.core import Core, Settings
from pressure.errors import QueueAlreadyExistsError, QueueDoesNotExistError
from pressure.exchanging import exchange, wait_for_one
from pressure.handle import Handle
from pressure.keys import validate_name
from pressure.link import Link
from pressure.parcels import (
    ID_BYTES,
    Delivery,
    Record,
    open_item,
    pack,
    quickly_opened,
    quickly_packed,
)
from pressure.protocol import Command, Outcome, Status
from pressure.replies import REPLY_TTL, Opaque, reply_core, reply_keys, reply_name
from pressure.requests import Flow, Post
from pressure.session import Session

__all__ = ["Channel", "Consumer", "Delivery", "Record", "Sealed", "Verdict", "pack"]


class Sealed(NamedTuple):
    """An answer that lies beside its reply queue already, and the item that is to be put there."""

    item: bytes


class Verdict(NamedTuple):
    """What became of a delivery: an answer for its client (None: none), and the reason (JSON) why
    it goes to the dead letters (empty: it doesn't)."""

    delivery: Delivery
    answer: bytes | Content | Sealed | None
    dead_letter: str = ""


class Channel:
    """A handle to the queue `name`, in the slot of `tag` (a leading part of the name).

    `client_id` (16 bytes) signs what is sent as this client's. With `owner`, the queue is this
    client's reply queue: its generation is the client id, so that workers can sign for it without
    asking, and it vanishes from the server when its owner is gone for the setting `ttl` (a minute).
    """

    def __init__(
        self,
        name: str,
        address: Address,
        *,
        tag: str,
        prefix: str,
        settings: Settings,
        client_id: bytes | None = None,
        reply: bool = False,
    ) -> None:
        validate_name(name)
        self._reply_ttl = settings.ttl or REPLY_TTL
        settings = replace(settings, hash_tag=tag, ttl=None)
        if reply:
            settings = replace(settings, direction="result", ttl=self._reply_ttl)
        self.prefix, self.tag = prefix, tag
        self.client_id = client_id or os.urandom(ID_BYTES)
        self.core: Core[Link] = Core(name, prefix, Opaque(), settings)
        self.core.client_id = self.client_id
        self.core.learn(b"", 0)
        self.handle = Handle(self.core, address)
        self._reply = reply

    @property
    def name(self) -> str:
        return self.core.name

    def reply_channel(self) -> Channel:
        """This client's reply queue."""
        return Channel(
            reply_name(self.name, self.client_id),
            self.handle.address,
            tag=self.tag,
            prefix=self.prefix,
            settings=replace(self.core.settings, ttl=self._reply_ttl),
            client_id=self.client_id,
            reply=True,
        )

    def ensure(self, bound: int = 0) -> None:
        """Create the queue if it is not there, and learn what must be known of it."""
        generation = self.client_id.hex().encode() if self._reply else None
        try:
            self.handle.call(lifecycle.create(self.core, bound, generation))
        except QueueAlreadyExistsError:
            self.handle.call(flows.describe(self.core))

    def send(
        self, records: Sequence[Record], until: float | None = None, *, at_head: bool = False
    ) -> int:
        """Put records in order; returns how many were accepted by `until` (monotonic). At the head
        of the queue they may exceed its bound. Raises as `PressureQueue.put` does."""
        session = self.handle.acquire()
        try:
            return self.handle.run(self._send(session, records, until, at_head), session, until)
        finally:
            self.handle.release(session)

    def _send(
        self, session: Session[Link], records: Sequence[Record], until: float | None, at_head: bool
    ) -> Flow[int]:
        if not self.core.generation:
            yield from flows.describe(self.core)
        while True:
            codec = self.core.codec
            assert codec is not None
            values = []
            for record in records:
                value = quickly_packed(self.core, codec, record)
                values.append(value or (yield from pack(self.core, codec, record)))
            try:
                mode = "head" if at_head else ""
                return (yield from flows.put(self.core, session, values, until, mode))
            except flows.OtherGeneration:
                yield from flows.describe(self.core)

    def withdraw(self, ids: Sequence[bytes], until: float | None = None) -> list[bool]:
        """Take records out of the queue again; says for each whether it was still there."""
        session = self.handle.acquire()
        try:
            reply = self.handle.run(_withdraw(self.core, session, ids), session, until)
        finally:
            self.handle.release(session)
        return [digit == 0x31 for digit in reply]

    def consumer(self) -> Consumer:
        return Consumer(self)

    def store(self, name: bytes, body: bytes | Content) -> None:
        """Keep a signed body beside the queue under a name of the caller's (of 16 bytes)."""
        if not self.core.generation:
            self.handle.call(flows.describe(self.core))
        self.handle.call(parcels.store(self.core, name, body))

    def fetch(self, client_id: bytes, name: bytes) -> Buffer | None:
        """What a client keeps under a name beside its reply queue; None if it is not there.

        Raises `BadSignature`.
        """
        return self.handle.call(parcels.fetch(reply_core(self.core, client_id), name))

    def unstore(self, name: bytes) -> None:
        """Drop what was stored under a name."""
        self.handle.call(parcels.unstore(self.core, name), time.monotonic() + 5.0)

    def seal(self, client_id: bytes, id: bytes, body: bytes | Content) -> Sealed | None:
        """Store a large answer beside a client's reply queue, and sign it; None if that client is
        gone. The body may change once this has returned. Raises what the server refuses."""
        core = reply_core(self.core, client_id)
        assert core.codec is not None
        try:
            return Sealed(self.handle.call(pack(core, core.codec, Record(id, body))))
        except QueueDoesNotExistError:
            return None

    def reply_exists(self, client_id: bytes) -> bool:
        """Whether a client is there to receive answers."""
        keys = reply_keys(self.core, client_id)
        return bool(self.handle.ask(Command(("EXISTS", keys.bound))))

    def notify(self, client_id: bytes, id: bytes, body: bytes | Content) -> None:
        """Send a client word of a record that is no verdict. Dropped if the client is gone."""
        session = self.handle.acquire()
        try:
            flow = _notify(reply_core(self.core, client_id), session, Record(id, body))
            self.handle.run(flow, session, time.monotonic() + 5.0)
        finally:
            self.handle.release(session)

    def reap(self, consumer: bytes, charge: Sequence[bytes]) -> int:
        """Put back what a consumer held that is certainly dead; `charge` are the ids of what it
        had started. Returns how many items went back."""
        command = self.core.protocol.reap(consumer, force=True, charge_oldest=False, charge=charge)
        reply: Any = self.handle.call(_one(command), time.monotonic() + 2.0)
        return int(reply[1]) if reply[0] == Status.OK else 0

    def renew(self, consumers: Sequence[bytes]) -> None:
        """Renew the leases of these consumers, and reap those that are due."""
        self.handle.call(_renew(self.core, consumers), time.monotonic() + 1.0)

    def size(self) -> int:
        reply: Any = self.handle.ask(self.core.protocol.size())
        if reply[0] == Status.ABSENT:
            raise QueueDoesNotExistError(self.name)
        return int(reply[1])

    def delete(self) -> None:
        self.handle.call(lifecycle.delete(self.core), time.monotonic() + 5.0)
        self.handle.forget_queue()

    def unblock(self) -> None:
        self.handle.unblock()

    def disconnect(self) -> None:
        self.handle.disconnect()


class Consumer:
    """One consumer of a channel. Its operations exclude each other by `lock`, which is held also
    while one of them blocks."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._core = channel.core
        self._session = channel.handle.acquire()
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
    def life(self) -> int:
        """Changes when its leases were lost: what it holds is then somebody else's."""
        return self._session.life

    def exchange(
        self, verdicts: Sequence[Verdict], count: int, until: float | None = None
    ) -> list[Delivery]:
        """Record verdicts and claim up to `count` deliveries, waiting for the first until `until`.

        A verdict on a lost lease is dropped. Returns an empty list at `until`, or after `unblock`.
        """
        with self.lock:
            flow = self._exchange(verdicts, count, until)
            return self._channel.handle.run(flow, self._session, until)

    def _exchange(
        self, verdicts: Sequence[Verdict], count: int, until: float | None
    ) -> Flow[list[Delivery]]:
        if not self._core.generation:
            yield from flows.describe(self._core)
        outcomes = []
        for verdict in verdicts:
            # Generators cost more than what they mostly do here.
            outcome = self._quick_outcome(verdict)
            outcomes.append(outcome or (yield from self._outcome(verdict)))
        items = yield from exchange(self._core, self._session, outcomes, count, until)
        deliveries = []
        for item in items:
            delivery = quickly_opened(self._core, item)
            deliveries.append(delivery or (yield from open_item(self._core, item)))
        return deliveries

    def _quick_outcome(self, verdict: Verdict) -> Outcome | None:
        delivery, answer, dead_letter = verdict
        if answer is None:
            return Outcome(delivery.id, None, b"", dead_letter)
        known = self._codecs.get(delivery.client_id)
        if known is None or type(answer) is not bytes:
            return None
        core, codec = known
        value = quickly_packed(core, codec, Record(delivery.id, answer))
        if value is None:
            return None
        return Outcome(delivery.id, core.protocol.keys, value, dead_letter)

    def _outcome(self, verdict: Verdict) -> Flow[Outcome]:
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
            value = yield from pack(core, codec, Record(delivery.id, answer))
        except QueueDoesNotExistError:
            # Too large to travel inline, and nobody is there to fetch it.
            return Outcome(delivery.id, None, b"", dead_letter)
        return Outcome(delivery.id, core.protocol.keys, value, dead_letter)

    def next(self, until: float | None = None) -> Delivery | None:
        """Wait for one delivery without recording anything: the quickest way when little comes.

        None at `until`, or now and then: `exchange` then says whether the queue is still there.
        """
        with self.lock:
            return self._channel.handle.run(self._next(until), self._session, until)

    def _next(self, until: float | None) -> Flow[Delivery | None]:
        session = self._session
        if not session.known or session.stale:
            return None
        first = not session.moved
        item = yield from wait_for_one(self._core, session, until)
        if item is None:
            return None
        if first and self._core.ttl_ms:
            # The list of what it holds came into being: it must not stay if this process dies.
            taken = self._core.protocol.keys.taken(session.consumer)
            yield Post(self._core.protocol.expire(taken, self._core.ttl_ms))
        return quickly_opened(self._core, item) or (yield from open_item(self._core, item))

    def give_back(self, ids: Sequence[bytes], *, charge: bool = False) -> None:
        """Return what was claimed to the head of the queue."""
        with self.lock:
            session = self._session
            command = self._core.protocol.give_back(session.consumer, ids, charge=charge)
            self._channel.handle.run(_one(command), session, time.monotonic() + 5.0)
            for id in ids:
                session.leased.pop(id, None)

    def holds(self, id: bytes) -> bool:
        """Whether it holds a delivery: the lease was not lost, and it was not given back."""
        with self.lock:
            taken = self._core.protocol.keys.taken(self._session.consumer)
            command = Command(("LRANGE", taken, 0, -1))
            items: Any = self._channel.handle.run(_one(command), self._session)
            return any(self._core.tag_of(item) == id for item in items)

    def close(self) -> None:
        """Give everything back and sign off."""
        self._channel.handle.release(self._session)


def _withdraw(core: Core[Any], session: Session[Any], ids: Sequence[bytes]) -> Flow[bytes]:
    reply = yield core.protocol.withdraw(session.producer, session.next_number(), ids)
    return reply[1] if reply[0] == Status.OK else b"0" * len(ids)


def _notify(core: Core[Any], session: Session[Any], record: Record) -> Flow[None]:
    codec = core.codec
    assert codec is not None
    try:
        value = yield from pack(core, codec, record)
        yield from flows.put(core, session, [value], time.monotonic() + 5.0)
    except (QueueDoesNotExistError, flows.OtherGeneration):
        pass


def _renew(core: Core[Any], consumers: Sequence[bytes]) -> Flow[None]:
    _, due = yield core.protocol.renew(core.lease_ms, consumers)
    for consumer in due:
        yield core.protocol.reap(consumer)


def _one(command: Command) -> Flow[object]:
    reply: object = yield command
    return reply
