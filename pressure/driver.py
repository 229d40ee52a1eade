"""The driver that runs flows over a connection (synchronously).

It sends each request of a flow, reconnects with backoff when the connection breaks, and repeats
what may be repeated. What may not is left to the flow, by throwing `Disconnected` into it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from pressure.address import Address
from pressure.errors import OutcomeUnknownError, ServerUnavailableError
from pressure.link import Executor, Link
from pressure.protocol import Command
from pressure.requests import Block, Flow, Post, Request, Sleep, Stream
from pressure.retry import Backoff, Broken, Disconnected

__all__ = ["Attempts", "give_up", "resumed", "run"]

T = TypeVar("T")


def give_up(address: Address, request: Request, broken: Broken) -> ServerUnavailableError:
    """The error for the end of all patience."""
    command = request.command if isinstance(request, Block) else request
    script = command.script if isinstance(command, Command) else None
    putting = script is not None and script.name in ("put", "exchange")
    if broken.sent and putting and not address.has_ended:
        return OutcomeUnknownError(
            f"the server at {address} went away in the middle of a put: it may have been "
            f"accepted or not ({broken})"
        )
    advice = address.advice(broken.cause)
    return ServerUnavailableError(f"no usable server at {address} ({broken}): {advice}")


class Attempts:
    """How often the requests of one flow are tried, whichever way they are sent.

    A connection that breaks is made anew for up to `reconnect_timeout` seconds (and not beyond
    `deadline`, monotonic); a first connection must succeed at once. An embedded server that has
    ended is not waited for.
    """

    def __init__(self, address: Address, reconnect_timeout: float, deadline: float | None) -> None:
        self.deadline = deadline
        self._address = address
        self._reconnect_timeout = reconnect_timeout
        self._backoff: Backoff | None = None
        self._sent = False

    def succeeded(self) -> None:
        self._backoff = None
        self._sent = False

    def failed(self, request: Request, broken: Broken, *, ever_connected: bool) -> float:
        """How long to wait before the next attempt (seconds).

        Raises `ServerUnavailableError` if there is none, `OutcomeUnknownError` if that was in the
        middle of a put.
        """
        self._sent = broken.sent = self._sent or broken.sent
        self._backoff = self._backoff or Backoff(self._reconnect_timeout)
        may_return = ever_connected and not self._address.has_ended
        delay = self._backoff.delay(self.deadline) if may_return else None
        if delay is None:
            raise give_up(self._address, request, broken) from broken.cause
        return delay

    def may_repeat(self, request: Request) -> bool:
        """Whether the request that failed is simply sent again; otherwise the flow decides."""
        repeated = (
            isinstance(request, Stream)
            or (isinstance(request, Command) and request.repeatable)
            or not self._sent
        )
        if not repeated:
            self._sent = False
        return repeated

    def may_skip(self, request: Request) -> bool:
        """Whether a request whose reply was lost counts as one that ended without a result."""
        return isinstance(request, Block) and request.command.repeatable


def resumed(request: Request, flow: Flow[T]) -> Flow[T]:
    """A started flow, from its first request on."""
    try:
        while True:
            try:
                reply = yield request
            except Disconnected as exc:
                request = flow.throw(exc)
            else:
                request = flow.send(reply)
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        flow.close()


def run(
    flow: Flow[T],
    link: Link,
    control: Executor,
    *,
    reconnect_timeout: float,
    deadline: float | None = None,
    meanwhile: Callable[[], None] | None = None,
) -> T:
    """Run a flow to its end; `Attempts` says what happens when the connection breaks.

    `meanwhile` is called each time that a plain command is sent, before its reply is waited for. It
    must not raise.
    """
    result: T
    # Made when the first attempt fails: most calls are one request, and that succeeds.
    attempts: Attempts | None = None
    try:
        request = next(flow)
        while True:
            try:
                try:
                    if type(request) is Command:
                        reply = link.execute(request, meanwhile)
                    else:
                        reply = _other(request, link, control)
                    if attempts is not None:
                        attempts.succeeded()
                except Broken as broken:
                    attempts = attempts or Attempts(link.address, reconnect_timeout, deadline)
                    time.sleep(attempts.failed(request, broken, ever_connected=link.ever_connected))
                    if attempts.may_repeat(request):
                        continue
                    if not attempts.may_skip(request):
                        raise Disconnected from None
                    reply = None
            except BaseException as exc:
                # It puts its session in order now, and not whenever the traceback is dropped.
                request = flow.throw(exc)
            else:
                request = flow.send(reply)
    except StopIteration as stop:
        result = stop.value
        return result
    except BaseException:
        # The same for a flow that is under way still.
        flow.close()
        raise


def _other(request: Request, link: Link, control: Executor) -> object:
    """Send a request that is not one plain command."""
    if type(request) is Block:
        return link.block(request, control)
    if type(request) is Stream:
        return link.stream(request)
    if type(request) is Post:
        link.post(request.command)
    elif type(request) is Sleep:
        time.sleep(request.seconds)
    return None
