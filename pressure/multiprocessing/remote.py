"""The part of a shared queue that is at the server, and this process's way to it.

There is one `Remote` for each queue in a process, however many handles it has. It is opened from a
`Location`, which is all that a pickled handle carries.
"""

from __future__ import annotations

import contextlib
import operator
import os
import pickle
import threading
import time
import weakref
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

from pressure import bundles, flows, items, lifecycle, putting
from pressure.address import Address
from pressure.arguments import checked_bound, usable_bound
from pressure.core import Ahead, Core
from pressure.credentials import resolve_keys
from pressure.errors import (
    PayloadError,
    PressureError,
    QueueAlreadyExistsError,
    QueueClosedError,
    QueueDoesNotExistError,
    QueueEmptyError,
)
from pressure.handle import Handle
from pressure.keys import resolve_prefix, validate_name
from pressure.link import Link
from pressure.multiprocessing import location
from pressure.multiprocessing.caretaker import Caretaker
from pressure.multiprocessing.location import Location
from pressure.multiprocessing.unpacking import Unpacker, owe
from pressure.multiprocessing.waiting import may_wait, wait_for_one
from pressure.opened import Part
from pressure.pace import Pace
from pressure.protocol import Status
from pressure.requests import Block, Flow
from pressure.session import Session
from pressure.settings import Settings

__all__ = ["Remote", "Size"]

TTL = 60.0
"""How long (seconds) an anonymous queue outlives a creator that was killed, on a server given by
URL."""
EMBEDDED_TTL = 3600.0
"""The same on the embedded server, which is gone with the last process anyway: a creator that is
only suspended shall find its queue again."""
BUNDLES_OF = 16
"""Of bundles, so many fewer are fetched at a time than of items."""
ROOM_WAIT = 1.0
LOOK_AGAIN = 0.01
CERTAINTY = 0.15
"""How long (seconds) a look at the size waits for what others hold for a moment."""


class Size(NamedTuple):
    """`length` includes the `ahead` items that consumers have fetched and not handed out;
    `reserved` places are held for producers who are in the middle of putting."""

    length: int
    bound: int
    ahead: int
    reserved: int


class _Pickles:
    """As `multiprocessing`: sockets, connections and what else it knows how to send. And with the
    same protocol, on which depends what becomes of a read-only NumPy array."""

    def dumps(self, obj: Any, /) -> bytes:
        if type(obj) in _PLAIN:
            return pickle.dumps(obj, pickle.HIGHEST_PROTOCOL)
        return bytes(ForkingPickler.dumps(obj))

    def loads(self, data: bytes, /) -> Any:
        return pickle.loads(data)


# What no registered reducer can have a say in, and is the same with any protocol.
_PLAIN = frozenset({bytes, bytearray, str, int, float, bool, type(None)})
_PICKLES = _Pickles()
_lock = threading.Lock()
_open: weakref.WeakValueDictionary[tuple[str, str, str], Remote] = weakref.WeakValueDictionary()


class Remote:
    """A queue at the server. Thread-safe; usable in forked children."""

    def __init__(self, address: Address, where: Location, *, creator: bool = False) -> None:
        self.where = where
        settings = Settings(ttl=where.ttl).placed(where.name, address)
        settings = resolve_keys(settings, None, address)
        self.core: Core[Link] = Core(where.name, where.prefix, _PICKLES, settings)
        self.core.learn(where.generation, where.bound)
        self.core.unbundles = True
        # Who opens a queue by a name may not be prepared for bundles.
        self.core.bundles = where.ttl is not None
        self.handle = Handle(self.core, address)
        self._pace = Pace()
        self._expects_to_wait = False
        self._unpacker = Unpacker(self.core, self.handle)
        # The one that gets items; -1 if there are several.
        self._thread = 0
        self.counts_done = False
        """Whether items are unfinished until task_done() is called, which may be at any time."""
        self.caretaker = Caretaker(self.core, self.handle, owner=creator and where.ttl is not None)
        self._finalizer = weakref.finalize(self, self.caretaker.abandon)
        # The interpreter's exit has hooks of its own.
        self._finalizer.atexit = False

    @classmethod
    def make(cls, maxsize: int, name: str | None, url: str | None) -> Remote:
        """Create a queue, or find the one called `name` if it exists.

        Raises `ValueError` if that has another bound than the `maxsize` asked for.
        """
        url, embedded = location.resolve(url)
        bare = location.without_secrets(url)
        bound = checked_bound(max(0, operator.index(maxsize)))
        ttl = None
        if name is None:
            name = f"mp-{os.urandom(12).hex()}"
            ttl = EMBEDDED_TTL if embedded else TTL
        validate_name(name)
        where = Location(bare, resolve_prefix(None), name, ttl, b"", bound)
        remote = cls(Address.of(url), where, creator=True)
        try:
            remote.handle.call(lifecycle.create(remote.core, bound))
        except QueueAlreadyExistsError:
            remote.handle.call(flows.describe(remote.core))
            if bound and remote.core.bound != bound:
                raise ValueError(
                    f"queue {name!r} exists with maxsize={remote.core.bound}, not {maxsize}"
                ) from None
        remote.where = remote.where._replace(
            generation=remote.core.generation, bound=remote.core.bound
        )
        remote.caretaker.begin()
        with _lock:
            _open[_key(remote.where)] = remote
        return remote

    @classmethod
    def at(cls, where: Location) -> Remote:
        """This process's way to a queue that exists."""
        with _lock:
            remote = _open.get(_key(where))
            if remote is None or remote.where.generation != where.generation:
                remote = cls(location.find(where.url), where)
                remote.caretaker.begin()
                _open[_key(where)] = remote
            return remote

    @property
    def bound(self) -> int:
        return self.core.bound

    def shared(self) -> Location:
        """What to tell another process."""
        self.caretaker.shared = True
        return self.where

    def get(self, until: float | None) -> Any:
        """Take the oldest item by `until` (monotonic; None: wait for ever, 0: don't).

        A fast consumer fetches several at a time; what it doesn't use is given back within 100 ms.
        Raises `QueueEmptyError`.
        """
        core, prefetch, unpacker = self.core, self.handle.prefetch, self._unpacker
        thread = threading.get_ident()
        if thread != self._thread:
            self._thread = -1 if self._thread else thread
        ahead: Ahead[Link] | None = None
        part: Part | None = None
        try:
            while True:
                if core.opened.bundles:
                    part = core.opened.next(time.monotonic())
                    if part is not None:
                        obj = unpacker.unpack(part, lone_thread=self._thread > 0)
                        if obj is not items.SKIPPED:
                            return obj
                        part = None
                        continue
                    if core.opened.is_doubtful:
                        if not unpacker.cut(until):
                            raise QueueEmptyError(core.name)
                        continue
                if len(core.buffer) <= prefetch.at:
                    prefetch.ask(self._next_count(), in_order=self._thread == thread)
                # Looked at first: the keeper may read the reply, and what came is in the buffer.
                under_way = prefetch.under_way
                ahead = core.pop_ahead()
                if ahead is not None:
                    obj = self._hand_out(ahead)
                elif under_way:
                    if prefetch.finish(until):
                        self._pace.fetched()
                    continue
                elif self._expects_to_wait:
                    obj = self._wait(until)
                else:
                    obj = self._fetch(until)
                if obj is not items.SKIPPED:
                    return obj
                ahead = None
        except PressureError:
            raise
        except BaseException:
            # Cut short (by Ctrl-C, say).
            if part is not None:
                core.opened.take_back(part)
            elif ahead is not None and not core.opened.has(ahead.mark):
                core.abandon([ahead])
            self.handle.keep_up()
            raise

    def _next_count(self) -> int:
        count = self._pace.next_count()
        self._unpacker.is_slow = count == 1
        return max(1, count // BUNDLES_OF) if self._unpacker.used else count

    def _hand_out(self, ahead: Ahead[Link]) -> Any:
        session, _, mark, item, _ = ahead
        if bundles.is_bundle(item) and self._unpacker.open(ahead):
            # Its mark stays in `opening`.
            return items.SKIPPED
        self._unpacker.used = False
        try:
            obj = self._open(session, mark[1], item)
            if obj is not items.SKIPPED:
                owe(self.handle, session, mark, lone_thread=self._thread > 0)
        except PayloadError:
            raise
        except BaseException:
            session.stale = True
            raise
        finally:
            session.opening.remove(mark)
        if not self.core.buffer:
            self.handle.keep_up()
        return obj

    def _fetch(self, until: float | None) -> Any:
        """Take items, as many as the caller is quick; the first is returned."""
        core, handle = self.core, self.handle
        session = handle.acquire(taking=True)
        fetched = None
        try:
            flow = items.fetch(core, session, self._next_count(), until, ahead=True)
            fetched = handle.run(flow, session, until)
            if fetched is None:
                raise QueueEmptyError(core.name)
            if fetched.ahead:
                self._pace.fetched()
                handle.prefetch.stored()
            self._expects_to_wait = not fetched.ahead
            if fetched.obj is not items.SKIPPED:
                session.pending.append((fetched.kind, fetched.tag))
            handle.release(session)
            return fetched.obj
        except (QueueEmptyError, QueueClosedError, QueueDoesNotExistError, PayloadError):
            handle.release_cut_short(session)
            raise
        except BaseException:
            # Whatever was taken and did not reach the caller is found by the session's next use.
            session.stale = session.stale or session.known
            if fetched is not None:
                with contextlib.suppress(ValueError):
                    session.pending.remove((fetched.kind, fetched.tag))
            handle.release_cut_short(session)
            raise

    def _wait(self, until: float | None) -> Any:
        """Wait for one item; `SKIPPED` if it is time to try otherwise."""
        core, handle = self.core, self.handle
        session = handle.acquire(taking=True)
        obj, mark = items.SKIPPED, ("g", b"")
        try:
            if may_wait(core, session, until):
                item, left, settled = wait_for_one(handle, session, until, at_once=self.counts_done)
                self._expects_to_wait = item is not None and left == 0
                if item is not None and bundles.is_bundle(item):
                    self._unpacker.is_slow = True
                    if not settled:
                        # What of it is not handed out yet is still in the queue, to others.
                        session.link.post(
                            core.protocol.settle(core.generation, session.consumer, core.client, -1)
                        )
                    core.store_ahead(session, "a", [item])
                elif item is not None:
                    mark = "g", core.tag_of(item)
                    obj = self._open(session, mark[1], item)
                    if obj is not items.SKIPPED:
                        session.pending.append(mark)
            else:
                self._expects_to_wait = False
            handle.release(session)
            return obj
        except PayloadError:
            handle.release_cut_short(session)
            raise
        except BaseException:
            session.stale = True
            with contextlib.suppress(ValueError):
                session.pending.remove(mark)
            handle.release_cut_short(session)
            raise

    def _open(self, session: Session[Link], tag: bytes, item: bytes) -> Any:
        """The object of an item that a session holds, or `SKIPPED`. Raises `PayloadError`."""
        codec = self.core.codec
        assert codec is not None
        try:
            body = codec.open_plain(item)
            if body is not None and len(item) <= self.core.most_bytes:
                return pickle.loads(body)
        except Exception:
            # The long way says what is wrong with it.
            pass
        return self.handle.call_if_needed(items.open_item(self.core, session, tag, item))

    def put(self, body: bytes, until: float | None) -> bool:
        """Put one item; says whether there was room for it by `until`."""
        accepted = self.handle.call_over(
            lambda session: putting.put_bodies(self.core, session, [body], until), until
        )
        return accepted == 1

    def wait_for_room(self, until: float | None) -> None:
        """Wait until there may be room, or a while."""
        self.handle.call(_wait_for_room(self.core, until), until)

    def size(self, enough: int | None = None) -> Size:
        """How long the queue is.

        What other processes hold for a moment is waited for, unless the answer doesn't depend on
        it: `enough` is the length about which the caller wants to know whether it is reached.
        """
        until = time.monotonic() + CERTAINTY
        if self.core.opened.bundles:
            self._unpacker.cut(until)
        if self.handle.prefetch.under_way or any(session.pending for session in self.core.sessions):
            self.handle.flush_idle()
        while True:
            reply: Any = self.handle.ask(self.core.protocol.size())
            if reply[0] == Status.ABSENT:
                raise QueueDoesNotExistError(self.core.name)
            length, bound, _, ahead, reserved, taken_along = reply[1:]
            ours = len(self.core.buffer)
            theirs = max(0, ahead - ours) + taken_along
            if enough is None:
                certain = theirs == 0
            else:
                certain = length + reserved < enough or length - theirs >= enough
            if certain or time.monotonic() >= until:
                usable_bound(bound, self.core.protocol.keys.bound)
                return Size(length, bound, ahead, reserved)
            time.sleep(LOOK_AGAIN)

    def call(self, flow: Flow[Any], until: float | None = None) -> Any:
        return self.handle.call(flow, until)

    def producer_session(self) -> Session[Link]:
        return self.caretaker.left_session() or self.handle.acquire()


def _wait_for_room(core: Core[Any], until: float | None) -> Flow[None]:
    seconds = ROOM_WAIT if until is None else max(0.001, min(ROOM_WAIT, until - time.monotonic()))
    yield Block(core.protocol.wait_for_room(seconds + 0.1), seconds, until)


def _key(where: Location) -> tuple[str, str, str]:
    return where.url, where.prefix, where.name


def _renew_lock_in_child() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock_in_child)
