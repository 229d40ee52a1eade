"""Items from the server to a caller's thread: at once, ahead of need, or on lease."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from pressure import items, reading
from pressure.collecting import collecting
from pressure.core import Ahead
from pressure.errors import (
    PayloadError,
    PressureError,
    QueueClosedError,
    QueueDoesNotExistError,
    QueueEmptyError,
)
from pressure.handle import Handle
from pressure.items import Fetched
from pressure.lease import Lease
from pressure.link import Link
from pressure.pace import Pace
from pressure.session import Session

__all__ = ["Taker"]

_NOTHING_TAKEN = (QueueEmptyError, QueueClosedError, QueueDoesNotExistError, PayloadError)


class Taker:
    """Takes items for the callers of one handle. Thread-safe.

    Deadlines are `time.monotonic` values; None waits for ever, 0 not at all. All methods raise
    `QueueEmptyError` at their deadline, `QueueClosedError` once the queue is closed and drained,
    `QueueDoesNotExistError`, and `PayloadError` for an item that can't be read.
    """

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._pace = Pace()

    def get(self, until: float | None, count: int = 1, *, ahead: bool = False) -> Any:
        """The oldest item. With `ahead`, more are fetched while the caller is quick; otherwise up
        to `count` are taken, which the next calls return."""
        while True:
            if ahead:
                count = self._pace.next_count()
            waiting = None
            try:
                waiting = self._handle.core.pop_ahead()
                obj = self._fetch(until, count, ahead) if waiting is None else self._open(waiting)
            except PressureError:
                raise
            except BaseException:
                if waiting is not None:
                    self._handle.core.abandon([waiting])
                    self._handle.keep_up()
                raise
            if obj is not items.SKIPPED:
                return obj

    def each(self) -> Iterator[Any]:
        """The items until the queue is closed and drained, fetched ahead. What was not used goes
        back when the loop is left."""
        while True:
            try:
                obj = self.get(None, ahead=True)
            except QueueClosedError:
                return
            try:
                yield obj
            except GeneratorExit:
                if collecting():
                    self._handle.keep_up()
                else:
                    self._handle.give_back_unused()
                raise

    def get_many(self, until: float | None, count: int) -> list[Any]:
        """The oldest item, and what else is there, up to `count`. They are acknowledged together at
        the end: an end by force before that loses none."""
        core = self._handle.core
        popped: list[Ahead[Link]] = []
        read: list[tuple[Ahead[Link], Any]] = []

        def hold(session: Session[Link], fetched: Fetched) -> Any:
            one = Ahead(session, session.life, (fetched.kind, fetched.tag), b"")
            popped.append(one)
            core.opens(one)
            read.append((one, fetched.obj))
            return fetched.obj

        try:
            while not read:
                if core.pop_many_ahead(1, popped):
                    read += self._read_all(popped[-1:], strict=True)
                else:
                    self._take(until, count, False, hold)
            while len(read) < count:
                number = core.pop_many_ahead(count - len(read), popped)
                if not number:
                    break
                try:
                    read += self._read_all(popped[-number:])
                except PressureError:
                    # What was taken before must reach the caller. The next call meets the error, if
                    # it lasts.
                    core.abandon(popped[-number:])
                    del popped[-number:]
                    break
            objects = [obj for _, obj in read]
            for session in {one.session for one in popped}:
                marks = [one.mark for one, _ in read if one.session is session]
                self._handle.owe(session, *marks)
                if len(marks) > 2 and not (core.raw or session.leased):
                    session.note_row(marks)
                core.moved_many([one for one in popped if one.session is session])
        except PayloadError:
            # There is nothing but what is in the dead letters now.
            for one in popped:
                core.moved(one)
            raise
        except BaseException:
            core.abandon(popped)
            self._handle.keep_up()
            raise
        self._handle.keep_up()
        return objects

    def lease(self, until: float | None) -> Lease[Any]:
        """The oldest item, on lease."""

        held: list[tuple[Session[Link], bytes]] = []

        def hold(session: Session[Link], fetched: Fetched) -> Lease[Any]:
            session.leased[fetched.tag] += 1
            held.append((session, fetched.tag))
            return Lease(self._handle, session, fetched.tag, fetched.obj, fetched.deliveries)

        # What was fetched ahead is older than what is in the queue.
        self._handle.give_back_unused()
        try:
            while True:
                lease = self._take(until, 1, False, hold)
                if lease is not items.SKIPPED:
                    return lease  # type: ignore[no-any-return]
        except BaseException:
            for session, tag in held:
                session.unlease(tag)
            raise

    def _fetch(self, until: float | None, count: int, ahead: bool) -> Any:
        def hand_out(session: Session[Link], fetched: Fetched) -> Any:
            if fetched.ahead:
                self._pace.fetched()
            session.pending.append((fetched.kind, fetched.tag))
            return fetched.obj

        return self._take(until, count, ahead, hand_out)

    def _take(self, until: float | None, count: int, ahead: bool, hand_out: Any) -> Any:
        """Take items from the server; hands out the first and keeps the others."""
        handle = self._handle
        session = handle.acquire(taking=True)
        fetched = None
        try:
            flow = items.fetch(handle.core, session, count, until, ahead=ahead)
            fetched = handle.run(flow, session, until)
            if fetched is None:
                raise QueueEmptyError(handle.core.name)
            obj = fetched.obj
            if obj is not items.SKIPPED:
                obj = hand_out(session, fetched)
            handle.release(session)
            return obj
        except _NOTHING_TAKEN:
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

    def _open(self, ahead: Ahead[Link]) -> Any:
        """Hand out an item that was fetched before."""
        core = self._handle.core
        try:
            obj = self._read(ahead)
            if obj is not items.SKIPPED:
                self._handle.owe(ahead.session, ahead.mark)
        finally:
            core.moved(ahead)
        self._handle.keep_up()
        return obj

    def _read_all(
        self, batch: list[Ahead[Link]], *, strict: bool = False
    ) -> list[tuple[Ahead[Link], Any]]:
        """Those of the items that can be had, and their objects. What can't be read is in the dead
        letters then, which `strict` raises."""
        core = self._handle.core
        read = []
        objects = reading.quickly_read_all(core, [ahead.item for ahead in batch])
        for ahead, quickly in zip(batch, objects, strict=True):
            obj = quickly
            if obj is reading.UNREAD or type(obj) is reading.Unreadable:
                try:
                    obj = self._see_to(ahead, obj)
                except PayloadError:
                    if strict:
                        raise
                    continue
            if obj is not items.SKIPPED:
                read.append((ahead, obj))
        return read

    def _read(self, ahead: Ahead[Link]) -> Any:
        return self._see_to(ahead, reading.quickly_read(self._handle.core, ahead.item)[0])

    def _see_to(self, ahead: Ahead[Link], obj: Any) -> Any:
        """What `quickly_read` has made of an item, or what can't be made so quickly."""
        core = self._handle.core
        if obj is reading.UNREAD:
            return self._handle.call_if_needed(items.open_ahead(core, ahead))
        if type(obj) is reading.Unreadable:
            return self._handle.call(items.bury_ahead(core, ahead, obj.error))
        return obj
