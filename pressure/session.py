"""What one connection's worth of a handle is at the server: a producer and a consumer.

A session is used by one thread at a time, so at most one operation of it is under way. That makes
both directions recoverable: the producer numbers its puts, and the consumer knows which items of
its taken list it has seen.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter, deque
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from pressure.protocol import Acks

__all__ = ["ID_BYTES", "MARK", "Movable", "Session", "in_doubt"]

ID_BYTES = 16
MARK = slice(0, 96)
"""Two items with the same tag differ here: when they were put, or what they say."""


class Movable(Protocol):
    """What a session needs of its link. `estranged`: it has come to another server since this was
    last set to False."""

    estranged: bool


L = TypeVar("L", bound=Movable)


class Session(Generic[L]):
    """The state of one producer and consumer. `L` is the link it talks over."""

    __slots__ = (
        "_stale",
        "acknowledging",
        "adopted_ahead",
        "alone_at",
        "aside",
        "borrower",
        "collected",
        "confirmed",
        "consumer",
        "heir",
        "hold",
        "home",
        "in_a_row",
        "known",
        "leased",
        "life",
        "link",
        "marks",
        "moved",
        "opening",
        "paused",
        "pending",
        "places",
        "process",
        "producer",
        "row",
        "sequence",
        "stale_ahead",
        "unsure",
        "used",
        "waiting",
    )

    def __init__(self, link: L) -> None:
        self.link = link
        self.producer = os.urandom(ID_BYTES)
        self.sequence = 0
        # The last number that the server confirmed, if this can make good what a server lacks that
        # took over from it; else -1.
        self.confirmed = -1
        # Whether a prefetch may name what it acknowledges by its first and last.
        self.in_a_row = True
        # How many items in a row are to be acknowledged, and the first and the last of them.
        self.row: tuple[int, bytes, bytes] = 0, b"", b""
        # How many places each put should reserve for the next ones (-1: none, ever), and how many
        # are reserved.
        self.hold = -1
        self.places = 0
        # When a put was last told that the queue has just one consumer.
        self.alone_at = -math.inf
        self.pending: deque[tuple[str, bytes]] = deque()
        # What a request acknowledges that is under way, or was when Ctrl-C came.
        self.acknowledging: Acks | None = None
        self.leased: Counter[bytes] = Counter()
        # How those items begin that an exchange brought, by their tags: answers to one task, and
        # notices of it, share a tag.
        self.marks: dict[bytes, tuple[bytes, ...]] = {}
        self.opening: list[tuple[str, bytes]] = []
        # What was handed out while another thread was using the session: it is acknowledged over
        # another connection, for this one may be blocked.
        self.aside: list[tuple[str, bytes]] = []
        self.unsure: tuple[int, Acks] = 0, Acks()
        self.adopted_ahead = 0
        self.process = os.getpid()
        # The thread that is using it, 0: none.
        self.borrower = 0
        self.used = time.monotonic()
        # When nothing was left to acknowledge.
        self.collected = 0.0
        self.waiting = False
        # Whether the queue was paused when an exchange found nothing.
        self.paused = False
        self.life = 0
        self.reset()

    @property
    def stale(self) -> bool:
        """Whether it must find out what it holds before it takes more. A server that took over from
        another may lack the end of what was done there: then acknowledged items are back."""
        return self._stale or (self.known and self.link.estranged)

    @stale.setter
    def stale(self, stale: bool) -> None:
        self._stale = stale
        if not stale:
            self.link.estranged = False

    def reset(self) -> None:
        """Start over as a new consumer: the old id is gone from the server, with all it held."""
        self.life += 1
        self.consumer = os.urandom(ID_BYTES)
        # The id that it was about to take on when that was cut short.
        self.heir = b""
        self.known = False
        # The generation of the queue that it is known to.
        self.home = b""
        self.stale = False
        self.stale_ahead = False
        self.moved = 0
        self.unsure = 0, Acks()
        self.acknowledging = None
        self.pending.clear()
        self.aside.clear()
        self.leased.clear()
        self.marks.clear()

    def register(self, generation: bytes) -> None:
        """The server knows it as a consumer of this queue."""
        self.known = True
        self.home = generation

    def forfeit(self) -> None:
        """The lease seems to be lost. Nothing is handed out until the next use has found out."""
        self.life += 1
        self.leased.clear()
        self.marks.clear()
        self.stale = True

    def next_number(self) -> int:
        self.sequence += 1
        return self.sequence

    def collect(self) -> Acks:
        """What is to be acknowledged with the next request. Set `acknowledging` to None when its
        reply is there, or say `doubt`."""
        if self.acknowledging is not None:
            self._left_behind(self.acknowledging)
        pending = self.pending
        self.collected = time.monotonic()
        if not pending:
            return Acks()
        # What another thread appends meanwhile stays.
        marks = pending.copy()
        kinds, tags = zip(*marks, strict=True)
        # Noted first: wherever Ctrl-C comes, they stand somewhere.
        acks = self.acknowledging = Acks("".join(kinds), tags)
        for _ in marks:
            pending.popleft()
        return acks

    def collect_for_take(self, *, raw: bool) -> tuple[Acks, int]:
        """The same for a `take`, and its number (0: none). Raw items may be alike: that their
        acknowledgement was carried out shows in no list."""
        acks = self.collect()
        return acks, self.next_number() if acks.tags and raw else 0

    def _left_behind(self, acks: Acks) -> None:
        """These were collected by a use that was cut short before it could say what became of them:
        those that are held still are acknowledged again."""
        if self.unsure[1].tags:
            self._again([*zip(acks.kinds, acks.tags, strict=True)])
            self.acknowledging = None
        else:
            self.doubt(0, acks)

    def _again(self, marks: Sequence[tuple[str, bytes]]) -> None:
        """These are to be acknowledged, unless they stand there yet."""
        there = set(self.pending.copy())
        self.pending.extendleft(reversed([mark for mark in marks if mark not in there]))

    def may_shorten(self, acks: Acks) -> bool:
        """Whether it may suffice to name the first and the last of these, which are in the order
        of taking."""
        may, self.in_a_row = self.in_a_row and len(acks.tags) > 2, True
        return may and not self.opening

    def note_row(self, marks: Sequence[tuple[str, bytes]]) -> None:
        """These, which were just added to what is to be acknowledged, are in the order of taking,
        and older than all else that it holds. If others come to them, that is of no use."""
        self.row = len(marks), marks[0][1], marks[-1][1]

    def is_row(self, acks: Acks) -> bool:
        """Whether it suffices to name the first and the last of these: they are those of
        `note_row`, and so the server finds just them in between."""
        row, self.row = self.row, (0, b"", b"")
        return len(acks.tags) > 2 and row == (len(acks.tags), acks.tags[0], acks.tags[-1])

    def scattered(self, acks: Acks) -> None:
        """These are not in a row, and were not acknowledged: each is named the next time."""
        self.in_a_row = False
        self.pending.extendleft(reversed(list(zip(acks.kinds, acks.tags, strict=True))))

    def doubt(self, number: int, acks: Acks) -> None:
        """The reply to these acknowledgements was lost; `resolve` says what became of them."""
        self.unsure = number, acks
        self.acknowledging = None
        self.stale = True

    def resolve(self, last: int, held: Collection[bytes]) -> None:
        """`last` is the number of the last numbered acknowledgements that the server carried out,
        `held` are the tags of what this consumer holds: of those without a number, it tells."""
        if self.acknowledging is not None:
            self._left_behind(self.acknowledging)
        (number, acks), self.unsure = self.unsure, (0, Acks())
        undone = zip(acks.kinds, acks.tags, strict=True)
        if not number:
            self._again([(kind, tag) for kind, tag in undone if tag in held])
        elif number > last:
            self.pending.extendleft(reversed(list(undone)))

    @property
    def lags(self) -> bool:
        """Whether the server still counts something as fetched ahead that was handed out."""
        acks = self.acknowledging
        return any(kind == "a" for kind, _ in self.pending.copy()) or bool(
            acks and "a" in acks.kinds
        )

    @property
    def owes(self) -> bool:
        """Whether something was handed out that is not known to be acknowledged."""
        unsure = self.unsure[1].tags
        return bool(self.acknowledging or self.pending or self.aside or unsure)

    def unlease(self, tag: bytes) -> None:
        """The item is no longer on lease."""
        self.leased[tag] -= 1
        if self.leased[tag] <= 0:
            del self.leased[tag]

    def unseen(
        self, held: Iterable[tuple[bytes, bytes]], ahead: int, buffered: Iterable[tuple[str, bytes]]
    ) -> list[bytes]:
        """The items among `held` (tag, item) that this session has not seen: lost replies.

        Of all held ones the server counts `ahead` as fetched ahead; how many of these are unseen
        (the last ones) is in `adopted_ahead` then.
        """
        known = [*buffered, *self.pending]
        seen = Counter(tag for _, tag in known)
        seen.update(self.leased)
        items = []
        for tag, item in held:
            marks = self.marks.get(tag)
            if seen[tag] > 0 and (marks is None or item[MARK] in marks):
                seen[tag] -= 1
            else:
                items.append(item)
        ahead -= sum(kind == "a" for kind, _ in known)
        self.adopted_ahead = min(max(ahead, 0), len(items))
        return items


def in_doubt(sessions: Sequence[Session[Any]]) -> int:
    """Which of these to take from, as an index: one that is in doubt, for what its lost reply
    brought is older than what another would take; else the last."""
    for at, session in enumerate(sessions):
        if session.stale:
            return at
    return -1
