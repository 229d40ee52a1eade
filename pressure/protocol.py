"""The operations of `protocol.md`: one method each, one Lua script each.

A method says what to send; it does not send it. The same statement of the protocol thus serves the
synchronous and the asyncio client. Replies begin with a `Status`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pressure.commands import Acks, Beginning, Command, Outcome, Status, Word, outcome_words
from pressure.content import Buffer
from pressure.keys import Keys
from pressure.scripts import SCRIPTS, Script

__all__ = ["PROTOCOL_VERSION", "Acks", "Command", "Outcome", "Protocol", "Status", "Word"]

PROTOCOL_VERSION = "1.0"
MOST_BEGINNINGS, MOST_OWN = 200, 5
MOST_DEPARTED = 100
DEPARTED_KEEP_MS = 3_600_000
"""How long the reaper keeps looking at a dead consumer's list: a late command may still fill it."""

NOTHING = Acks()


class Protocol:
    """The operations on one queue, whose items are raw bytes or envelopes."""

    def __init__(self, keys: Keys, *, raw: bool) -> None:
        self.keys = keys
        self._raw = "1" if raw else ""
        # How a command begins, as far as that is always the same: by operation and keys of its own.
        self._beginnings: dict[tuple[str, tuple[bytes, ...]], Beginning] = {}
        # It never exists. While a slot is moved key by key, a Cluster refuses a script that names a
        # missing key, and breaks off in the middle one that comes upon it only there.
        self._fence = (keys.fence,) if b"{" in keys.base else ()

    def _script(
        self,
        name: str,
        args: Iterable[Word],
        *extra: bytes,
        repeatable: bool = True,
        **named: bytes,
    ) -> Command:
        script = SCRIPTS[name]
        own = (*named.values(), *extra)
        if len(own) > MOST_OWN:
            # These are seldom the same again.
            return Command((*self._beginning(script, extra, named), *args), script, repeatable)
        which = name, own
        beginning = self._beginnings.get(which)
        if beginning is None:
            if len(self._beginnings) >= MOST_BEGINNINGS:
                self._beginnings.clear()
            beginning = Beginning(self._beginning(script, extra, named))
            self._beginnings[which] = beginning
        return Command((*beginning.words, *args), script, repeatable, beginning)

    def _beginning(
        self, script: Script, extra: tuple[bytes, ...], named: dict[str, bytes]
    ) -> tuple[Word, ...]:
        keys = [named.get(key) or getattr(self.keys, key, b"") for key in script.keys]
        keys += [*extra, *self._fence]
        return "EVALSHA", script.sha, len(keys), *keys

    # Life of the queue

    def describe(self, generation: bytes) -> Command:
        return self._script("describe", (generation,))

    def create(
        self,
        bound: int,
        generation: bytes,
        consumers: Sequence[bytes] = (),
        *,
        ttl_ms: int = 0,
    ) -> Command:
        fixed = len(self.keys.fixed())
        return self._everything("create", consumers, bound, generation, fixed, ttl_ms)

    def keep(self, ttl_ms: int, consumers: Sequence[bytes] = ()) -> Command:
        return self._everything("keep", consumers, ttl_ms)

    def close(self, generation: bytes, client: str) -> Command:
        return self._script("close", (generation, client), repeatable=False)

    def pause(self) -> Command:
        return self._script("pause", ())

    def resume(self) -> Command:
        return self._script("resume", ())

    def delete(
        self, generation: bytes, consumers: Sequence[bytes] = (), *, again: bool = False
    ) -> Command:
        command = self._everything("delete", consumers, generation, "1" if again else "")
        return command._replace(repeatable=False)

    def purge(self, consumers: Sequence[bytes] = ()) -> Command:
        return self._everything("purge", consumers)

    def set_bound(self, bound: int) -> Command:
        return self._script("set_bound", (bound,))

    def drain(self) -> Command:
        return self._script("drain", (self._raw,))

    def break_role(self, role: str) -> Command:
        holder, free = (
            (self.keys.producer, self.keys.producer_free)
            if role == "producer"
            else (self.keys.consumer, self.keys.consumer_free)
        )
        return self._script("break_role", (), holder=holder, free=free)

    def _everything(self, name: str, consumers: Sequence[bytes], *args: Word) -> Command:
        fixed = self.keys.fixed()
        taken = [self.keys.taken(consumer) for consumer in consumers]
        script = SCRIPTS[name]
        words = ("EVALSHA", script.sha, len(fixed) + len(taken), *fixed, *taken, *args)
        return Command(words, script)

    # Producing

    def put(
        self,
        generation: bytes,
        producer: bytes,
        sequence: int,
        client: str,
        values: Sequence[bytes],
        *,
        mode: str = "",
        ttl_ms: int = 0,
        hold: int = -1,
        confirmed: int = -1,
    ) -> Command:
        fixed = (generation, producer, sequence, client, mode, self._raw, ttl_ms, hold, confirmed)
        return self._script("put", (*fixed, *values))

    @staticmethod
    def values_of(put: Command) -> Sequence[bytes]:
        """The values that such a command puts."""
        words: Any = put.words
        return list(words[3 + words[2] + 9 :])

    def note_producer(self, client: str) -> Command:
        return Command(("SET", self.keys.producer, client, "KEEPTTL"))

    # Consuming

    def take(
        self,
        generation: bytes,
        consumer: bytes,
        client: str,
        *,
        lease_ms: int,
        known: bool,
        blocked: bool = True,
        count: int,
        ahead: bool = False,
        early: bool = False,
        ttl_ms: int = 0,
        waiter: str = "",
        number: int = 0,
        acks: Acks = NOTHING,
        in_a_row: bool = False,
    ) -> Command:
        tags = (acks.tags[0], acks.tags[-1]) if in_a_row else acks.tags
        return self._script(
            "take",
            (
                generation,
                consumer,
                client,
                lease_ms,
                ("1" if blocked else "2") if known else "",
                count,
                "2" if early else "1" if ahead else "",
                self._raw,
                ttl_ms,
                waiter,
                number,
                acks.kinds,
                *tags,
            ),
            repeatable=False,
            taken=self.keys.taken(consumer),
        )

    def exchange(
        self,
        generation: bytes,
        consumer: bytes,
        client: str,
        outcomes: Sequence[Outcome],
        *,
        lease_ms: int,
        known: bool,
        count: int,
        ttl_ms: int = 0,
        waiter: str = "",
        moved: int = 0,
        held: Sequence[bytes] = (),
    ) -> Command:
        words, reply_keys = outcome_words(outcomes, held)
        args: list[Word] = [generation, consumer, client, lease_ms, "1" if known else "", count]
        args += [ttl_ms, waiter, moved, *words]
        return self._script(
            "exchange", args, *reply_keys, repeatable=False, taken=self.keys.taken(consumer)
        )

    def blocking_take(self, consumer: bytes, seconds: float) -> Command:
        words = ("BLMOVE", self.keys.base, self.keys.taken(consumer), "RIGHT", "LEFT", seconds)
        return Command(words, repeatable=False)

    def settle(self, generation: bytes, consumer: bytes, client: str, size: int | None) -> Command:
        taken = self.keys.taken(consumer)
        words = (generation, consumer, client, "" if size is None else size)
        # A repeat would count the item twice; after a lost reply, adoption finds it.
        return self._script("settle", words, repeatable=size is None, taken=taken)

    def ack(self, consumer: bytes, acks: Acks, number: int = 0) -> Command:
        args: list[Word] = [consumer, number, self._raw, acks.kinds, *acks.tags]
        return self._script("ack", args, taken=self.keys.taken(consumer))

    def give_back(
        self, consumer: bytes, tags: Sequence[bytes], *, charge: bool, ahead: bool = False
    ) -> Command:
        args = (consumer, self._raw, "1" if charge else "", "1" if ahead else "", *tags)
        return self._script("give_back", args, taken=self.keys.taken(consumer))

    def bury(
        self, consumer: bytes, reason: str, tags: Sequence[bytes], *, ahead: bool = False
    ) -> Command:
        args = (consumer, self._raw, "1" if ahead else "", reason, *tags)
        return self._script("bury", args, taken=self.keys.taken(consumer))

    def cut(self, consumer: bytes, tag: bytes, values: Sequence[bytes], *, ahead: bool) -> Command:
        args: list[Word] = [consumer, tag, "1" if ahead else "", *values]
        return self._script("cut", args, taken=self.keys.taken(consumer))

    def leave(
        self, consumer: bytes, producer: bytes, acks: Acks = NOTHING, number: int = 0
    ) -> Command:
        args: list[Word] = [consumer, producer, number, self._raw, acks.kinds, *acks.tags]
        return self._script("leave", args, taken=self.keys.taken(consumer))

    # Leases

    def adopt(self, consumer: bytes, new_consumer: bytes, lease_ms: int) -> Command:
        return self._script(
            "adopt",
            (consumer, new_consumer, lease_ms),
            taken=self.keys.taken(consumer),
            taken_new=self.keys.taken(new_consumer),
        )

    def renew(self, lease_ms: int, consumers: Sequence[bytes]) -> Command:
        return self._script("renew", (lease_ms, *consumers))

    def departed(self) -> Command:
        """The consumers that went last, of those that the reaper still looks at."""
        return Command(("ZRANGE", self.keys.departed, -MOST_DEPARTED, -1))

    def reap(
        self,
        consumer: bytes,
        *,
        force: bool = False,
        charge_oldest: bool = True,
        charge: Sequence[bytes] = (),
    ) -> Command:
        args = (consumer, self._raw, "1" if force else "", DEPARTED_KEEP_MS)
        return self._script(
            "reap",
            (*args, "1" if charge_oldest else "", *charge),
            taken=self.keys.taken(consumer),
        )

    # Counting and looking

    def size(self) -> Command:
        return self._script("size", ())

    def stats(self) -> Command:
        return self._script("stats", ())

    def peek(self, index: int) -> Command:
        return self._script("peek", (index,))

    def task_done(self, producer: bytes, sequence: int, consumers: Sequence[bytes]) -> Command:
        return self._script("task_done", (producer, sequence, *consumers))

    def unfinished(self, wait_ms: int, consumers: Sequence[bytes] = ()) -> Command:
        taken = [self.keys.taken(consumer) for consumer in consumers]
        return self._script("unfinished", (wait_ms, *consumers), *taken)

    def withdraw(self, producer: bytes, sequence: int, tags: Sequence[bytes]) -> Command:
        return self._script("withdraw", (producer, sequence, self._raw, *tags))

    # Who works on the queue

    def register(self, ttl_ms: int, records: Sequence[tuple[bytes, bytes]]) -> Command:
        args: list[Word] = [ttl_ms]
        for worker, record in records:
            args += (worker, record)
        return self._script("register", args)

    def unregister(self, workers: Sequence[bytes]) -> Command:
        return self._script("unregister", workers)

    def roll(self) -> Command:
        return self._script("roll", ())

    # Dead letters

    def dead_letters(self, first: int, last: int) -> Command:
        return Command(("LRANGE", self.keys.dead_letters, first, last))

    def replay(self, tags: Sequence[bytes]) -> Command:
        return self._script("replay", (self._raw, *tags))

    def discard(self, tags: Sequence[bytes]) -> Command:
        return self._script("discard", (self._raw, *tags))

    def delivery_count(self, tag: bytes) -> Command:
        return Command(("HGET", self.keys.deliveries, tag))

    # Waiting

    def wait_for_room(self, seconds: float) -> Command:
        if self._raw:
            # Clients of 0.15 know only of `not_full`, whose element must stay there for them.
            key = self.keys.not_full
            return Command(("BLMOVE", key, key, "RIGHT", "LEFT", seconds))
        return Command(("BLPOP", self.keys.room, seconds))

    def wait_for_resume(self, seconds: float) -> Command:
        key = self.keys.resumed
        return Command(("BLMOVE", key, key, "RIGHT", "LEFT", seconds))

    def wait_for_joined(self, seconds: float) -> Command:
        return Command(("BLPOP", self.keys.joined, seconds))

    def wait_for_role(self, role: str, seconds: float) -> Command:
        free = self.keys.producer_free if role == "producer" else self.keys.consumer_free
        return Command(("BLMOVE", free, free, "RIGHT", "LEFT", seconds))

    # Things stored beside the queue under a name

    def store(self, name: bytes, value: bytes) -> Command:
        return Command(("HSET", self.keys.store, name, value))

    def fetch(self, name: bytes) -> Command:
        return Command(("HGET", self.keys.store, name))

    def expire(self, key: bytes, ttl_ms: int) -> Command:
        return Command(("PEXPIRE", key, ttl_ms))

    def unstore(self, names: Sequence[bytes]) -> Command:
        return Command(("HDEL", self.keys.store, *names))

    # Blobs

    def announce(self, blob_id: bytes, chunks: int, ttl_ms: int = 0) -> Command:
        return self._script("announce", (blob_id, chunks, ttl_ms))

    def blob_write(self, blob_id: bytes, index: int, chunk: Buffer) -> Command:
        field = blob_id + index.to_bytes(4, "big")
        return Command((b"HSET", self.keys.blobs, field, memoryview(chunk)))

    def blob_read(self, blob_id: bytes, index: int) -> Command:
        return Command((b"HGET", self.keys.blobs, blob_id + index.to_bytes(4, "big")))

    def blob_withdraw(self, blob_id: bytes, chunks: int) -> Command:
        fields = (blob_id + index.to_bytes(4, "big") for index in range(chunks))
        return Command(("HDEL", self.keys.blobs, *fields))

    def end_upload(self, blob_id: bytes, chunks: int) -> Command:
        return Command(("ZREM", self.keys.uploads, blob_id + b"%d" % chunks))

    def expire_blobs(self, ttl_ms: int) -> Command:
        return Command(("PEXPIRE", self.keys.blobs, ttl_ms))
