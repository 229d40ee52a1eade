"""What a handle knows of its queue, whichever way it talks to the server.

The synchronous and the asyncio handle share this: settings, generation, codec, sessions, and the
items that were fetched ahead.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

from pressure import envelope
from pressure.arguments import usable_bound
from pressure.codec import Codec
from pressure.errors import ItemTooLargeError
from pressure.keys import Keys
from pressure.opened import Opened
from pressure.protocol import Protocol
from pressure.serializers import Serializer
from pressure.session import Movable, Session
from pressure.settings import Settings
from pressure.signing import context_of

__all__ = ["NOT_PICKLED", "Ahead", "Core", "readable_client_id", "reason"]

log = logging.getLogger("pressure")

NOT_PICKLED = (
    "cannot pickle a PressureQueue, which may hold a password and keys: pass its name and url, and "
    "make another one there"
)

SPARED = 0.05
"""A consumer that uses them steadily may keep items so much longer (seconds) that it has fetched
ahead."""

L = TypeVar("L", bound=Movable)


class Ahead(NamedTuple, Generic[L]):
    """An item that was taken and not yet handed out, and how it will be acknowledged. `at`: since
    when it may be held here (monotonic)."""

    session: Session[L]
    life: int
    mark: tuple[str, bytes]
    item: bytes
    at: float = 0.0

    @property
    def kind(self) -> str:
        return self.mark[0]

    @property
    def tag(self) -> bytes:
        return self.mark[1]


# Quicker than the class itself, for what is made for each item.
_ahead: Callable[[tuple[Any, ...]], Ahead[Any]] = partial(tuple.__new__, Ahead)


class Core(Generic[L]):
    """The shared state of one handle."""

    def __init__(
        self, name: str, prefix: str, serializer: Serializer | None, settings: Settings
    ) -> None:
        self.name = name
        self.settings = settings
        self.serializer = serializer
        self.raw = serializer is None
        self.protocol = Protocol(Keys(prefix, name, hash_tag=settings.hash_tag), raw=self.raw)
        self.most_bytes = settings.max_item_bytes + envelope.HEADER_BYTES
        self.lease_ms = int(settings.lease * 1000)
        self.ttl_ms = int((settings.ttl or 0) * 1000)
        self.generation = b""
        self.codec: Codec | None = None
        self.bound = 0
        self.bundles = self.unbundles = False
        """Whether many items are put as bundles; and whether who gets items takes bundles apart, or
        has them cut."""
        self.forfeited = 0
        self._forfeited_before = 0
        # Calls that were cancelled, and are being brought to their end (asyncio).
        self.concluding = 0
        # When the server last answered to a claim (monotonic).
        self.looked = 0.0
        self.unblocked = 0
        self._warned: set[str] = set()
        self.forget_processes()

    def forget_processes(self) -> None:
        """Start over in a forked child: everything at the server belongs to the parent."""
        self.client = readable_client_id()
        self.client_id = os.urandom(16)
        self._message_prefix = os.urandom(8)
        self._numbers: Iterator[int] = itertools.count()
        self.sessions: list[Session[L]] = []
        self.buffer: deque[Ahead[L]] = deque()
        self.opened = Opened()
        self.popped = 0.0
        self._moving = threading.Lock()
        self.learn(self.generation, self.bound)

    def learn(self, generation: bytes, bound: int) -> None:
        """Take in what `describe` answered. Signatures are bound to the generation."""
        bound = usable_bound(bound, self.protocol.keys.bound)
        if generation != self.generation:
            self._forfeited_before = self.forfeited
        self.generation = generation
        self.bound = bound
        self.codec = Codec(
            client_id=self.client_id,
            max_deliveries=self.settings.max_deliveries,
            keys=self.settings.signing_keys,
            context=context_of(self.name, generation, self.settings.direction),
        )

    def lost_lease(self, session: Session[L]) -> None:
        """The lease of a session was lost; if it went with an earlier queue, that is no fault."""
        if session.home in (b"", self.generation):
            self.forfeited += 1

    @property
    def may_count_twice(self) -> bool:
        """Whether `task_done` may be called too often: who lost a lease calls it all the same."""
        return self.forfeited > self._forfeited_before

    def outlives(self, session: Session[L]) -> bool:
        """Whether what a session was at the server went with an earlier queue of the name."""
        return not self.generation or session.home not in (b"", self.generation)

    def forget_deleted(self) -> None:
        """The queue was deleted: of what was fetched, only what is of a successor stays."""
        with self._moving:
            for ahead in list(self.buffer):
                if self.outlives(ahead.session):
                    self.buffer.remove(ahead)
        self.opened.forget(self.outlives)

    def warn_once(self, text: str) -> None:
        """Log a warning, unless this handle has done so before."""
        if text not in self._warned:
            self._warned.add(text)
            log.warning("queue %r: %s", self.name, text)

    def message_id(self) -> bytes:
        return self._message_prefix + next(self._numbers).to_bytes(8, "big")

    def check_size(self, body: Sized) -> None:
        if len(body) > self.settings.max_item_bytes:
            raise ItemTooLargeError(self.name, len(body), self.settings.max_item_bytes)

    def check_received(self, item: bytes) -> None:
        """Raise `ValueError` if an item is larger than any that is accepted here."""
        if len(item) > self.most_bytes:
            raise ValueError(
                f"it has {len(item):,} bytes, and max_item_bytes is "
                f"{self.settings.max_item_bytes:,} here"
            )

    def serialize(self, obj: Any) -> bytes:
        """The body of an item. Raises what the serializer raises, `TypeError`, or
        `ItemTooLargeError`."""
        if self.serializer is not None:
            body = self.serializer.dumps(obj)
        elif isinstance(obj, bytes | bytearray | memoryview):
            body = bytes(obj)
        else:
            raise TypeError(
                f"queue {self.name!r} has codec='raw' and carries bytes, not {type(obj).__name__}"
            )
        self.check_size(body)
        return body

    def tag_of(self, item: bytes) -> bytes:
        """What scripts call the item in acknowledgements."""
        return digest(item) if self.raw else envelope.message_id(item)

    def pop_ahead(self) -> Ahead[L] | None:
        """The next item that was fetched ahead and not handed out. Call `moved` once it is
        somewhere else."""
        now = time.monotonic()
        ahead: Ahead[L] | None = None
        try:
            while self.buffer:
                with self._moving:
                    if not self.buffer:
                        break
                    ahead = self.buffer[0]
                    self.buffer.popleft()
                    ahead.session.opening.append(ahead.mark)
                if now - ahead.at > self.settings.lease / 2:
                    # This process stood still; the item may be another's by now. Look again.
                    ahead.session.stale = True
                elif ahead.life == ahead.session.life:
                    self.popped = now
                    return ahead
                self.moved(ahead)
                ahead = None
        except BaseException:
            self.abandon(() if ahead is None else (ahead,))
            raise
        return None

    def pop_many_ahead(self, most: int, popped: list[Ahead[L]]) -> int:
        """Append up to `most` such items of one session to `popped`; returns how many. Call
        `moved_many` once they are elsewhere, or `abandon`, also if this is cut short."""
        before = len(popped)
        first = None
        try:
            first = self.pop_ahead()
            if first is None:
                return 0
            popped.append(first)
        except BaseException:
            self.abandon([first] if first is not None else ())
            raise
        session, life = first.session, first.life
        with self._moving:
            if len(self.buffer) < most and all(
                [one.session is session and one.life == life for one in self.buffer]
            ):
                popped.extend(self.buffer)
                self.buffer.clear()
            while self.buffer and len(popped) - before < most:
                ahead = self.buffer[0]
                if ahead.session is not session or ahead.life != life:
                    break
                popped.append(ahead)
                self.buffer.popleft()
            session.opening.extend([one.mark for one in popped[before + 1 :]])
        return len(popped) - before

    def opens(self, one: Ahead[L]) -> None:
        """An item was taken that is to be handed out along with others: as `pop_ahead`."""
        with self._moving:
            one.session.opening.append(one.mark)

    def moved_many(self, popped: Sequence[Ahead[L]]) -> None:
        opening = popped[0].session.opening
        with self._moving:
            if len(opening) == len(popped):
                opening.clear()
                return
        for ahead in popped:
            self.moved(ahead)

    def moved(self, ahead: Ahead[L]) -> None:
        """What `pop_ahead` returned was handed out, given back, or is to be looked for again."""
        ahead.session.opening.remove(ahead.mark)

    def abandon(self, popped: Iterable[Ahead[L]]) -> None:
        """The call that these were popped or taken for was cut short (by Ctrl-C, say). Whatever was
        done with them, their sessions find them when they are next looked after, and give them
        back; unless they were acknowledged."""
        for ahead in popped:
            ahead.session.stale = True
            for place in (ahead.session.opening, ahead.session.pending, ahead.session.aside):
                with contextlib.suppress(ValueError):
                    place.remove(ahead.mark)

    def on_the_way(self, session: Session[L]) -> list[tuple[str, bytes]]:
        """Kind and tag of the items of a session that were fetched and not yet handed out, or not
        to a caller whom its next command could acknowledge them for."""
        with self._moving:
            waiting = [
                one.mark
                for one in self.buffer
                if one.session is session and one.life == session.life
            ]
            return waiting + session.opening + session.aside

    def store_ahead(
        self, session: Session[L], kind: str, items: Iterable[bytes], at: float | None = None
    ) -> None:
        """Keep items for the calls that follow. `at`: when they were asked for (monotonic; None:
        just now)."""
        life, tag_of = session.life, digest if self.raw else envelope.message_id
        now = time.monotonic()
        since = now if at is None else at
        self.buffer.extend(
            [_ahead((session, life, (kind, tag_of(item)), item, since)) for item in items]
        )
        self.popped = now

    def kept_since(self) -> float:
        """Since when (monotonic) items are kept that were fetched ahead: when one was last handed
        out, but no later than `SPARED` after the oldest came. Infinity if there are none."""
        try:
            oldest = self.buffer[0]
        except IndexError:
            return float("inf")
        return min(self.popped, oldest.at + SPARED)

    @property
    def has_ahead(self) -> bool:
        """Whether items were fetched ahead that are not handed out yet."""
        return bool(self.buffer or self.opened.bundles)

    def unsettled(self, *, but: Session[L]) -> bool:
        """Whether another session may hold something that nobody has seen."""
        if self.concluding:
            return True
        return any(session.stale for session in list(self.sessions) if session is not but)

    def owes(self) -> bool:
        """Whether one of its sessions does."""
        return any(session.owes for session in list(self.sessions))

    def consumers(self) -> list[bytes]:
        """The ids of this handle that the server knows as consumers."""
        return [session.consumer for session in list(self.sessions) if session.known]


def digest(item: bytes) -> bytes:
    """The tag of a raw item, as `redis.sha1hex` makes it."""
    return hashlib.sha1(item).hexdigest().encode()


def readable_client_id() -> str:
    """Host, process and thread: it stands in the role keys to say who used the queue last."""
    return f"{socket.gethostname()}:{os.getpid()}:{threading.get_ident()}"


def reason(kind: str, error: str = "", **more: Any) -> str:
    """Why an item goes to the dead letters, as the JSON text that stands there."""
    return json.dumps({"reason": kind, "error": error, **more})
