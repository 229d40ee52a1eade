"""The driver that runs flows over an asyncio connection, through cancellation."""

from __future__ import annotations

import asyncio
from typing import Any, Generic, TypeVar

from pressure.aio.link import AsyncExecutor, AsyncLink
from pressure.driver import Attempts
from pressure.errors import OperationUnblocked
from pressure.protocol import Command
from pressure.requests import Block, Flow, Post, Request, Sleep, Stream
from pressure.retry import Broken, Disconnected

__all__ = ["Operation"]

T = TypeVar("T")


class _Again(Exception):
    """The request is to be sent again."""


class Operation(Generic[T]):
    """A flow under way over a link, which can be cancelled and then brought to its end."""

    def __init__(
        self,
        name: str,
        flow: Flow[T],
        link: AsyncLink,
        control: AsyncExecutor,
        *,
        reconnect_timeout: float,
        deadline: float | None = None,
    ) -> None:
        self._name = name
        self._flow = flow
        self._link = link
        self._control = control
        self._attempts = Attempts(link.address, reconnect_timeout, deadline)
        self._request: Request | None = None
        self._delay: float | None = None
        self._concluding = False

    async def run(self) -> T:
        """Run the flow to its end; `pressure.link.Attempts` says what a broken connection means.

        If this is cancelled the flow stands still, and `conclude` takes it up.
        """
        result: T
        flow = self._flow
        try:
            request = next(flow) if self._request is None else self._request
            while True:
                self._request = request
                try:
                    reply = await self._attempt(request)
                except asyncio.CancelledError:
                    raise
                except _Again:
                    continue
                except BaseException as exc:
                    # It puts its session in order now, and not whenever the traceback is dropped.
                    request = flow.throw(exc)
                else:
                    request = flow.send(reply)
        except StopIteration as stop:
            result = stop.value
            return result

    async def conclude(self, deadline: float) -> T:
        """Bring a flow that was cancelled to its end soon, by `deadline` (monotonic) if possible.

        It blocks no more. Raises `OperationUnblocked` if what it waited for did not come.
        """
        self._concluding = True
        self._attempts.deadline = deadline
        return await self.run()

    def drop(self) -> None:
        """End the flow where it stands."""
        self._flow.close()

    async def _attempt(self, request: Request) -> Any:
        """The reply to a request. Raises what is to be thrown into the flow, or `_Again`."""
        attempts = self._attempts
        if self._delay is None:
            try:
                reply = await self._perform(request)
            except Broken as broken:
                connected = self._link.ever_connected
                self._delay = attempts.failed(request, broken, ever_connected=connected)
            else:
                attempts.succeeded()
                if self._concluding and reply is None and isinstance(request, Block | Sleep):
                    raise OperationUnblocked(self._name)
                return reply
        # It is kept until it has passed: whoever takes up the flow goes on with it.
        await asyncio.sleep(self._delay)
        self._delay = None
        if attempts.may_repeat(request):
            raise _Again
        if not attempts.may_skip(request):
            raise Disconnected
        if self._concluding:
            raise OperationUnblocked(self._name)
        return None

    async def _perform(self, request: Request) -> Any:
        if isinstance(request, Command):
            return await self._link.execute(request)
        if isinstance(request, Post):
            return await self._link.post(request.command)
        if isinstance(request, Block):
            if self._concluding:
                return await self._link.end_block(request, self._control)
            return await self._link.block(request, self._control)
        if isinstance(request, Stream):
            return await self._link.stream(request)
        if not self._concluding:
            await asyncio.sleep(request.seconds)
        return None
