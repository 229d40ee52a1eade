"""Items from the server to a caller's thread: at once, ahead of need, or on lease."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pressure import items
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
            waiting = self._handle.core.pop_ahead()
            obj = self._fetch(until, count, ahead) if waiting is None else self._open(waiting)
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
                self._handle.give_back_unused()
                raise

    def get_many(self, until: float | None, count: int) -> list[Any]:
        """The oldest item, and what else is there, up to `count`."""
        taken = [self.get(until, count)]
        while len(taken) < count:
            batch = self._handle.core.pop_many_ahead(count - len(taken))
            if not batch:
                break
            try:
                taken += self._open_many(batch)
            except PressureError:
                # What was taken before is acknowledged and must reach the caller. The next call
                # meets the error, if it lasts.
                break
        return taken

    def lease(self, until: float | None) -> Lease[Any]:
        """The oldest item, on lease."""

        def hold(session: Session[Link], fetched: Fetched) -> Lease[Any]:
            session.leased[fetched.tag] += 1
            return Lease(self._handle, session, fetched.tag, fetched.obj, fetched.deliveries)

        while True:
            lease = self._take(until, 1, False, hold)
            if lease is not items.SKIPPED:
                return lease  # type: ignore[no-any-return]

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
        try:
            flow = items.fetch(handle.core, session, count, until, ahead=ahead)
            fetched = handle.run(flow, session, until)
            if fetched is None:
                raise QueueEmptyError(handle.core.name)
            if fetched.obj is items.SKIPPED:
                return items.SKIPPED
            return hand_out(session, fetched)
        except _NOTHING_TAKEN:
            raise
        except BaseException:
            # Whatever was taken and did not reach the caller is found by the session's next use.
            session.stale = session.stale or session.known
            raise
        finally:
            handle.release(session)

    def _open(self, ahead: Ahead[Link]) -> Any:
        """Hand out an item that was fetched before."""
        core = self._handle.core
        try:
            obj = self._read(ahead)
            if obj is not items.SKIPPED:
                ahead.session.pending.append(ahead.mark)
        finally:
            core.moved(ahead)
        self._handle.keep_up()
        return obj

    def _open_many(self, batch: list[Ahead[Link]]) -> list[Any]:
        """Hand out items that were fetched before, by one session. Those that can't be read are in
        the dead letters then; the others must reach the caller."""
        session = batch[0].session
        objects, done = [], []
        try:
            for ahead in batch:
                try:
                    obj = self._read(ahead)
                except PayloadError:
                    continue
                if obj is not items.SKIPPED:
                    objects.append(obj)
                    done.append(ahead.mark)
            session.pending.extend(done)
        except BaseException:
            # None of them is acknowledged: the session's next use finds them.
            session.stale = True
            raise
        finally:
            self._handle.core.moved_many(batch)
        self._handle.keep_up()
        return objects

    def _read(self, ahead: Ahead[Link]) -> Any:
        core = self._handle.core
        obj, _ = items.quickly_read(core, ahead.item)
        if obj is items.UNREAD:
            return self._handle.call_if_needed(items.open_ahead(core, ahead))
        if type(obj) is items.Unreadable:
            self._handle.call(items.bury_ahead(core, ahead, obj.error))
        return obj
