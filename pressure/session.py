"""What one connection's worth of a handle is at the server: a producer and a consumer.

A session is used by one thread at a time, so at most one operation of it is under way. That makes
both directions recoverable: the producer numbers its puts, and the consumer knows which items of
its taken list it has seen.
"""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Iterable
from typing import Generic, TypeVar

from pressure.protocol import Acks

__all__ = ["ID_BYTES", "Session"]

ID_BYTES = 16
L = TypeVar("L")


class Session(Generic[L]):
    """The state of one producer and consumer. `L` is the link it talks over."""

    __slots__ = (
        "consumer",
        "known",
        "leased",
        "life",
        "link",
        "pending",
        "producer",
        "sequence",
        "stale",
        "stale_ahead",
        "used",
        "waiting",
    )

    def __init__(self, link: L) -> None:
        self.link = link
        self.producer = os.urandom(ID_BYTES)
        self.sequence = 0
        self.pending: deque[tuple[str, bytes]] = deque()
        self.leased: Counter[bytes] = Counter()
        self.used = time.monotonic()
        self.waiting = False
        self.life = 0
        self.reset()

    def reset(self) -> None:
        """Start over as a new consumer: the old id is gone from the server, with all it held."""
        self.life += 1
        self.consumer = os.urandom(ID_BYTES)
        self.known = False
        self.stale = False
        self.stale_ahead = False
        self.pending.clear()
        self.leased.clear()

    def next_number(self) -> int:
        self.sequence += 1
        return self.sequence

    def collect(self) -> Acks:
        """What is to be acknowledged, which `restore` puts back if it is not known to be."""
        pending = self.pending
        if not pending:
            return Acks()
        taken = []
        while pending:
            taken.append(pending.popleft())
        return Acks("".join(kind for kind, _ in taken), [tag for _, tag in taken])

    def restore(self, acks: Acks) -> None:
        self.pending.extendleft(reversed(list(zip(acks.kinds, acks.tags, strict=True))))

    def unseen(self, held: Iterable[tuple[bytes, bytes]], buffered: Iterable[bytes]) -> list[bytes]:
        """The items among `held` (tag, item) that this session has not seen: lost replies."""
        seen = Counter(tag for _, tag in self.pending)
        seen.update(self.leased)
        seen.update(buffered)
        items = []
        for tag, item in held:
            if seen[tag] > 0:
                seen[tag] -= 1
            else:
                items.append(item)
        return items
