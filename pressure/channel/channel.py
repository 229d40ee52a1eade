"""A queue as the executor uses it: records of bytes, claimed on lease and answered.

A `Channel` is a queue whose items carry a message id of the sender's choice. A `Consumer` claims
items and records what became of them, in one step with claiming the next. Outcomes travel to reply
queues, each named after a client, in the same slot as the queue itself.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pressure import flows, lifecycle, parcels
from pressure.address import Address
from pressure.blobs import INLINE_BYTES
from pressure.channel.consuming import Consumer, Sealed, Verdict
from pressure.channel.replies import (
    REPLY_TTL,
    Opaque,
    kept_core,
    reply_core,
    reply_keys,
    reply_name,
)
from pressure.content import Buffer, Content
from pressure.core import Core
from pressure.envelope import HEADER_BYTES
from pressure.errors import QueueAlreadyExistsError, QueueDoesNotExistError
from pressure.handle import Handle
from pressure.keys import validate_name
from pressure.link import Link
from pressure.parcels import ID_BYTES, Delivery, Record, pack
from pressure.protocol import Command, Status
from pressure.requests import Flow
from pressure.session import Session
from pressure.settings import Settings
from pressure.stats import parse_stats

__all__ = ["Channel", "Consumer", "Delivery", "Record", "Sealed", "Verdict", "pack"]


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
        # A direction of its own: a plain queue may have the same name, and whoever can write to the
        # server may give it the same generation. What was signed there is no task for all that.
        settings = replace(settings, hash_tag=tag, ttl=None, direction="task")
        if reply:
            settings = replace(settings, direction="result", ttl=self._reply_ttl)
        self.prefix, self.tag = prefix, tag
        self.client_id = client_id or os.urandom(ID_BYTES)
        self.core: Core[Link] = Core(name, prefix, Opaque(), settings)
        self.core.client_id = self.client_id
        self.core.learn(b"", 0)
        if reply:
            # Several answers may come in one item; whoever reads them looks at the size of each.
            self.core.most_bytes = max(self.core.most_bytes, INLINE_BYTES + HEADER_BYTES)
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
        # Asked for first: a server whose memory is full creates nothing, and what it has must be
        # drained.
        if not self._describe():
            with contextlib.suppress(QueueAlreadyExistsError):
                self.handle.call(lifecycle.create(self.core, bound, generation))
                return
            self.handle.call(flows.describe(self.core))

    def _describe(self) -> bool:
        """Learn what must be known of the queue. False if there is none."""
        try:
            self.handle.call(flows.describe(self.core))
        except QueueDoesNotExistError:
            return False
        return True

    def withdraw(self, ids: Sequence[bytes], until: float | None = None) -> list[bool]:
        """Take records out of the queue again; says for each whether it was still there."""
        reply = self.handle.call_over(lambda session: _withdraw(self.core, session, ids), until)
        return [digit == 0x31 for digit in reply]

    def consumer(self) -> Consumer:
        return Consumer(self.handle)

    def store(self, name: bytes, body: bytes | Content) -> None:
        """Keep a signed body beside the queue under a name of the caller's (of 16 bytes)."""
        if not self.core.generation:
            self.handle.call(flows.describe(self.core))
        self.handle.call(parcels.store(kept_core(self.core), name, body))

    def fetch(self, client_id: bytes, name: bytes) -> Buffer | None:
        """What a client keeps under a name beside its reply queue; None if it is not there.

        Raises `BadSignature`.
        """
        kept = kept_core(reply_core(self.core, client_id))
        return self.handle.call(parcels.fetch(kept, name))

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
        core, record = reply_core(self.core, client_id), Record(id, body)
        self.handle.call_over(
            lambda session: _notify(core, session, record), time.monotonic() + 5.0
        )

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
        """How many items wait in the queue."""
        reply: Any = self.handle.call(_one(self.core.protocol.size()), time.monotonic() + 1.0)
        if reply[0] == Status.ABSENT:
            raise QueueDoesNotExistError(self.name)
        return int(reply[1])

    @property
    def paused(self) -> bool:
        """Whether it is there, and paused."""
        command = self.core.protocol.stats()
        reply: Any = self.handle.call(_one(command), time.monotonic() + 2.0)
        return reply[0] == Status.OK and parse_stats(self.core, reply).paused_at is not None

    def delete(self) -> None:
        self.handle.call(lifecycle.delete(self.core), time.monotonic() + 5.0)
        self.handle.forget_queue()

    def unblock(self) -> None:
        self.handle.unblock()

    def disconnect(self) -> None:
        self.handle.disconnect()


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
