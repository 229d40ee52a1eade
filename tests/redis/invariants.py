"""What must hold of a queue's keys after every single command, and what one command may change.

`Snapshot` is all there is on the server; `Ledger` knows what the clients have done, and judges each
step by the snapshots before and after it.
"""

from __future__ import annotations

import hashlib
import pickle
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import redis

from pressure import envelope
from pressure.keys import Keys

SEVERAL = b"\x06"
"""How a body begins that carries several answers."""

__all__ = ["Ledger", "Snapshot", "Step", "snapshot"]

# Scripts that restore `not_full` and `room` whatever they find.
RESTORING = frozenset({"give_back", "reap", "replay", "set_bound", "drain", "adopt", "withdraw"})


@dataclass
class Snapshot:
    """The keys of a queue at one instant. Lists are oldest first; items are what was put."""

    keys: dict[bytes, int]
    exists: bool
    bound: int
    closed: bool
    paused: bool
    base: list[str]
    taken: dict[bytes, list[str]]
    letters: list[str]
    charged: dict[str, int]
    leases: dict[bytes, float]
    departed: dict[bytes, float]
    prefetched: dict[bytes, int]
    reserved: dict[bytes, int]
    fetched: dict[bytes, int]
    produced: int
    consumed: int
    produced_bytes: int
    consumed_bytes: int
    orphans: int
    not_full: int
    room: int
    joined: int
    waiting_joiners: bool
    resumed: int
    chunks: set[bytes]
    uploads: set[bytes]
    referenced: set[bytes]
    tags: dict[str, bytes]

    @property
    def held(self) -> list[str]:
        return [item for items in self.taken.values() for item in items]

    @property
    def items(self) -> list[str]:
        return [*self.base, *self.held, *self.letters]

    @property
    def ahead(self) -> int:
        return self.prefetched.get(b"*", 0)

    @property
    def used(self) -> int:
        return len(self.base) + self.ahead + self.reserved.get(b"+", 0)

    @property
    def unfinished(self) -> int:
        return len(self.base) + len(self.held) + sum(self.fetched.values())


def snapshot(client: redis.Redis, keys: Keys, *, raw: bool) -> Snapshot:
    """Look at everything. `client` has no response callbacks."""
    found: Any = client.keys(keys.base + b"*")
    # Reply queues are queues of their own.
    names: list[bytes] = sorted(n for n in found if not n.startswith(keys.base + b":reply:"))
    pipe = client.pipeline(transaction=False)
    takens = [name for name in names if name.startswith(keys.taken(b""))]
    for name in names:
        pipe.pttl(name)
    for text in (
        keys.bound,
        keys.produced_messages,
        keys.consumed_messages,
        keys.produced_bytes,
        keys.consumed_bytes,
        keys.orphans,
    ):
        pipe.get(text)
    for one in (keys.base, keys.dead_letters, *takens):
        pipe.lrange(one, 0, -1)
    for table in (keys.prefetched, keys.fetched, keys.blobs):
        pipe.hgetall(table)
    for ranking in (keys.leases, keys.departed, keys.uploads):
        pipe.zrange(ranking, 0, -1, withscores=True)
    for signal in (keys.not_full, keys.room, keys.joined, keys.resumed):
        pipe.llen(signal)
    pipe.exists(keys.closed)
    pipe.exists(keys.joiners)
    replies = iter(pipe.execute())
    ttls = {name: next(replies) for name in names}
    bound, *counters = [
        int(next(replies) or -1) if i == 0 else int(next(replies) or 0) for i in range(6)
    ]
    exists = keys.bound in ttls
    lists = {one: next(replies)[::-1] for one in (keys.base, keys.dead_letters, *takens)}
    prefetched, fetched, blobs = (_pairs(next(replies)) for _ in range(3))
    leases, departed, uploads = (_pairs(next(replies)) for _ in range(3))
    not_full, room, joined, resumed, closed, joiners = (next(replies) for _ in range(6))
    charged: dict[str, int] = {}
    referenced: set[bytes] = set()
    tags: dict[str, bytes] = {}

    def item_of(value: bytes) -> str:
        if raw:
            text = value.decode().strip("-")
            tags[text] = hashlib.sha1(value).hexdigest().encode()
            return text
        parsed = envelope.Envelope.parse(value)
        body = bytes(parsed.body)
        if parsed.flags & envelope.BLOB:
            count, blob_id = int.from_bytes(body[:4], "big"), body[12:28]
            chunks = [blob_id + index.to_bytes(4, "big") for index in range(count)]
            referenced.update(chunks)
            body = b"".join(blobs.get(chunk, b"?") for chunk in chunks)
            if body.endswith(b"?"):
                raise AssertionError("an item's chunks are gone")
        item: str = pickle.loads(body[3:] if body[:1] == SEVERAL else body).strip("-")
        charged[item] = parsed.deliveries
        tags[item] = parsed.message_id
        return item

    base = [item_of(value) for value in lists[keys.base]]
    letters = [
        item_of(value[12 + int.from_bytes(value[8:12], "big") :])
        for value in lists[keys.dead_letters]
    ]
    taken = {
        name[len(keys.taken(b"")) :]: [item_of(value) for value in lists[name]] for name in takens
    }
    return Snapshot(
        keys=ttls,
        exists=exists,
        bound=max(bound, 0),
        closed=bool(closed),
        paused=keys.paused in ttls,
        base=base,
        taken=taken,
        letters=letters,
        charged=charged,
        leases={name: float(score) for name, score in leases.items()},
        departed={name: float(score) for name, score in departed.items()},
        prefetched={name: int(count) for name, count in prefetched.items() if name[:1] != b"+"},
        reserved={
            name: int(count.partition(b":")[0])
            for name, count in prefetched.items()
            if name[:1] == b"+"
        },
        fetched={name: int(count) for name, count in fetched.items()},
        produced=counters[0],
        consumed=counters[1],
        produced_bytes=counters[2],
        consumed_bytes=counters[3],
        orphans=counters[4],
        not_full=not_full,
        room=room,
        joined=joined,
        waiting_joiners=bool(joiners),
        resumed=resumed,
        chunks=set(blobs),
        uploads=set(uploads),
        referenced=referenced,
        tags=tags,
    )


def _pairs(reply: Any) -> dict[bytes, bytes]:
    if isinstance(reply, dict):
        return reply
    if reply and isinstance(reply[0], list | tuple):
        return {name: value for name, value in reply}
    return dict(zip(reply[::2], reply[1::2], strict=True))


@dataclass
class Step:
    """One command that was carried out (or lost): whose it was, and in the middle of what."""

    script: str
    doing: str
    values: tuple[str, ...] = ()
    lost: str = ""
    by: object = None
    """The session for which it acknowledges what was got."""


@dataclass
class Ledger:
    """What the clients have done and seen so far."""

    raw: bool
    ttl: bool
    mixed: bool
    appeared: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    released: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    touched: set[str] = field(default_factory=set)
    handed: Counter[str] = field(default_factory=Counter)
    charges: Counter[str] = field(default_factory=Counter)
    got: set[tuple[object, str]] = field(default_factory=set)
    ordered: set[str] = field(default_factory=set)
    unsettled: set[str] = field(default_factory=set)
    uncounted: int = 0
    foreign_busy: bool = False
    foreign_drift: bool = False
    room_popped: bool = False
    moved: bool = False
    told: bool = False

    # What the clients tell

    def hand_out(self, item: str, by: object = None) -> None:
        """A caller has it now, on lease if not `by` a session that will acknowledge it. A second
        time only if a fault was aimed at it."""
        self.handed[item] += 1
        assert item in self.appeared, f"{item} came out of nowhere"
        assert self.handed[item] == 1 or item in self.touched, f"{item} was delivered twice"
        if by is not None:
            self.got.add((by, item))
            self.released.add(item)

    def came_back(self, item: str, *, charge: bool) -> None:
        """A lease was given back: the item is to be delivered again."""
        self.handed[item] -= 1
        self.released.discard(item)
        self.charges[item] += charge

    def put_ended(self, values: tuple[str, ...], accepted: int) -> None:
        for at, value in enumerate(values):
            if at < accepted:
                assert value in self.appeared, f"{value} was accepted and is nowhere"
            else:
                assert value not in self.appeared, f"{value} was refused and is there"
                self.refused.add(value)

    # What each step is judged by

    def judge(self, before: Snapshot, after: Snapshot, step: Step) -> None:
        took = len(set(before.base) - set(after.base))
        # An exchange counts what came by BLMOVE before, as one.
        self.moved = step.script == "exchange" and after.consumed == before.consumed + took + 1
        assert not self.moved or self.unsettled or self.told, f"consumed by {step}"
        # It is counted later if it was given back before, and again after a lost reply.
        lost = step.script == "exchange" and bool(step.lost)
        self.told = self.told or lost or not self.unsettled <= set(after.held)
        self.unsettled &= set(after.held)
        if step.script == "BLMOVE":
            self.unsettled |= set(after.held) - set(before.held)
        elif step.script == "settle" or self.moved:
            self.unsettled -= set(step.values)
        if step.script == "reap":
            for consumer in before.taken.keys() - after.taken.keys():
                self.touched.update(before.taken[consumer])
                self.charges[before.taken[consumer][0]] += 1
        if step.script == "purge" and before.exists:
            # It comes after the name was given to a new queue.
            assert replace(after, keys=before.keys) == before, "an old purge changed a queue"
        self._places(before, after, step)
        self._pause(before, after, step)
        self._order(before, after, step)
        self._room(before, after, step)
        self._consumers(after)
        self._sums(after)
        self._unfinished(before, after, step)
        self._statistics(before, after, step)
        self._charges(after)
        self._lifetimes(after)
        self._blobs(after)

    def _places(self, before: Snapshot, after: Snapshot, step: Step) -> None:
        twice = [item for item, count in Counter(after.items).items() if count > 1]
        assert not twice, f"in two places: {twice}"
        for item in set(after.items) - set(before.items):
            assert step.script in ("put", "answer", "0.15"), f"{item} appeared by {step}"
            assert item in step.values, f"{item} appeared by another's {step}"
            assert item not in self.appeared, f"{item} was put twice"
            assert item not in self.refused, f"{item} was put after it had been refused"
        # In the order in which they will be taken.
        self.appeared += [item for item in after.base if item not in set(before.items)]
        for item in set(before.items) - set(after.items):
            if step.script in ("create", "purge", "drain") or not before.exists:
                self.gone.add(item)
            elif step.script in ("withdraw", "discard", "0.15"):
                assert item in step.values, f"{item} vanished by {step}"
                self.gone.add(item)
            else:
                assert item in self.released, f"{item} vanished by {step}"
                self.gone.add(item)
        if step.doing == "put head":
            self.ordered.difference_update(step.values)

    def _order(self, before: Snapshot, after: Snapshot, step: Step) -> None:
        there = set(after.base)
        stayed = [item for item in before.base if item in there]
        was = set(stayed)
        assert stayed == [item for item in after.base if item in was], f"{step} changed the order"
        moved = [item for item in before.base if item in set(after.held)]
        if moved:
            assert before.base[: len(moved)] == moved, f"{step} took others than the oldest"
        new = set(after.base) - set(before.items)
        if new and step.doing != "put head":
            assert set(after.base[-len(new) :]) == new, f"{step} put in the middle"
            order = [item for item in step.values if item in new]
            assert after.base[-len(new) :] == order, f"{step} changed the order of a put"

    def _pause(self, before: Snapshot, after: Snapshot, step: Step) -> None:
        if before.paused and step.script in ("take", "exchange", "settle"):
            taken = set(before.base) - set(after.base)
            assert not taken, f"{step} took {taken} from a queue that was paused"
        if before.exists and after.exists and before.paused != after.paused:
            assert step.script == ("pause" if after.paused else "resume"), f"{step} paused it"

    def _room(self, before: Snapshot, after: Snapshot, step: Step) -> None:
        if not after.exists:
            return
        if after.bound and step.script == "put" and step.doing == "put":
            added = len(after.base) - len(before.base)
            assert added <= 0 or after.used <= after.bound, f"{step} exceeded the bound"
        if after.closed or self.foreign_busy:
            return
        assert after.not_full <= 1, "not_full has too many elements"
        if self.mixed and step.script not in RESTORING:
            return
        if step.script in ("BLPOP",):
            # Until the one who popped it puts, and passes it on.
            self.room_popped = True
        there_is = after.bound == 0 or after.used < after.bound
        pending = bool(self.unsettled) or self.mixed
        expected = int(there_is)
        if not (pending and expected == 1):
            assert after.not_full == expected, f"not_full after {step}: {after.not_full}"
        if min(after.room, 1) == expected and step.script != "BLPOP":
            self.room_popped = False
        if after.bound and not ((pending or self.room_popped) and expected == 1):
            assert min(after.room, 1) == expected, f"room after {step}: {after.room}"

    def _consumers(self, after: Snapshot) -> None:
        if after.exists:
            for consumer in after.taken:
                known = consumer in after.leases or consumer in after.departed
                assert known, f"nobody looks after the items of {consumer!r}"
        both = after.leases.keys() & after.departed.keys()
        assert not both, f"alive and departed: {both}"

    def _sums(self, after: Snapshot) -> None:
        for table, total in ((after.prefetched, b"*"), (after.reserved, b"+")):
            parts = [count for name, count in table.items() if name != total]
            assert all(count >= 0 for count in parts), table
            assert sum(parts) == table.get(total, 0), table
        for consumer, count in after.prefetched.items():
            if consumer != b"*":
                assert count <= len(after.taken.get(consumer, ())), "more ahead than it holds"
        for name, count in after.fetched.items():
            assert count >= 0 or name == b"*", after.fetched

    def _unfinished(self, before: Snapshot, after: Snapshot, step: Step) -> None:
        total = sum(after.fetched.values())
        assert after.unfinished >= 0, f"unfinished below zero: {after.fetched}"
        if step.script in ("reap", "create", "purge", "describe") or not after.exists:
            return
        vanished = set(before.items) - set(after.items)
        change = total - sum(before.fetched.values())
        if step.script == "task_done":
            assert change in (0, -1)
        elif step.script in ("ack", "take", "leave"):
            got = [item for item in vanished if (step.by, item) in self.got]
            assert change == len(got), f"fetched changed by {change} in {step}"
        else:
            assert change == 0, f"fetched changed by {change} in {step}"

    def _statistics(self, before: Snapshot, after: Snapshot, step: Step) -> None:
        if not after.exists or self.mixed:
            return
        if step.script in ("create", "describe"):
            return
        if step.script == "answer":
            # It is not counted.
            assert (after.produced, after.consumed) == (before.produced, before.consumed)
            return
        added = len(set(after.items) - set(before.items))
        assert after.produced - before.produced == added, f"produced by {step}"
        if step.script in ("drain", "withdraw", "replay", "BLMOVE"):
            assert after.consumed == before.consumed, f"consumed by {step}"
            return
        returned = len(set(after.base) & set(before.held))
        took = len(set(before.base) - set(after.base))
        if step.script == "settle":
            # What goes back at once is not counted.
            took, returned = after.consumed - before.consumed, 0
            assert took in (0, 1)
        if step.script in ("reap", "leave", "adopt"):
            return
        took += self.moved
        assert after.consumed - before.consumed == took - returned, f"consumed by {step}"

    def _charges(self, after: Snapshot) -> None:
        for item, count in after.charged.items():
            assert count <= self.charges[item], f"{item} was charged {count} times"

    def _lifetimes(self, after: Snapshot) -> None:
        for key, ttl in after.keys.items():
            if key.endswith((b":joiners", b":joined", b":resumed")):
                continue
            if not self.ttl and after.exists:
                assert ttl == -1, f"{key!r} would expire"
            elif after.exists and b":taken:" not in key:
                assert ttl != -1, f"{key!r} would stay for ever"

    def _blobs(self, after: Snapshot) -> None:
        assert after.referenced <= after.chunks, "an item's chunks are gone"
        uploading = {upload[:16] for upload in after.uploads}
        for chunk in after.chunks - after.referenced if after.exists else ():
            assert chunk[:16] in uploading, "chunks that belong to nothing"
