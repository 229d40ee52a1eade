"""One connection to the server, and the driver that runs flows over it (synchronously).

A flow (see `pressure.flows`) is a generator that yields requests and is sent replies. The driver
sends each request, reconnects with backoff when the connection breaks, and repeats what may be
repeated. What may not is left to the flow, by throwing `Disconnected` into it.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any, NamedTuple, Protocol, TypeVar

import redis.exceptions as redis_errors

from pressure.address import Address
from pressure.errors import OutcomeUnknownError, ServerUnavailableError
from pressure.protocol import Command
from pressure.retry import Backoff, Broken, Disconnected, Oom, classify

__all__ = ["Block", "Executor", "Flow", "Link", "Request", "Sleep", "give_up", "run"]

T = TypeVar("T")
BLOCK_MARGIN = 3.0
"""How much later than asked for (seconds) a blocking command may answer before the connection
counts as broken."""
OOM_POLL = 0.05


class Block(NamedTuple):
    """Block at the server with `command`, which itself ends after `seconds`; stop at `until`
    (monotonic; None: when the command ends). The reply is None if nothing came."""

    command: Command
    seconds: float
    until: float | None


class Sleep(NamedTuple):
    seconds: float


Request = Command | Block | Sleep
Flow = Generator[Request, Any, T]


class Executor(Protocol):
    """Something that sends one command: a link, or a handle's second connection."""

    def execute(self, command: Command) -> object: ...


class Link:
    """A connection that opens itself when it is used. Belongs to one thread at a time."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.waiter = ""
        self.ever_connected = False
        self._connection: Any = None

    @property
    def client_id(self) -> bytes:
        """The server's number for this connection; empty while it is not connected."""
        return self.waiter.partition("@")[0].encode()

    def connect(self) -> Any:
        """Connect if need be. Raises `Broken`, or a final error."""
        if self._connection is not None:
            return self._connection
        connection = self.address.connection()
        try:
            connection.connect()
            # The server's id of this connection and of itself: how others unblock it.
            connection.send_packed_command(
                [
                    *connection.pack_command("CLIENT", "ID"),
                    *connection.pack_command("INFO", "server"),
                ]
            )
            number = connection.read_response()
            self.waiter = f"{int(number)}@{_run_id(connection)}"
        except (redis_errors.RedisError, OSError) as exc:
            connection.disconnect()
            raise classify(exc, sent=False, where=str(self.address)) from exc
        except BaseException:
            connection.disconnect()
            raise
        self.ever_connected = True
        self._connection = connection
        return connection

    def close(self) -> None:
        connection, self._connection, self.waiter = self._connection, None, ""
        if connection is not None:
            connection.disconnect()

    def execute(self, command: Command) -> Any:
        """Send one command and return its reply. Raises `Broken`, or a final error."""
        sent = False
        try:
            connection = self._connection or self.connect()
            sent = True
            connection.send_command(*command.words)
            try:
                return connection.read_response()
            except redis_errors.NoScriptError:
                script = command.script
                assert script is not None
                connection.send_command("EVAL", script.text, *command.words[2:])
                return connection.read_response()
        except (redis_errors.RedisError, OSError) as exc:
            raise self._failure(exc, sent) from exc
        except BaseException:
            # A signal in the middle of a reply: what follows on the wire belongs to nobody.
            self.close()
            raise

    def send(self, command: Command) -> None:
        """Send a command whose reply will be read by `receive`. Raises `Broken`."""
        try:
            connection = self._connection or self.connect()
            connection.send_command(*command.words)
        except (redis_errors.RedisError, OSError) as exc:
            raise self._failure(exc, True) from exc
        except BaseException:
            self.close()
            raise

    def receive(self, until: float | None = None) -> Any:
        """The reply to what was sent; `TimeoutError` if there is none by `until` (monotonic)."""
        connection = self._connection
        if connection is None:
            raise Broken(ConnectionError("the connection was closed"), sent=True)
        try:
            if until is not None and not connection.can_read(max(0.0, until - time.monotonic())):
                raise TimeoutError
            return connection.read_response()
        except TimeoutError:
            raise
        except (redis_errors.RedisError, OSError) as exc:
            raise self._failure(exc, True) from exc
        except BaseException:
            self.close()
            raise

    def block(self, request: Block, control: Executor) -> Any:
        """Run a blocking command, and end it by force when its time is up."""
        self.send(request.command)
        patience = time.monotonic() + request.seconds + BLOCK_MARGIN
        until = patience if request.until is None else min(patience, request.until)
        try:
            return self.receive(until)
        except TimeoutError:
            if until == patience:
                self.close()
                raise Broken(ConnectionError("no reply to a blocking command"), sent=True) from None
        except Oom:
            # Blocking moves are refused when memory is out, scripts that drain are not: so poll.
            time.sleep(OOM_POLL)
            return None
        try:
            control.execute(Command(("CLIENT", "UNBLOCK", self.client_id, "TIMEOUT")))
            return self.receive(time.monotonic() + BLOCK_MARGIN)
        except TimeoutError:
            self.close()
            raise Broken(ConnectionError("no reply to a blocking command"), sent=True) from None
        except Broken:
            self.close()
            raise

    def _failure(self, exc: Exception, sent: bool) -> Exception:
        failure = (
            exc if isinstance(exc, Broken) else classify(exc, sent=sent, where=str(self.address))
        )
        if isinstance(failure, Broken) or not isinstance(exc, redis_errors.ResponseError):
            self.close()
        return failure


def _run_id(connection: Any) -> str:
    try:
        info = connection.read_response()
    except redis_errors.NoPermissionError:
        return ""
    for line in bytes(info).splitlines():
        if line.startswith(b"run_id:"):
            return line[7:].decode()
    return ""


def give_up(address: Address, request: Request, broken: Broken) -> ServerUnavailableError:
    """The error for the end of all patience."""
    command = request.command if isinstance(request, Block) else request
    if broken.sent and isinstance(command, Command) and command.script is not None:
        if command.script.name in ("put", "exchange"):
            return OutcomeUnknownError(
                f"the server at {address} went away in the middle of a put: it may have been "
                f"accepted or not ({broken})"
            )
    return ServerUnavailableError(
        f"no usable server at {address} ({broken}): {address.advice()}"
    )


def run(
    flow: Flow[T],
    link: Link,
    control: Executor,
    *,
    reconnect_timeout: float,
    deadline: float | None = None,
) -> T:
    """Run a flow to its end.

    A connection that breaks is made anew for up to `reconnect_timeout` seconds (and not beyond
    `deadline`, monotonic); a first connection must succeed at once. Raises
    `ServerUnavailableError` after that, `OutcomeUnknownError` if it was in the middle of a put.
    """
    result: T
    backoff: Backoff | None = None
    sent = False
    try:
        request = next(flow)
    except StopIteration as stop:
        result = stop.value
        return result
    while True:
        try:
            if type(request) is Command:
                reply = link.execute(request)
            elif type(request) is Block:
                reply = link.block(request, control)
            elif type(request) is Sleep:
                time.sleep(request.seconds)
                reply = None
            backoff = None
            sent = False
        except Broken as broken:
            sent = broken.sent = sent or broken.sent
            if not link.ever_connected:
                raise give_up(link.address, request, broken) from broken.cause
            backoff = backoff or Backoff(reconnect_timeout)
            delay = backoff.delay(deadline)
            if delay is None:
                raise give_up(link.address, request, broken) from broken.cause
            time.sleep(delay)
            if isinstance(request, Command) and request.repeatable or not broken.sent:
                continue
            request = flow.throw(Disconnected())
            sent = False
            continue
        try:
            request = flow.send(reply)
        except StopIteration as stop:
            result = stop.value
            return result
