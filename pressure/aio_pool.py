"""What an asyncio handle has on its event loop: sessions, operations under way, and upkeep.

An operation that is cancelled lets go of its caller at once and is concluded by a task in the
background: a blocking command is ended, its last reply read, and what that brought is given back.
So no reply is ever thrown away, and cancelling often costs no connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from pressure import flows, keeper, upkeep
from pressure.address import Address
from pressure.aio_link import AsyncLink, Control, Operation
from pressure.core import Core
from pressure.errors import PressureError
from pressure.link import Flow, Link, run
from pressure.protocol import Command
from pressure.session import Session

__all__ = ["FAREWELL", "Pool", "Work"]

log = logging.getLogger("pressure")

T = TypeVar("T")
FAREWELL = 1.0
"""How long concluding and signing off may take when the server is away (seconds)."""
MOST = 32
"""How many connections may put at a time, how many may get, and how many may do anything else.
Whoever comes later waits here in turn, so that a thousand waiting tasks are no thousand sockets."""

Work = Callable[[Session[AsyncLink]], Flow[T]]
"""Makes the flow of an operation, given the session that it runs in."""


class Pool:
    """The connections of one handle on one event loop. Sessions are used last in, first out."""

    def __init__(self, core: Core[AsyncLink], address: Address) -> None:
        self.loop = asyncio.get_running_loop()
        self.core = core
        self.address = address
        self.free: list[Session[AsyncLink]] = []
        self.putting = asyncio.Semaphore(MOST)
        self.getting = asyncio.Semaphore(MOST)
        self.joining = asyncio.Semaphore(MOST)
        self.asking = asyncio.Semaphore(MOST)
        self.renewer = Renewer(core, address, self.free)
        self._control = Control(address)
        self._reached = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        for session in core.sessions:
            # Left from an event loop that was closed under way, with all its connections.
            session.link = AsyncLink(address)
            session.link.ever_connected = True
            session.stale = session.known
            self.free.append(session)
        keeper.keep(self.renewer)

    # Operations

    async def call(
        self,
        work: Work[T],
        until: float | None = None,
        *,
        slots: asyncio.Semaphore | None = None,
        commit: Callable[[Session[AsyncLink], T], None] | None = None,
        undo: Callable[[Session[AsyncLink], T], Flow[None]] | None = None,
        verdict: float = 0.0,
    ) -> T:
        """Run an operation in a session of its own.

        `commit` is called with the result right before the caller has it. If the caller is
        cancelled, the operation is concluded without it: `undo` then makes the flow that reverses
        the result, and the caller waits for that for up to `verdict` seconds.
        """
        slot = await self._enter(slots or self.asking, until)
        session = self._acquire()
        operation = self._operation(work(session), session, until)
        try:
            result = await operation.run()
        except asyncio.CancelledError:
            conclusion = self._spawn(self._conclude(operation, session, slot, undo))
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

    def _acquire(self) -> Session[AsyncLink]:
        if self.free:
            return self.free.pop()
        session = Session(AsyncLink(self.address))
        # A handle that has reached its server once rides out the server's absence.
        session.link.ever_connected = self._reached
        self.core.sessions.append(session)
        return session

    def _release(self, session: Session[AsyncLink], slot: asyncio.Semaphore | None = None) -> None:
        session.used = time.monotonic()
        self._reached = self._reached or session.link.ever_connected
        if slot is None:
            # Looked after, not used: sessions in use stay the same few.
            self.free.insert(0, session)
        else:
            self.free.append(session)
            slot.release()
        if session.known:
            keeper.wake(session.used + self.core.settings.lease / 3)
        if session.pending or session.stale or self.core.buffer:
            self.keep_up()

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
            deadline=None if until is None else max(until, time.monotonic() + 0.1),
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
            self._timer = self.loop.call_later(keeper.TICK, self._on_timer)

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
            last = min(self.core.popped, self.core.stored + keeper.TICK)
            if self.core.buffer and now - last >= keeper.TICK:
                await self._farewell(upkeep.give_back_ahead(self.core))
            for session in [session for session in self.free if session.pending or session.stale]:
                if now - session.used >= keeper.TICK / 2 and session in self.free:
                    self.free.remove(session)
                    await self._settle(session)
        except (PressureError, TimeoutError) as exc:
            # The next operation meets the same trouble, and raises it where it is seen.
            log.debug("upkeep failed: %s", exc)
        if self.core.buffer or any(session.pending or session.stale for session in self.free):
            self.keep_up()

    async def _settle(self, session: Session[AsyncLink]) -> None:
        until = time.monotonic() + FAREWELL
        operation = self._operation(upkeep.settle(self.core, session), session, until)
        try:
            await operation.run()
        finally:
            operation.drop()
            self._release(session)

    async def _farewell(self, flow: Flow[None]) -> None:
        await self.call(lambda session: flow, time.monotonic() + FAREWELL)

    async def flush(self) -> None:
        """Send the acknowledgements that wait in sessions which nobody is using."""
        for session in [session for session in self.free if session.pending and not session.stale]:
            if session in self.free:
                self.free.remove(session)
                await self._settle(session)

    async def give_back_ahead(self) -> None:
        if self.core.buffer:
            await self._farewell(upkeep.give_back_ahead(self.core))

    def forget_queue(self) -> None:
        """The queue was deleted: nothing of it is left at the server."""
        self.core.generation = b""
        self.core.buffer.clear()
        for session in self.free:
            session.reset()

    def close(self, then: Callable[[], object]) -> None:
        """Disconnect in the background."""
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
        with contextlib.suppress(PressureError):
            await self.give_back_ahead()
        until = time.monotonic() + FAREWELL
        while self.free:
            session = self.free.pop()
            try:
                if (session.known or session.sequence) and session.link.ever_connected:
                    flow = upkeep.sign_off(self.core, session)
                    await self._operation(flow, session, until).run()
            except PressureError as exc:
                # The server is away: the lease runs out, and the items come back.
                log.debug("could not sign off: %s", exc)
            except asyncio.CancelledError:
                self.free.append(session)
                raise
            self.core.sessions.remove(session)
            await session.link.close(nowait=False)
        await self._control.close()
        self._stop_timer()
        # The renewer notices that nothing is left to renew.
        keeper.wake(time.monotonic())


class Renewer:
    """Renews a handle's leases from the keeper's thread, over a connection of its own.

    User code may hold up the event loop for longer than a lease lasts, and must not lose it.
    """

    def __init__(
        self, core: Core[AsyncLink], address: Address, free: list[Session[AsyncLink]]
    ) -> None:
        self.forked = False
        self._core = core
        self._address = address
        self._free = free
        self._link = Link(address)
        self._renew_at = 0.0

    def maintain(self, now: float) -> float:
        """Do what is due, and say when to be called again (`pressure.keeper.Kept`)."""
        if self.forked or not self._core.consumers():
            self._link.close()
            return float("inf")
        if now >= self._renew_at:
            self._renew_at = now + self._core.settings.lease / 3
            self._run(flows.reap_due(self._core))
        return self._renew_at

    def disconnect(self) -> None:
        """At the interpreter's exit: sign off what no event loop did."""
        while self._free and not self.forked:
            session = self._free.pop()
            if session.known:
                self._run(upkeep.sign_off(self._core, session))
        self._link.close()

    def after_fork(self) -> None:
        self.forked = True
        self._link = Link(self._address)

    def _run(self, flow: Flow[Any]) -> None:
        timeout = self._core.settings.reconnect_timeout
        until = time.monotonic() + FAREWELL
        run(flow, self._link, self._link, reconnect_timeout=timeout, deadline=until)


def _one(command: Command) -> Flow[Any]:
    reply: object = yield command
    return reply
