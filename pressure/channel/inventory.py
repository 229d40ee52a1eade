"""What is on a server: its queues, who works on them, who waits for answers.

The names of queues are found by walking over all keys of the database (`SCAN`, a thousand at a
time, which holds nobody up): with a million keys that takes about a second. Nothing of what is
found is unpickled.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pressure.address import Address
from pressure.channel.registry import WorkerRecord, read_roll
from pressure.channel.replies import Opaque
from pressure.channel.soundness import faults
from pressure.cluster import ClusterFinder
from pressure.commands import Command, Status
from pressure.core import Core
from pressure.driver import give_up
from pressure.envelope import BLOB, SIGNED, Envelope
from pressure.errors import PressureError, QueueClosedError, QueueDoesNotExistError
from pressure.keys import Keys, bound_keys, name_of
from pressure.letters import PAGE, DeadLetter, parse_letter
from pressure.link import Link
from pressure.retry import Broken, is_about_one_queue
from pressure.session import ID_BYTES
from pressure.settings import Settings
from pressure.stats import QueueStats, parse_stats

__all__ = ["Client", "Inventory", "Queue", "QueueName", "age_of", "is_envelope"]

BATCH = 500
SCAN_COUNT = 1000
FIRST_MS = 1_577_836_800_000
"""2020: no item was put before."""
_REPLIES = re.compile(r"(.*):reply:([0-9a-f]{32})", re.DOTALL)


class QueueName(NamedTuple):
    """A queue's name, and whether it stands in braces: so it does for a queue of an executor, and
    for all queues in a Cluster."""

    name: str
    tagged: bool

    def __str__(self) -> str:
        return f"{{{self.name}}}" if self.tagged else self.name


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue at one instant. Ages are in seconds; None: unknown, or nothing is there. `kind` is
    `tasks` for an executor's queue, else `items`; None in a Cluster, where names don't tell. Of one
    that is `broken`, since something else has written to its keys, the stats say nothing."""

    name: QueueName
    kind: str | None
    stats: QueueStats
    oldest_age: float | None
    paused_for: float | None
    workers: tuple[WorkerRecord, ...]
    at: float
    """When it was looked at (monotonic)."""
    broken: bool = False

    @property
    def state(self) -> str:
        if self.broken:
            return "broken"
        if self.paused_for is not None:
            return "paused"
        return "closed" if self.stats.closed else "open"


_UNKNOWN = QueueStats(
    bound=0,
    length=0,
    closed=False,
    produced_messages=0,
    produced_bytes=0,
    consumed_messages=0,
    consumed_bytes=0,
    fetched_ahead=0,
    consumers=0,
    dead_letters=0,
    last_producer="",
    last_consumer="",
    orphans=0,
    oldest_put_at=None,
    paused_at=None,
)


@dataclass(frozen=True, slots=True)
class Client:
    """One that has sent tasks to an executor's queue, and waits for their answers.

    Attributes:
        id: in hexadecimal digits.
        name: `host:pid:thread` of what read its answers last; empty if nothing did yet.
        unread: answers that it has not read.
        expires_in: seconds after which it counts as dead, unless it is heard of.
    """

    id: str
    queue: QueueName
    name: str
    unread: int
    expires_in: float | None


class Inventory:
    """One connection to each server at an address. All methods raise `ServerUnavailableError` and
    `ServerRefusedError`."""

    def __init__(self, address: Address, prefix: str) -> None:
        self.address = address
        self.prefix = prefix
        self._links: dict[str, Link] = {}
        self._where: dict[str, Link] = {}

    def names(self) -> tuple[list[QueueName], list[tuple[QueueName, str]]]:
        """The queues, and the clients (queue and id), sorted."""
        queues: set[QueueName] = set()
        clients: set[tuple[QueueName, str]] = set()
        for link, key in self._scan(bound_keys(self.prefix)):
            tag, name = name_of(self.prefix, key)
            reply = _REPLIES.fullmatch(name) if tag else None
            queue = QueueName(reply[1] if reply else name, bool(tag))
            if reply is not None:
                clients.add((queue, reply[2]))
            else:
                queues.add(queue)
            self._where[str(queue)] = link
        return sorted(queues), sorted(clients)

    def queue(self, name: QueueName) -> Queue | None:
        """How a queue is getting on; None if it is gone, or is none."""
        core = self._core(name)
        link = self._link_of(name)
        stats, broken = _UNKNOWN, False
        workers: tuple[WorkerRecord, ...] = ()
        try:
            reply = self._ask(link, core.protocol.stats())
            if reply[0] != Status.OK:
                return None
            workers = tuple(read_roll(self._ask(link, core.protocol.roll())))
            stats = parse_stats(core, reply)
        except PressureError as exc:
            if not is_about_one_queue(exc):
                raise
            if self._ask(link, Command(("EXISTS", *core.protocol.keys.fixed()))) < 2:
                # Something else is called like the key that makes a queue exist.
                return None
            broken = True
        now_ms = self.now_ms(link)
        kind: str | None = "tasks" if name.tagged else "items"
        if self.address.is_cluster and not workers:
            kind = None
        return Queue(
            name=name,
            kind=kind,
            stats=stats,
            oldest_age=age_of(stats.oldest_put_at, now_ms),
            paused_for=_since(stats.paused_at, now_ms),
            workers=workers,
            at=time.monotonic(),
            broken=broken,
        )

    def faults(self, name: QueueName) -> list[str]:
        """What is wrong with a queue's keys, a sentence for each (`soundness.faults`)."""
        link = self._link_of(name)
        return faults(lambda command: self._ask(link, command), self._core(name).protocol.keys)

    def oldest(self, name: QueueName) -> bytes | None:
        """The oldest item of a queue, else its last dead letter's, as the bytes that they are; None
        if there is neither."""
        reply = self._ask(self._link_of(name), self._core(name).protocol.peek(-1))
        if reply[0] == Status.OK:
            item: bytes = reply[1]
            return item
        return next((letter.payload for letter in self.letters(name)), None)

    def client(self, queue: QueueName, id: str) -> Client | None:
        """What is known of a client; None if it is gone, or nothing can be known."""
        core = self._core(queue, f"{queue.name}:reply:{id}")
        link = self._link_of(queue)
        try:
            reply = self._ask(link, core.protocol.stats())
            if reply[0] != Status.OK:
                return None
            stats = parse_stats(core, reply)
        except PressureError as exc:
            if not is_about_one_queue(exc):
                raise
            return None
        lives = self._ask(link, Command(("PTTL", core.protocol.keys.bound)))
        expires_in = lives / 1000 if lives >= 0 else None
        return Client(id, queue, stats.last_consumer, stats.length, expires_in)

    def letters(self, name: QueueName) -> Iterator[DeadLetter]:
        """The dead letters of a queue, the newest first. Nothing of them is believed."""
        link, first = self._link_of(name), 0
        while True:
            command = self._core(name).protocol.dead_letters(first, first + PAGE - 1)
            page = self._ask(link, command)
            for letter in page:
                parsed = parse_letter(self._core(name), letter)
                if not is_envelope(parsed.payload):
                    parsed = parse_letter(self._core(name, raw=True), letter)
                yield parsed
            if len(page) < PAGE:
                return
            first += PAGE

    def replay(self, name: QueueName, ids: Sequence[str]) -> int:
        """Put dead letters back into the queue, in this order as far as batches go; returns how
        many there were. Raises `QueueClosedError`, `QueueDoesNotExistError`."""
        return self._change(name, ids, "replay")

    def discard(self, name: QueueName, ids: Sequence[str]) -> int:
        """Drop dead letters for good; returns how many there were."""
        return self._change(name, ids, "discard")

    def _change(self, name: QueueName, ids: Sequence[str], operation: str) -> int:
        changed = 0
        for raw, batch in _batches(ids):
            protocol = self._core(name, raw=raw).protocol
            tags = [id.encode() if raw else bytes.fromhex(id) for id in batch]
            reply = self._ask(self._link_of(name), getattr(protocol, operation)(tags))
            if reply[0] == Status.CLOSED:
                raise QueueClosedError(name.name)
            if reply[0] != Status.OK:
                raise QueueDoesNotExistError(name.name)
            changed += reply[1]
        return changed

    def server(self) -> dict[str, str]:
        """What the server says of itself; empty if it doesn't. (Of a Cluster: one node.)"""
        link = self._all()[0]
        reply = self._ask(link, Command(("INFO",)))
        lines = bytes(reply).decode(errors="replace").splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line and line[0] != "#")

    def close(self) -> None:
        for link in self._links.values():
            link.close()

    def _core(self, queue: QueueName, name: str = "", *, raw: bool = False) -> Core[Any]:
        settings = Settings(hash_tag=queue.name if queue.tagged else "")
        return Core(name or queue.name, self.prefix, None if raw else Opaque(), settings)

    def _link_of(self, queue: QueueName) -> Link:
        link = self._where.get(str(queue))
        if link is None:
            tag = queue.name if queue.tagged else ""
            base = Keys(self.prefix, queue.name, hash_tag=tag).base
            link = self._link(self.address.for_queue(base))
            self._where[str(queue)] = link
        return link

    def _link(self, address: Address) -> Link:
        name = repr(sorted(address.settings.items(), key=str)) + repr(address.identity)
        return self._links.setdefault(name, Link(address))

    def _all(self) -> list[Link]:
        """A connection to each server that holds keys."""
        finder = self.address.finder
        if not isinstance(finder, ClusterFinder):
            return [self._link(self.address)]
        self._ask(self._link(self.address), Command(("PING",)))
        kind = self.address.connection_class
        return [
            self._link(Address(kind, self.address.settings_at(node), ""))
            for node in finder.primaries
        ]

    def _scan(self, pattern: bytes) -> Iterator[tuple[Link, bytes]]:
        for link in self._all():
            cursor: Any = b"0"
            while True:
                words = ("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_COUNT)
                cursor, keys = self._ask(link, Command(words))
                for key in keys:
                    yield link, key
                if cursor == b"0":
                    break

    def now_ms(self, link: Link | None = None) -> float:
        """The server's time, in milliseconds since the epoch."""
        seconds, micros = self._ask(link or self._link(self.address), Command(("TIME",)))
        return int(seconds) * 1000 + int(micros) / 1000

    def _ask(self, link: Link, command: Command) -> Any:
        try:
            try:
                return link.execute(command)
            except Broken:
                # All of it only looks, so it may be asked twice.
                return link.execute(command)
        except Broken as broken:
            raise give_up(self.address, command, broken) from broken.cause


def age_of(at: float | None, now_ms: float) -> float | None:
    """Seconds since `at`, by the server's clock (seconds since the epoch). None if that is no time:
    what looks like an envelope may be none."""
    if at is None or not FIRST_MS / 1000 <= at <= now_ms / 1000 + 60:
        return None
    return max(0.0, now_ms / 1000 - at)


def _since(at: float | None, now_ms: float) -> float | None:
    """Seconds since `at`, which the server's clock has shown; None for None."""
    return None if at is None else max(0.0, now_ms / 1000 - at)


def is_envelope(item: bytes) -> bool:
    """Whether the bytes look like an envelope. (A raw item might, too.)"""
    try:
        return Envelope.parse(item).flags <= SIGNED | BLOB
    except ValueError:
        return False


def _batches(ids: Sequence[str]) -> Iterator[tuple[bool, list[str]]]:
    """The ids in groups: raw items have digests for ids, which are longer than those of others."""
    for raw, group in itertools.groupby(ids, key=lambda id: len(id) != 2 * ID_BYTES):
        while batch := list(itertools.islice(group, BATCH)):
            yield raw, batch
