"""One connection to the server, and what may be asked of it.

A flow (see `pressure.flows`) is a generator that yields requests and is sent replies. Drivers send
them over a link (`pressure.driver` synchronously).
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

import hiredis
import redis.exceptions as redis_errors

from pressure.address import Address
from pressure.errors import ServerRefusedError
from pressure.protocol import Command
from pressure.requests import Block, Flow, Post, Request, Sleep, Stream
from pressure.retry import Broken, Oom, classify

__all__ = [
    "Block",
    "Executor",
    "Flow",
    "Link",
    "Post",
    "Request",
    "Sleep",
    "Stream",
    "quickly_packed",
    "run_id",
]

log = logging.getLogger("pressure")

BLOCK_MARGIN = 3.0
"""How much later than asked for (seconds) a blocking command may answer before the connection
counts as broken."""
OOM_POLL = 0.05
AHEAD = 3
"""How many commands of a stream are sent before the reply to the first is read."""


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
        self._owed: deque[Command] = deque()

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
        self._owed.clear()
        if connection is not None:
            connection.disconnect()

    def execute(self, command: Command) -> Any:
        """Send one command and return its reply. Raises `Broken`, or a final error."""
        sent = False
        try:
            connection = self._connection or self.connect()
            sent = True
            if self._owed:
                self._collect(connection)
            connection.send_packed_command([quickly_packed(command)])
            return _reply(connection, command)
        except (redis_errors.RedisError, OSError) as exc:
            raise self._failure(exc, sent) from exc
        except BaseException:
            # A signal in the middle of a reply: what follows on the wire belongs to nobody.
            self.close()
            raise

    def post(self, command: Command) -> None:
        """Send a command whose reply is read, and dropped, with the next one's. Raises `Broken`."""
        self.send(command)
        self._owed.append(command)

    def _collect(self, connection: Any) -> None:
        """Read the replies to what was posted."""
        while self._owed:
            command = self._owed.popleft()
            try:
                _reply(connection, command)
            except redis_errors.ResponseError as exc:
                log.debug("a posted %s failed: %s", command.words[0], exc)

    def send(self, command: Command) -> None:
        """Send a command whose reply will be read by `receive`. Raises `Broken`."""
        try:
            connection = self._connection or self.connect()
            if self._owed:
                self._collect(connection)
            connection.send_packed_command([quickly_packed(command)])
        except (redis_errors.RedisError, OSError) as exc:
            raise self._failure(exc, True) from exc
        except BaseException:
            self.close()
            raise

    def send_all(self, commands: Sequence[Command]) -> None:
        """Send several commands at once, whose replies `receive` will read. Raises `Broken`."""
        try:
            connection = self._connection or self.connect()
            if self._owed:
                self._collect(connection)
            packed = b"".join([quickly_packed(command) for command in commands])
            connection.send_packed_command([packed])
        except (redis_errors.RedisError, OSError) as exc:
            raise self._failure(exc, True) from exc
        except BaseException:
            self.close()
            raise

    def wait(self, until: float) -> bool:
        """Whether a reply to what was sent is there by `until` (monotonic)."""
        connection = self._connection
        if connection is None:
            raise Broken(ConnectionError("the connection was closed"), sent=True)
        try:
            return bool(connection.can_read(max(0.0, until - time.monotonic())))
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

    def stream(self, stream: Stream) -> int:
        """Send a stream of commands, hand over the replies. Raises `Broken`, or a final error."""
        sent = stream.done
        going = sent < stream.count
        try:
            connection = self._connection or self.connect()
            if self._owed:
                self._collect(connection)
            while going:
                while sent < stream.count and sent - stream.done < AHEAD:
                    connection.send_packed_command(_pack(stream.command(sent)))
                    sent += 1
                going = stream.accept(connection.read_response())
            for _ in range(stream.done + 1, sent):
                connection.read_response()
        except (redis_errors.RedisError, OSError) as exc:
            failure = self._failure(exc, True)
            # Other replies are still to come.
            self.close()
            raise failure from exc
        except BaseException:
            self.close()
            raise
        return stream.done

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
            try:
                control.execute(Command(("CLIENT", "UNBLOCK", self.client_id, "TIMEOUT")))
            except ServerRefusedError:
                # It is not permitted; the server's own time-out ends the block soon.
                return self.receive(patience)
            return self.receive(time.monotonic() + BLOCK_MARGIN)
        except TimeoutError:
            self.close()
            raise Broken(ConnectionError("no reply to a blocking command"), sent=True) from None
        except BaseException:
            # A reply is still to come that would be taken for another's.
            self.close()
            raise

    def _failure(self, exc: Exception, sent: bool) -> Exception:
        failure = (
            exc if isinstance(exc, Broken) else classify(exc, sent=sent, where=str(self.address))
        )
        if isinstance(failure, Broken) or not isinstance(exc, redis_errors.ResponseError):
            self.close()
        return failure


def _pack(command: Command) -> list[Any]:
    """A command as it goes over the wire. Its last word is not copied, however large it is."""
    words: Any = command.words
    head = [b"*%d\r\n" % len(words)]
    head += [b"$%d\r\n%b\r\n" % (len(word), word) for word in words[:-1]]
    head.append(b"$%d\r\n" % len(words[-1]))
    return [b"".join(head), words[-1], b"\r\n"]


def quickly_packed(command: Command) -> bytes:
    """A command as it goes over the wire, without the checks that redis-py makes of each word."""
    words: Any = command.words
    packed: bytes
    try:
        packed = hiredis.pack_command(words)
    except TypeError:
        # It takes no bytearray.
        words = tuple(bytes(word) if isinstance(word, bytearray) else word for word in words)
        packed = hiredis.pack_command(words)
    return packed


def _reply(connection: Any, command: Command) -> Any:
    """The reply to a command; a script that the server has not seen is sent whole."""
    try:
        return connection.read_response()
    except redis_errors.NoScriptError:
        script = command.script
        if script is None:
            raise
        connection.send_command("EVAL", script.text, *command.words[2:])
        return connection.read_response()


def _run_id(connection: Any) -> str:
    try:
        info = connection.read_response()
    except redis_errors.NoPermissionError:
        return ""
    return run_id(info)


def run_id(info: bytes) -> str:
    """What the server calls this run of itself, according to its INFO."""
    for line in bytes(info).splitlines():
        if line.startswith(b"run_id:"):
            return line[7:].decode()
    return ""
