"""One connection to the server, and what may be asked of it.

A flow (see `pressure.flows`) is a generator that yields requests and is sent replies. Drivers send
them over a link (`pressure.driver` synchronously).
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import redis.exceptions as redis_errors

from pressure.address import Address
from pressure.errors import ServerRefusedError
from pressure.greeting import greeting, permitted, refuse_replica, run_id, run_mark
from pressure.nodes import Node, named
from pressure.packing import packed, packed_in_pieces, quickly_packed
from pressure.protocol import Command
from pressure.requests import Block, Flow, Post, Request, Sleep, Stream
from pressure.retry import Broken, Oom, classify
from pressure.wire import wired

__all__ = [
    "Block",
    "Executor",
    "Flow",
    "Link",
    "Post",
    "Request",
    "Sleep",
    "Stream",
    "elsewhere",
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

    def unblock(self, waiter: str) -> None:
        """End what the connection blocks in that registers as `waiter`, if that is still open."""


class Link:
    """A connection that opens itself when it is used. Belongs to one thread at a time."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.waiter = ""
        self.ever_connected = False
        self.estranged = False
        self.server = b""
        """Names the server's run, if the next one may not know of all that was done there: see
        `run_mark`. What was put to another one may have been taken there, and that been lost."""
        self.run = ""
        """What the server calls this run of itself, as far as it was ever connected."""
        self._connection: Any = None
        self._owed: deque[Command] = deque()
        # How many replies somebody has still to read, who may have been interrupted: then what
        # follows on the wire belongs to nobody.
        self._unread = 0

    @property
    def client_id(self) -> bytes:
        """The server's number for this connection; empty while it is not connected."""
        return self.waiter.partition("@")[0].encode()

    def connect(self) -> Any:
        """Connect if need be. Raises `Broken`, or a final error."""
        if self._connection is not None:
            return self._connection
        connection: Any = None
        try:
            connection = self.address.found()
            # Behind Sentinel and in a Cluster, somebody has answered.
            self.ever_connected = self.ever_connected or self.address.finder is not None
            connection.connect()
            connection.send_packed_command(
                [
                    word
                    for words in greeting(self.address)
                    for word in connection.pack_command(*words)
                ]
            )
            # The server's id of this connection and of itself: how others unblock it.
            number = connection.read_response()
            info = permitted(connection)
            run = run_id(info)
            if self.address.may_be_replica:
                refuse_replica(permitted(connection))
        except (redis_errors.RedisError, OSError) as exc:
            if connection is not None:
                connection.disconnect()
            self.address.heed(exc)
            raise classify(exc, sent=False, address=self.address) from exc
        except BaseException:
            if connection is not None:
                connection.disconnect()
            raise
        self.waiter = f"{int(number)}@{run}"
        self.estranged = self.estranged or self.run not in ("", run)
        self.run, self.server = run, run_mark(self.address, info)
        self.ever_connected = True
        self._connection = wired(connection)
        return self._connection

    def close(self) -> None:
        connection, self._connection, self.waiter = self._connection, None, ""
        self._owed.clear()
        self._unread = 0
        if connection is not None:
            connection.disconnect()

    def _open(self, replies: int) -> Any:
        """The connection, over which so many replies will come that are not posted."""
        if self._unread:
            self.close()
        connection = self._connection or self.connect()
        self._unread = replies
        if self._owed:
            self._collect(connection)
        return connection

    def notice_end(self) -> None:
        """Close the connection if the server has ended it, which would only show when it is used
        next, and `server` be another's until then."""
        connection = self._connection
        if connection is None or self._unread or self._owed:
            return
        try:
            # Nothing is due, so it can only be the end.
            ended = bool(connection.can_read(0.0))
        except (redis_errors.RedisError, OSError):
            ended = True
        if ended:
            self.close()

    def execute(self, command: Command, meanwhile: Callable[[], None] | None = None) -> Any:
        """Send one command, call `meanwhile`, and return the reply. Raises `Broken`, or a final
        error."""
        sent = False
        try:
            connection = self._open(1)
            sent = True
            connection.send_packed_command([quickly_packed(command)])
            if meanwhile is not None:
                meanwhile()
            try:
                reply = _reply(connection, command)
            except redis_errors.ResponseError as exc:
                redirection = elsewhere(exc, command)
                if redirection is None:
                    raise
                reply = self._ask(redirection, command)
            self._unread = 0
            return reply
        except (redis_errors.RedisError, OSError) as exc:
            raise self._failure(exc, sent) from exc
        except BaseException:
            # A signal in the middle of a reply.
            self.close()
            raise

    def _ask(self, redirection: redis_errors.AskError, command: Command) -> Any:
        """Send one command to the node that the key is on while its slot is being moved."""
        node = Node(redirection.host, redirection.port)
        connection = self.address.connection_class(**self.address.settings_at(node))
        try:
            connection.connect()
            connection.send_command("ASKING")
            connection.read_response()
            connection.send_packed_command([quickly_packed(command)])
            return connection.read_response()
        finally:
            connection.disconnect()

    def unblock(self, waiter: str) -> None:
        """End what another connection to the same server blocks in (see `Executor`)."""
        client_id, _, run = waiter.partition("@")
        if self._connection is not None and self.run != run:
            self.close()
        self.connect()
        if self.run == run:
            self.execute(Command(("CLIENT", "UNBLOCK", client_id, "TIMEOUT")))

    def post(self, command: Command) -> None:
        """Send a command whose reply is read, and dropped, with the next one's. Raises `Broken`."""
        self.send(command)
        self._owed.append(command)
        self._unread = 0

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
            self._open(1).send_packed_command([quickly_packed(command)])
        except (redis_errors.RedisError, OSError) as exc:
            raise self._failure(exc, True) from exc
        except BaseException:
            self.close()
            raise

    def send_all(self, commands: Sequence[Command]) -> None:
        """Send several commands at once, whose replies `receive` will read. Raises `Broken`."""
        try:
            connection = self._open(len(commands))
            together = b"".join([quickly_packed(command) for command in commands])
            connection.send_packed_command([together])
        except (redis_errors.RedisError, OSError) as exc:
            raise self._failure(exc, True) from exc
        except BaseException:
            self.close()
            raise

    @property
    def expects(self) -> bool:
        """Whether a reply to what was sent is still to come, as far as the connection is there."""
        return self._unread > 0

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

    def fileno(self) -> int:
        """The socket's number, to wait for it and for others at once while nothing of a reply has
        been read. Raises `Broken` if it is closed."""
        if self._connection is None:
            raise Broken(ConnectionError("the connection was closed"), sent=True)
        return int(self._connection._sock.fileno())

    def receive(self, until: float | None = None) -> Any:
        """The reply to what was sent; `TimeoutError` if there is none by `until` (monotonic)."""
        connection = self._connection
        if connection is None:
            raise Broken(ConnectionError("the connection was closed"), sent=True)
        try:
            if until is not None and not connection.can_read(max(0.0, until - time.monotonic())):
                raise TimeoutError
            reply = connection.read_response()
            self._unread -= 1
            return reply
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
            connection = self._open(stream.count)
            while going:
                while sent < stream.count and sent - stream.done < AHEAD:
                    connection.send_packed_command(packed_in_pieces(stream.command(sent)))
                    sent += 1
                going = stream.accept(connection.read_response())
            for _ in range(stream.done + 1, sent):
                connection.read_response()
            self._unread = 0
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
        if request.then is None:
            return self._block(request, control)
        reply = self._block(request, control)
        self._owed.append(request.then)
        self._unread = 0
        return reply

    def _block(self, request: Block, control: Executor) -> Any:
        if request.then is None:
            self.send(request.command)
        else:
            self.send_all((request.command, request.then))
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
                control.unblock(self.waiter)
            except ServerRefusedError:
                # It is not permitted; the server's own time-out ends the block soon.
                return self.receive(patience)
            return self.receive(time.monotonic() + BLOCK_MARGIN)
        except TimeoutError:
            self.close()
            raise Broken(ConnectionError("no reply to a blocking command"), sent=True) from None
        except Broken as broken:
            self.close()
            # Whichever connection it was that broke: this command may have been carried out.
            broken.sent = True
            raise
        except BaseException:
            # A reply is still to come that would be taken for another's.
            self.close()
            raise

    def _failure(self, exc: Exception, sent: bool) -> Exception:
        failure = exc if isinstance(exc, Broken) else classify(exc, sent=sent, address=self.address)
        if isinstance(failure, Broken) or not isinstance(exc, redis_errors.ResponseError):
            if not isinstance(exc, Broken):
                self.address.heed(exc)
            self.close()
        # It was the answer to what was sent.
        self._unread = max(0, self._unread - 1)
        return failure


def _reply(connection: Any, command: Command) -> Any:
    """The reply to a command; a script that the server has not seen is sent whole."""
    try:
        return connection.read_response()
    except redis_errors.NoScriptError:
        script = command.script
        if script is None:
            raise
        connection.send_packed_command([packed(("EVAL", script.text, *command.words[2:]))])
        return connection.read_response()


def elsewhere(exc: Exception, command: Command) -> redis_errors.AskError | None:
    """Where a command is redirected to, if it can be carried out there though its slot is not there
    yet. A script can't, since it names keys that are not there."""
    if command.script is None:
        exc = named(exc)
        if isinstance(exc, redis_errors.AskError) and not isinstance(exc, redis_errors.MovedError):
            return exc
    return None
