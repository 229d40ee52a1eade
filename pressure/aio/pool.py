"""What an asyncio handle has on its event loop: sessions, operations under way, and upkeep.

Sessions are kept in two pools, last used first: those that are consumers, and the others. What a
consumer has to acknowledge thus never waits behind a put that blocks.

An operation that is cancelled lets go of its caller at once and is concluded by a task in the
background: a blocking command is ended, its last reply read, and what that brought is given back.
So no reply is ever thrown away, and cancelling often costs no connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from pressure import keeper, upkeep
from pressure.address import Address
from pressure.aio.link import AsyncLink, Control
from pressure.aio.operation import Operation
from pressure.aio.renewer import FAREWELL, Renewer
from pressure.core import Core
from pressure.errors import PressureError
from pressure.flows import RECHECK_LIMIT
from pressure.protocol import Command
from pressure.requests import Flow
from pressure.session import Session, in_doubt

__all__ = ["FAREWELL", "Pool", "Work"]

log = logging.getLogger("pressure")

T = TypeVar("T")
LAST_TRY = 1.0
"""How long an operation looks for a lost server at least, even if its deadline has passed."""
MOST = 32
"""How many connections may put at a time, how many may get, and how many may do anything else.
Whoever comes later waits here in turn, so that a thousand waiting tasks are no thousand sockets."""

Work = Callable[[Session[AsyncLink]], Flow[T]]
"""Makes the flow of an operation, given the session that it runs in."""


class Pool:
    """The connections of one handle on one event loop."""

    def __init__(self, core: Core[AsyncLink], address: Address) -> None:
        self.loop = asyncio.get_running_loop()
        self.core = core
        self.address = address
        self.putting = asyncio.Semaphore(MOST)
        self.getting = asyncio.Semaphore(MOST)
        self.joining = asyncio.Semaphore(MOST)
        self.asking = asyncio.Semaphore(MOST)
        self._consumers: list[Session[AsyncLink]] = []
        self._others: list[Session[AsyncLink]] = []
        self.renewer = Renewer(core, address, self._consumers)
        self._control = Control(address)
        self._reached = False
        core.concluding = 0
        self._tasks: set[asyncio.Task[None]] = set()
        # Each is done when what it stands for is in the queue again, which is older than what would
        # be taken meanwhile.
        self._returning: set[asyncio.Future[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.over = False
        """Whether the loop is about to end."""
        for session in core.sessions:
            # Left from an event loop that was closed under way, with all its connections.
            session.link = AsyncLink(address)
            session.link.ever_connected = True
            session.stale = session.known
            self._pool_of(session).append(session)
        keeper.keep(self.renewer, address.identity)

    # Operations

    async def call(
        self,
        work: Work[T],
        until: float | None = None,
        *,
        slots: asyncio.Semaphore | None = None,
        taking: bool = False,
        commit: Callable[[Session[AsyncLink], T], None] | None = None,
        undo: Callable[[Session[AsyncLink], T], Flow[None]] | None = None,
        verdict: float = 0.0,
    ) -> T:
        """Run an operation in a session of its own, for `taking` items or for anything else.

        `commit` is called with the result right before the caller has it. If the caller is
        cancelled, the operation is concluded without it: `undo` then makes the flow that reverses
        the result, and the caller waits for that for up to `verdict` seconds.
        """
        if taking and self._returning:
            left = FAREWELL if until is None else until - time.monotonic()
            patience = min(max(left, RECHECK_LIMIT), FAREWELL)
            await asyncio.wait(set(self._returning), timeout=patience)
        slot = await self._enter(slots or self.asking, until)
        session = self._acquire(taking)
        operation = self._operation(work(session), session, until)
        try:
            result = await operation.run()
        except asyncio.CancelledError:
            conclusion = self._spawn(self._conclude(operation, session, slot, undo))
            self.core.concluding += 1
            conclusion.add_done_callback(self._concluded)
            if taking:
                self._returning.add(conclusion)
            if verdict:
                await asyncio.wait({conclusion}, timeout=verdict)
            raise
        except BaseException:
            self._release(session, slot)
            raise
        if commit is not None:
            commit(session, result)
        self._release(session, slot)
        return result

    def _concluded(self, conclusion: asyncio.Task[None]) -> None:
        self.core.concluding -= 1
        self._returning.discard(conclusion)

    @contextlib.contextmanager
    def _on_its_way_back(self) -> Iterator[None]:
        """Who takes waits for the end of the block, for a while."""
        back = self.loop.create_future()
        self._returning.add(back)
        try:
            yield
        finally:
            self._returning.discard(back)
            back.cancel()

    async def ask(self, command: Command) -> Any:
        """Send one command."""
        return await self.call(lambda session: _one(command))

    async def _enter(self, slots: asyncio.Semaphore, until: float | None) -> asyncio.Semaphore:
        """Wait for one's turn; at its deadline an operation still gets one try."""
        if not slots.locked() or until is None:
            await slots.acquire()
            return slots
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                await slots.acquire()
                return slots
        except TimeoutError:
            await self.asking.acquire()
            return self.asking

    def _acquire(self, taking: bool) -> Session[AsyncLink]:
        if taking and self._consumers:
            return self._consumers.pop(in_doubt(self._consumers))
        if self._others:
            return self._others.pop()
        session = Session(AsyncLink(self.address))
        # A handle that has reached its server once rides out the server's absence.
        session.link.ever_connected = self._reached
        self.core.sessions.append(session)
        return session

    def _release(self, session: Session[AsyncLink], slot: asyncio.Semaphore | None = None) -> None:
        session.used = time.monotonic()
        self._reached = self._reached or session.link.ever_connected
        pool = self._pool_of(session)
        if slot is None:
            # Looked after, not used: sessions in use stay the same few.
            pool.insert(0, session)
        else:
            pool.append(session)
            slot.release()
        if session.known:
            keeper.wake(session.used + self.core.settings.lease / 3, self.renewer)
        if session.pending or session.stale or self.core.buffer:
            self.keep_up()

    def _pool_of(self, session: Session[AsyncLink]) -> list[Session[AsyncLink]]:
        return self._consumers if session.known or session.stale else self._others

    def _operation(
        self, flow: Flow[T], session: Session[AsyncLink], until: float | None
    ) -> Operation[T]:
        return Operation(
            self.core.name,
            flow,
            session.link,
            self._control,
            reconnect_timeout=self.core.settings.reconnect_timeout,
            # At its deadline an operation still gets one try.
            deadline=None if until is None else max(until, time.monotonic() + LAST_TRY),
        )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        # The loop alone does not keep a task alive.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _conclude(
        self,
        operation: Operation[T],
        session: Session[AsyncLink],
        slot: asyncio.Semaphore,
        undo: Callable[[Session[AsyncLink], T], Flow[None]] | None,
    ) -> None:
        """Bring an operation to its end that nobody waits for any more."""
        until = time.monotonic() + FAREWELL
        try:
            async with asyncio.timeout(FAREWELL):
                result = await operation.conclude(until)
                if undo is not None:
                    reverse = self._operation(undo(session, result), session, until)
                    try:
                        await reverse.run()
                    finally:
                        reverse.drop()
        except PressureError as exc:
            # Most often: what it waited for did not come.
            log.debug("a cancelled operation ended: %s", exc)
        except (TimeoutError, asyncio.CancelledError):
            await session.link.close()
        finally:
            operation.drop()
            self._release(session, slot)

    # Upkeep

    def keep_up(self) -> None:
        """Look after what is left behind, soon."""
        if self._timer is None:
            self._timer = self.loop.call_later(keeper.LOOK, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._spawn(self._look_after())

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _look_after(self) -> None:
        now = time.monotonic()
        try:
            # Nor may a slow consumer sit on a batch, however steadily it draws on it.
            if now - self.core.kept_since() >= keeper.TICK:
                await self.give_back_ahead(now + FAREWELL)
            for session in self._to_settle():
                if now - session.used >= keeper.TICK / 2 and session in self._consumers:
                    await self._settle(session, now + FAREWELL)
        except (PressureError, TimeoutError) as exc:
            # The next operation meets the same trouble, and raises it where it is seen.
            log.debug("upkeep failed: %s", exc)
        if self.core.buffer or self._to_settle():
            self.keep_up()

    def _to_settle(self) -> list[Session[AsyncLink]]:
        return [session for session in self._consumers if session.pending or session.stale]

    async def _settle(self, session: Session[AsyncLink], until: float | None) -> None:
        self._consumers.remove(session)
        operation = self._operation(upkeep.settle(self.core, session), session, until)
        try:
            with self._on_its_way_back() if session.stale else contextlib.nullcontext():
                await operation.run()
        finally:
            operation.drop()
            self._release(session)

    async def flush(self) -> None:
        """Send the acknowledgements that wait in sessions which nobody is using."""
        for session in self._to_settle():
            if not session.stale and session in self._consumers:
                await self._settle(session, None)

    async def give_back_ahead(self, until: float | None = None) -> None:
        """Give back what was fetched ahead. A server that is away is sought as by any operation."""
        if self.core.buffer:
            with self._on_its_way_back():
                await self.call(lambda session: upkeep.give_back_ahead(self.core), until)

    def forget_queue(self) -> None:
        """The queue was deleted: nothing of it is left at the server."""
        self.core.forget_deleted()
        for session in list(filter(self.core.outlives, self._consumers)):
            session.reset()
            self._consumers.remove(session)
            self._others.append(session)

    def close(self, then: Callable[[], object]) -> None:
        """Disconnect in the background, unless that was done when the loop's time was over: nothing
        begun after that would come to its end."""
        if self.over:
            then()
        else:
            self._spawn(self._close(then))

    async def _close(self, then: Callable[[], object]) -> None:
        await self.disconnect()
        then()

    async def disconnect(self) -> None:
        """Acknowledge, give back and sign off, then close all idle connections."""
        self._stop_timer()
        tasks = self._tasks - {asyncio.current_task()}
        if tasks:
            await asyncio.wait(tasks, timeout=FAREWELL)
        away = False
        try:
            await self.give_back_ahead(time.monotonic() + FAREWELL)
        except PressureError:
            away = True
        until = time.monotonic() + FAREWELL
        while self._consumers or self._others:
            session = (self._consumers or self._others).pop()
            known = session.known or session.stale or session.sequence
            try:
                if known and session.link.ever_connected and not away:
                    await self._operation(upkeep.sign_off(self.core, session), session, until).run()
            except PressureError as exc:
                # The leases run out, and the items come back. The others would fare no better.
                log.debug("could not sign off: %s", exc)
                away = True
            except asyncio.CancelledError:
                self._pool_of(session).append(session)
                raise
            self.core.sessions.remove(session)
            await session.link.close(nowait=False)
        await self._control.close()
        self._stop_timer()
        # The renewer notices that nothing is left to renew.
        keeper.wake(time.monotonic(), self.renewer)


def _one(command: Command) -> Flow[Any]:
    reply: object = yield command
    return reply
