"""Large arguments that many tasks share: sent once, and kept by each worker.

    share(obj) ──> Shelf ──store──> beside the reply queue ──fetch, once──> Library of each worker

What travels with a task is only the digest. The blob is removed when neither the handle nor a task
that uses it is left, at the latest with the reply queue.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pressure.blobs import CHUNK_BYTES
from pressure.channel import Channel
from pressure.content import Content
from pressure.errors import PressureError
from pressure.executor import pickling
from pressure.executor.payloads import Packed, joined

__all__ = ["Entry", "Private", "Shared", "Shelf", "private_value", "serve", "shared_value"]

T = TypeVar("T")
DIGEST_BYTES = 16
_pickling = threading.local()
log = logging.getLogger("pressure.executor")
_serving: list[Callable[[bytes, bytes, bool], Any]] = []


class Entry:
    """Something on the shelf. It stays while anybody has this object."""

    __slots__ = ("__weakref__", "client_id", "data", "digest")

    def __init__(self, client_id: bytes, digest: bytes, content: Content) -> None:
        self.client_id = client_id
        self.digest = digest
        self.data = content


if TYPE_CHECKING:
    # What has it as a base may stand for whatever is wanted.
    _Anything = Any
else:
    _Anything = object


class Shared(Generic[T], _Anything):  # type: ignore[misc]
    """Stands for an object in the arguments of tasks; the task gets the object itself.

    It may stand anywhere in them, and type checkers take it for whatever is wanted there. All tasks
    that run in one worker process get the same object, so they must not change it; arrays of
    numbers in it are read-only. `release` (or the end of a `with` block) lets the server and this
    process forget it as soon as no submitted task needs it any more.
    """

    __slots__ = ("_entry", "_shelf")

    def __init__(self, shelf: Shelf, entry: Entry) -> None:
        self._shelf = shelf
        self._entry: Entry | None = entry

    @property
    def nbytes(self) -> int:
        """How many bytes were sent."""
        return 0 if self._entry is None else len(self._entry.data)

    def release(self) -> None:
        """Tasks that are submitted from now on can't use it."""
        self._entry = None
        self._shelf.tidy()

    def __enter__(self) -> Shared[T]:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def __reduce__(self) -> tuple[Callable[[bytes, bytes], Any], tuple[bytes, bytes]]:
        entry = self._entry
        if entry is None:
            raise ValueError("the shared object was released")
        return shared_value, _use(entry)

    def __repr__(self) -> str:
        state = "released" if self._entry is None else f"{len(self._entry.data):,} bytes"
        return f"<Shared {state}>"


class Private:
    """Stands for an object in the arguments of tasks, each of which gets a copy of its own."""

    __slots__ = ("_entry",)

    def __init__(self, entry: Entry) -> None:
        self._entry = entry

    def __reduce__(self) -> tuple[Callable[[bytes, bytes], Any], tuple[bytes, bytes]]:
        return private_value, _use(self._entry)


def _use(entry: Entry) -> tuple[bytes, bytes]:
    """The task whose arguments are being pickled needs this."""
    under_way = getattr(_pickling, "under_way", None)
    if under_way is None or entry.client_id != under_way[0]:
        raise ValueError("a shared object can be pickled only for tasks of its own executor")
    under_way[1].append(entry)
    return entry.client_id, entry.digest


class Shelf:
    """What a client keeps beside its reply queue because it is shared.

    All of it is kept here, too: tasks that are sent again after the server lost its data bring it
    along (see `Dispatcher.submit`). `stored` has the digests of what is at the server.
    """

    def __init__(
        self, reply: Channel, stored: set[bytes], *, same_main: bool = False, local: bool = False
    ) -> None:
        self.same_main = same_main
        self.local = local
        self._reply = reply
        self._process = os.getpid()
        self._stored = stored
        self.client_id = reply.client_id
        self.used = False
        """Whether anything was shared yet: only then `pickled` has anything to do."""
        self._lock = threading.Lock()
        self._entries: weakref.WeakValueDictionary[bytes, Entry] = weakref.WeakValueDictionary()
        self._dropped: deque[bytes] = deque()

    def share(self, obj: T) -> Shared[T]:
        """Send an object as it is now. Raises what pickling raises, and what the server refuses."""
        self.tidy()
        entry = self.entry(obj)
        with self._lock:
            if entry.digest not in self._stored:
                self._reply.store(entry.digest, entry.data)
                self._stored.add(entry.digest)
        return Shared(self, entry)

    def entry(self, obj: Any) -> Entry:
        """What is kept of an object as it is now; it is not sent yet. Raises what pickling raises,
        and `ItemTooLargeError`."""
        # Never as for `local` ones: each of them unpickles it.
        packed = pickling.dumps(obj, shared=True, same_main=self.same_main)
        content = _content(packed)
        self._reply.core.check_size(content)
        hashed = hashlib.blake2b(digest_size=DIGEST_BYTES)
        for piece in content.pieces(CHUNK_BYTES):
            hashed.update(piece)
        digest = hashed.digest()
        self.used = True
        with self._lock:
            entry = self._entries.get(digest)
            if entry is None:
                if isinstance(packed, Packed):
                    content = _content(packed.settled())
                entry = self._entries[digest] = Entry(self.client_id, digest, content)
                weakref.finalize(entry, self._dropped.append, digest).atexit = False
            return entry

    def pickled(self, obj: Any) -> tuple[Any, tuple[Entry, ...]]:
        """`pickling.dumps(obj)`, and the shared objects in it, which must stay until it is used."""
        entries: list[Entry] = []
        _pickling.under_way = self.client_id, entries
        try:
            packed = pickling.dumps(obj, same_main=self.same_main, local=self.local)
            return packed, tuple(entries)
        finally:
            _pickling.under_way = None

    def tidy(self) -> None:
        """Remove from the server what nobody needs any more."""
        if self._process != os.getpid():
            # Only the copy of a forked child is not needed.
            return
        while self._dropped:
            with self._lock:
                try:
                    digest = self._dropped.popleft()
                except IndexError:
                    return
                if digest in self._entries:
                    # It was shared again meanwhile.
                    continue
                self._stored.discard(digest)
                try:
                    self._reply.unstore(digest)
                except PressureError as exc:
                    log.debug("what was shared stays as long as the reply queue: %s", exc)
                    return


def _content(packed: bytes | Packed) -> Content:
    content = joined(b"", packed)
    return Content([content]) if isinstance(content, bytes) else content


def serve(find: Callable[[bytes, bytes, bool], Any]) -> None:
    """From now on, this process runs tasks: `find` gets the object of a client and a digest, or
    (if that is true) a copy of it."""
    _serving[:] = [find]


def shared_value(client_id: bytes, digest: bytes) -> Any:
    """What stands in a pickle for a shared object."""
    if not _serving:
        raise LookupError("a shared object can be had only inside a task")
    return _serving[0](client_id, digest, False)


def private_value(client_id: bytes, digest: bytes) -> Any:
    """What stands in a pickle for a copy of one."""
    if not _serving:
        raise LookupError("a shared object can be had only inside a task")
    return _serving[0](client_id, digest, True)
