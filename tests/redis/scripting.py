"""Calls the scripts of one queue one by one, and looks at what they leave on the server."""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Sequence
from typing import Any

import redis

from pressure import bundles, envelope
from pressure.keys import Keys
from pressure.protocol import Acks, Command, Protocol, Status

GENERATION = b"generation-1"
LEASE_MS = 60_000
ME = "host:1:2"
"""A client's name, as ours have them."""
BLOB_ID = b"b" * 16


class Scripts:
    """One queue, spoken to by its scripts alone.

    After every call it checks what must hold after every script: `:not_full` and `:room` have one
    element if there is room and none if there is not, and no count is below zero.
    """

    def __init__(self, client: redis.Redis, name: str, *, raw: bool = False) -> None:
        # Its replies are of many types; the tests say which they expect.
        self.client: Any = client
        self.raw = raw
        self.keys = Keys("__scripts__", name)
        self.protocol = Protocol(self.keys, raw=raw)
        self._sequence = itertools.count(1)

    def run(self, command: Command, *, check: bool = True) -> Any:
        """Send a command; its reply begins with a `Status`, if it is a list."""
        words = list(command.words)
        script = command.script
        if script is not None:
            words[:2] = ["EVAL", script.text]
        reply: Any = self.client.execute_command(*words)
        if check:
            self.check()
        if isinstance(reply, list) and reply and isinstance(reply[0], int):
            reply[0] = Status(reply[0])
        return reply

    def check(self) -> None:
        client, keys = self.client, self.keys
        bound = client.get(keys.bound)
        if bound is None:
            return
        ahead = self.ahead()
        used = self.length() + ahead + self.behind()
        expected = 1 if int(bound) == 0 or used < int(bound) else 0
        if not client.exists(keys.closed):
            # Of a closed queue all producers hear, whether there is room or not.
            assert client.llen(keys.not_full) == expected, "not_full"
            # More than one when the bound was taken away while producers waited.
            assert min(client.llen(keys.room), 1) == expected, "room"
        assert ahead >= 0
        for value in client.hgetall(keys.prefetched).values():
            assert int(value) >= 0

    # Shorthands

    def create(self, bound: int = 0, generation: bytes = GENERATION) -> Any:
        return self.run(self.protocol.create(bound, generation))

    def value(self, body: bytes, *, flags: int = 0, max_deliveries: int = 0) -> bytes:
        if self.raw:
            return body
        return envelope.pack(
            body,
            flags=flags,
            max_deliveries=max_deliveries,
            message_id=os.urandom(16),
            client_id=b"c" * 16,
        )

    def blob(self, chunks: int) -> bytes:
        """An envelope whose body is a reference to `BLOB_ID`."""
        reference = struct.pack(">IQ", chunks, 10) + BLOB_ID
        return self.value(reference, flags=envelope.BLOB)

    def put(
        self,
        *bodies: bytes,
        producer: bytes = b"producer",
        sequence: int | None = None,
        generation: bytes = GENERATION,
        mode: str = "",
    ) -> Any:
        number = next(self._sequence) if sequence is None else sequence
        values = [body if len(body) > 66 else self.value(body) for body in bodies]
        command = self.protocol.put(generation, producer, number, ME, values, mode=mode)
        return self.run(command)

    def take(
        self,
        consumer: bytes = b"consumer",
        count: int = 1,
        *,
        known: bool = False,
        ahead: bool = False,
        early: bool = False,
        generation: bytes = GENERATION,
        lease_ms: int = LEASE_MS,
        waiter: str = "",
        number: int = 0,
        acks: Acks | None = None,
        in_a_row: bool = False,
    ) -> Any:
        command = self.protocol.take(
            generation,
            consumer,
            ME,
            lease_ms=lease_ms,
            known=known,
            count=count,
            ahead=ahead,
            early=early,
            waiter=waiter,
            number=number,
            acks=acks or Acks(),
            in_a_row=in_a_row,
        )
        return self.run(command)

    def tag(self, item: bytes) -> bytes:
        if self.raw:
            digest: bytes = self.client.eval("return redis.sha1hex(ARGV[1])", 0, item)
            return digest
        return envelope.message_id(item)

    def acks(self, kind: str, items: Sequence[bytes]) -> Acks:
        return Acks(kind * len(items), [self.tag(item) for item in items])

    def bodies(self, items: Sequence[bytes]) -> list[bytes]:
        return list(items) if self.raw else [item[envelope.HEADER_BYTES :] for item in items]

    def queued(self) -> list[bytes]:
        """The bodies in the queue, the one to be taken next first."""
        return self.bodies(self.client.lrange(self.keys.base, 0, -1)[::-1])

    def held(self, consumer: bytes = b"consumer") -> list[bytes]:
        return self.bodies(self.client.lrange(self.keys.taken(consumer), 0, -1)[::-1])

    def length(self) -> int:
        return int(self.client.llen(self.keys.base))

    def ahead(self, consumer: bytes = b"*") -> int:
        return int(self.client.hget(self.keys.prefetched, consumer) or 0)

    def behind(self) -> int:
        """How many items bundles hold besides the one as which each is counted."""
        return int(self.client.hget(self.keys.prefetched, "#") or 0)

    def bundle(self, *bodies: bytes) -> bytes:
        return self.value(bundles.joined(bodies), flags=envelope.BUNDLE)

    def fetched(self, consumer: bytes = b"consumer") -> int:
        return int(self.client.hget(self.keys.fetched, consumer) or 0)

    def unfinished(self) -> int:
        reply = self.run(self.protocol.unfinished(0))
        if reply[0] == Status.AGAIN:
            reply = self.run(self.protocol.unfinished(0, reply[1:]))
        assert reply[0] == Status.OK
        count: int = reply[1]
        return count

    def expire(self, consumer: bytes = b"consumer") -> None:
        """The consumer's lease runs out."""
        self.client.zadd(self.keys.leases, {consumer: 1})
