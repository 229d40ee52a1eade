"""One producer of a channel, who can find out later what the server still has of what it sent.

The server keeps the number of each producer's last put. After a failover to a replica that lagged
behind, or a restart with a log that was not written to the end, that number is lower than it was:
the puts after it are lost, and only those.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pressure import flows
from pressure.channel.channel import Channel, Record
from pressure.channel.outbox import ONCE, Outbox
from pressure.core import Core
from pressure.errors import OperationUnblocked, PressureError, ServerOutOfMemoryError
from pressure.flows import TailLost
from pressure.link import Link
from pressure.protocol import Command, Status
from pressure.requests import Flow
from pressure.retry import Broken
from pressure.session import ID_BYTES

__all__ = ["Forgotten", "Producer", "Standing", "TailLost", "Withdrawer"]

PATIENCE = 1.0
EARLY_BYTES = 16 * 1024
"""So much fits into a socket's buffer, and is sent without a wait."""


class Forgotten(Exception):
    """The queue is another than the one to which this producer sent before, so all that was in it
    is gone; nothing has been sent to the new one."""


class Standing(NamedTuple):
    """What the server knows: the number of the producer's last put (None: it has no such producer,
    0: the queue is another), and how many consumers live."""

    number: int | None
    consumers: int


class Producer:
    """Puts records on a channel, over a connection of its own. One thread sends; any may ask."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._core = channel.core
        self._session = channel.handle.acquire()
        self._session.confirmed = 0
        self._outbox = Outbox(self._core, self._session.link)
        self._generation = b""
        # Of an early put whose fate is unknown: the record's id, and the put's number.
        self._doubt = b"", 0
        # Where was put last what may be delivered only once, and the number of the first put there.
        self._put_to = b"", 0
        # Of the last one that was replied to: the record's id, and the reply.
        self._concluded: tuple[bytes, Any] = b"", None
        self.at_head = False
        """Whether records go to the head of the queue, and may exceed its bound."""

    @property
    def id(self) -> bytes:
        return self._session.producer

    @property
    def number(self) -> int:
        """The number of the last put."""
        return self._session.sequence

    @property
    def doubtful(self) -> bytes:
        """The id of the record of an early put whose fate is unknown; empty if there is none. Only
        if it is the first to be sent now, no second copy of it is made."""
        return self._doubt[0]

    def renew(self) -> None:
        """Start over under a new id, since the queue is another."""
        self._session.producer, self._session.sequence = os.urandom(ID_BYTES), 0
        self._session.confirmed = 0
        self._generation = b""
        self._doubt = self._put_to = b"", 0

    def send(self, records: Sequence[Record]) -> int:
        """Put records in order; returns how many were accepted: as many as fit into one put, and
        have room, but one at least. The caller sends the others again.

        Raises `Forgotten` or `TailLost`, and what `PressureQueue.put` raises, where `accepted` says
        how many were before; `OperationUnblocked` if `Channel.unblock` was called while there was
        no room.
        """
        session = self._session
        if records and self._doubt == (records[0].id, session.sequence):
            # Under the same number no second copy is made. If it is not wanted any more, then a new
            # number keeps it out, should it still be on its way.
            session.sequence -= 1
        self._doubt = b"", 0
        return self._channel.handle.run(self._send(records), session)

    def _send(self, records: Sequence[Record]) -> Flow[int]:
        core = self._core
        if not core.generation:
            yield from flows.describe(core)
        while True:
            self._generation = self._generation or core.generation
            if self._generation != core.generation:
                raise Forgotten
            try:
                return (yield from self._put(records))
            except flows.OtherGeneration:
                yield from flows.describe(core)

    def _put(self, records: Sequence[Record]) -> Flow[int]:
        outbox, link, server = self._outbox, self._session.link, b""
        link.notice_end()
        once = any([record.max_deliveries == ONCE for record in records])
        if once:
            if not link.client_id:
                # It has yet to hear which server this is.
                yield from flows.describe(self._core)
            server = self._noted_server()
        try:
            values = yield from outbox.fill(records, server)
            while once and link.server != server:
                # The server was another before all was uploaded.
                yield from outbox.empty()
                server = self._noted_server()
                values = yield from outbox.fill(records, server)
            mode = "head" if self.at_head else ""
            accepted = yield from flows.put(self._core, self._session, values, None, mode)
        except (OperationUnblocked, TailLost, flows.OtherGeneration):
            # Nothing was put.
            raise
        except ServerOutOfMemoryError:
            yield from outbox.empty()
            raise
        except BaseException:
            outbox.forget()
            raise
        outbox.accepted(records[:accepted])
        return accepted

    def _noted_server(self) -> bytes:
        """Where the next put goes, which may be delivered only once."""
        server = self._session.link.server
        if server != self._put_to[0]:
            self._put_to = server, self._session.sequence + 1
        return server

    def was_put_to(self, server: bytes, number: int) -> bool:
        """Whether a put of what may be delivered only once went to this run of a server, or that
        isn't known."""
        last, first = self._put_to
        return not (server and last) or (server == last and number >= first)

    def begin(self, record: Record) -> bool:
        """Send one small record without waiting for the reply, which `conclude` reads before
        anything else is sent. False if it has to be sent the usual way."""
        core, session = self._core, self._session
        codec = core.codec
        body = record.body
        if type(body) is not bytes or len(body) > EARLY_BYTES or codec is None:
            return False
        if not self._generation or self._generation != core.generation:
            return False
        if not session.link.client_id or core.settings.min_replicas:
            return False
        cap = record.max_deliveries
        server = self._noted_server() if cap == ONCE else b""
        value = codec.pack(record.id, body, max_deliveries=cap, server=server)
        command = core.protocol.put(
            core.generation,
            session.producer,
            session.next_number(),
            core.client,
            [value],
            mode="head" if self.at_head else "",
            ttl_ms=core.ttl_ms,
            hold=session.hold,
            confirmed=session.confirmed,
        )
        self._doubt = record.id, session.sequence
        try:
            session.link.send(command)
        except (PressureError, Broken):
            return False
        return True

    def conclude(self, id: bytes, until: float, *, insist: bool) -> int | None:
        """Whether the record that `begin` sent was accepted (1 or 0), or was to send when it was
        interrupted. If that is not known by `until`: None or, if the caller insists, 0, and the
        connection is given up. May be called again after an interruption."""
        link = self._session.link
        if self._concluded[0] != id:
            if self._doubt[0] != id or not link.expects:
                return 0
            try:
                self._concluded = id, link.receive(until)
            except TimeoutError:
                if not insist:
                    return None
                link.close()
                return 0
            except (PressureError, Broken):
                return 0
        reply = self._concluded[1]
        self._doubt = b"", 0
        if reply[0] != Status.OK:
            return 0
        self._session.places = reply[2]
        self._session.confirmed = self._session.sequence
        return int(reply[1])

    def concede(self, number: int = 0) -> None:
        """The server need not know of any later put than this one: what it lacks is being sent
        again, or it has forgotten a producer that was idle for long."""
        self._session.confirmed = number

    def standing(self) -> Standing:
        """Ask the server. Raises `PressureError`."""
        flow = _standing(self._core, self.id, self._generation)
        return self._channel.handle.call(flow, time.monotonic() + PATIENCE)

    def close(self) -> None:
        handle, until = self._channel.handle, time.monotonic() + PATIENCE
        with contextlib.suppress(PressureError):
            # What was refused, and then not sent any more.
            handle.run(self._outbox.empty(), self._session, until)
        handle.release(self._session)


class Withdrawer:
    """Takes records out of a channel's queue again. Thread-safe.

    Nothing stays uncertain: what an operation did whose reply was lost, or that was cut short by
    Ctrl-C before that was noted, is found out by the next one, or by `settle`.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._session = channel.handle.acquire()
        self._lock = threading.Lock()
        self._doubtful: Sequence[bytes] = ()

    @property
    def server(self) -> bytes:
        """Where it has looked last (`Link.server`)."""
        return self._session.link.server

    def withdraw(
        self, ids: Sequence[bytes], until: float, note: Callable[[list[bytes]], object]
    ) -> None:
        """Has the ids noted of what was still in the queue, and of what an earlier call had taken
        out without that being noted. Raises `PressureError`: then `settle` tells later."""
        ids = tuple(ids)
        with self._lock:
            self._settle(until, note)
            self._session.next_number()
            # Not before, or else the answer to an earlier number would be taken for that to this.
            self._doubtful = ids
            self._settle(until, note)

    def settle(self, until: float, note: Callable[[list[bytes]], object]) -> None:
        """Has the ids noted of what a call has taken out that failed."""
        if self._doubtful:
            with self._lock:
                self._settle(until, note)

    def _settle(self, until: float, note: Callable[[list[bytes]], object]) -> None:
        ids = self._doubtful
        if not ids:
            return
        flow = _withdraw(self._channel.core, self._session.producer, self._session.sequence, ids)
        digits = self._channel.handle.run(flow, self._session, until)
        note([id for id, digit in zip(ids, digits, strict=False) if digit == 0x31])
        self._doubtful = ()

    def close(self) -> None:
        self._channel.handle.release(self._session)


def _standing(core: Core[Link], producer: bytes, generation: bytes) -> Flow[Standing]:
    keys = core.protocol.keys
    current = yield Command(("GET", keys.generation))
    record = yield Command(("HGET", keys.producers, producer))
    seconds, microseconds = yield Command(("TIME",))
    now_ms = int(seconds) * 1000 + int(microseconds) // 1000
    consumers = yield Command(("ZCOUNT", keys.leases, now_ms, "+inf"))
    number = None if record is None else int(record.partition(b":")[0])
    if generation and current != generation:
        number = 0
    return Standing(number, consumers)


def _withdraw(core: Core[Link], producer: bytes, number: int, ids: Sequence[bytes]) -> Flow[bytes]:
    reply = yield core.protocol.withdraw(producer, number, ids)
    return reply[1] if reply[0] == Status.OK else b"0" * len(ids)
