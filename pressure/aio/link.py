"""One asyncio connection to the server.

The counterpart of `pressure.link`. What is particular here is cancellation: it may strike wherever
a coroutine waits. A reply that is still owed then is not lost: what was interrupted can be taken up
again, and goes on where it stood.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections import deque
from typing import Any, Protocol, TypeVar

import redis.asyncio.connection as redis_connection
import redis.backoff
import redis.exceptions as redis_errors
from redis.asyncio.retry import Retry

from pressure.address import CONNECT_TIMEOUT, SOCKET_TIMEOUT, Address
from pressure.errors import PressureError, ServerRefusedError
from pressure.greeting import greeting, refuse_replica, run_id
from pressure.link import BLOCK_MARGIN, OOM_POLL, elsewhere
from pressure.nodes import Node, Question
from pressure.packing import packed, quickly_packed
from pressure.protocol import Command
from pressure.requests import Block, Stream
from pressure.retry import Broken, Oom, classify

__all__ = ["AsyncExecutor", "AsyncLink", "Control"]

log = logging.getLogger("pressure")

T = TypeVar("T")
_BLOCKING = ("BLMOVE", "BLPOP")


def new_connection(address: Address, given: dict[str, Any]) -> Any:
    """An unconnected redis-py connection for asyncio, of the kind that the address asks for."""
    # redis-py names its two families of classes alike.
    for base in address.connection_class.__mro__:
        kind: Any = getattr(redis_connection, base.__name__, None)
        if isinstance(kind, type):
            break
    else:
        raise TypeError(f"asyncio knows no {address.connection_class.__name__}")
    known: set[str] = set()
    for base in kind.__mro__:
        known |= inspect.signature(base).parameters.keys() if base is not object else set()
    settings = {name: value for name, value in given.items() if name in known}
    # Deadlines are kept here: with its own, redis-py puts a task around each sending.
    settings["socket_timeout"] = None
    settings["retry"] = Retry(redis.backoff.NoBackoff(), 0)
    return kind(**settings)


async def found_connection(address: Address) -> Any:
    """As `Address.found`."""
    search = address.search()
    if search is None:
        return new_connection(address, address.settings)
    try:
        question = next(search)
        while True:
            try:
                reply = await _ask(address, question)
            except Exception as exc:
                question = search.throw(exc)
            else:
                question = search.send(reply)
    except StopIteration as stop:
        return new_connection(address, address.settings_at(stop.value))


async def _ask(address: Address, question: Question) -> Any:
    login = address.settings_for(question)
    connection = new_connection(address, login)
    try:
        async with asyncio.timeout(login["socket_timeout"]):
            await connection.connect()
            await connection.send_command(*question.words)
            return await connection.read_response()
    finally:
        await connection.disconnect(nowait=True)


class AsyncExecutor(Protocol):
    """Something that sends one command: a link, or a handle's second connection."""

    async def execute(self, command: Command) -> object: ...

    async def unblock(self, waiter: str) -> None: ...


class AsyncLink:
    """A connection that opens itself when it is used. One operation at a time may use it."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.waiter = ""
        self.ever_connected = False
        self.estranged = False
        self._run = ""
        self._connection: Any = None
        self._owed: Command | None = None
        self._posted: deque[Command] = deque()

    @property
    def client_id(self) -> bytes:
        """The server's number for this connection; empty while it is not connected."""
        return self.waiter.partition("@")[0].encode()

    async def connect(self) -> Any:
        """Connect if need be. Raises `Broken`, or a final error."""
        if self._connection is not None:
            return self._connection
        connection: Any = None
        try:
            connection = await found_connection(self.address)
            # Behind Sentinel and in a Cluster, somebody has answered.
            self.ever_connected = self.ever_connected or self.address.finder is not None
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await connection.connect()
                for words in greeting(self.address):
                    await _write(connection, packed(words))
                # The server's id of this connection and of itself: how others unblock it.
                number = int(await connection.read_response())
                run = run_id(await _permitted(connection))
                if self.address.may_be_replica:
                    refuse_replica(await _permitted(connection))
        except (redis_errors.RedisError, OSError) as exc:
            if connection is not None:
                await connection.disconnect(nowait=True)
            self.address.heed(exc)
            raise classify(exc, sent=False, address=self.address) from exc
        except BaseException:
            if connection is not None:
                await connection.disconnect(nowait=True)
            raise
        self.waiter = f"{number}@{run}"
        self.estranged = self.estranged or self._run not in ("", run)
        self._run = run
        self.ever_connected = True
        self._connection = connection
        return connection

    async def close(self, *, nowait: bool = True) -> None:
        """Close the connection. Without `nowait` the socket is closed when this returns."""
        connection, self._connection, self.waiter = self._connection, None, ""
        self._owed = None
        self._posted.clear()
        if connection is not None:
            await connection.disconnect(nowait=nowait)

    async def execute(self, command: Command) -> Any:
        """Send one command and return its reply. Raises `Broken`, or a final error.

        If it is cancelled it may be called again with the same command, and then goes on waiting
        for the reply.
        """
        try:
            async with asyncio.timeout(SOCKET_TIMEOUT):
                if self._owed is not command:
                    await self._send(command)
                return await self._receive(command)
        except TimeoutError as exc:
            sent = self._owed is command
            self.address.heed(exc)
            await self.close()
            raise classify(exc, sent=sent, address=self.address) from exc

    async def unblock(self, waiter: str) -> None:
        """End what another connection to the same server blocks in (see `Executor`)."""
        client_id, _, run = waiter.partition("@")
        if self._connection is not None and self._run != run:
            await self.close()
        await self.connect()
        if self._run == run:
            await self.execute(Command(("CLIENT", "UNBLOCK", client_id, "TIMEOUT")))

    async def post(self, command: Command) -> None:
        """Send a command whose reply is read, and dropped, with the next one's. Raises `Broken`."""
        await self._send(command)
        self._owed = None
        self._posted.append(command)

    async def stream(self, stream: Stream) -> int:
        """Send a stream of commands one by one. Cancelled, it may be called again, as `execute`."""
        while stream.done < stream.count:
            if stream.under_way is None:
                stream.under_way = stream.command(stream.done)
            reply = await self.execute(stream.under_way)
            stream.under_way = None
            if not stream.accept(reply):
                break
        return stream.done

    async def block(self, request: Block, control: AsyncExecutor) -> Any:
        """Run a blocking command, and end it by force when its time is up."""
        command = request.command
        patience = time.monotonic() + request.seconds + BLOCK_MARGIN
        until = patience if request.until is None else min(patience, request.until)
        try:
            if self._owed is not command:
                await self._send(command)
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                return await self._receive(command)
        except TimeoutError:
            if until == patience:
                await self.close()
                raise _no_reply() from None
        except Oom:
            # Blocking moves are refused when memory is out, scripts that drain are not: so poll.
            await asyncio.sleep(OOM_POLL)
            return None
        return await self.end_block(request, control)

    async def end_block(self, request: Block, control: AsyncExecutor) -> Any:
        """End a blocking command and return its last reply; None if nothing came."""
        if self._owed is not request.command:
            return None
        patience = BLOCK_MARGIN
        try:
            if self._connection is not None:
                try:
                    await control.unblock(self.waiter)
                except ServerRefusedError:
                    # It is not permitted; the server's own time-out ends the block soon.
                    patience += request.seconds
            async with asyncio.timeout(patience):
                return await self._receive(request.command)
        except TimeoutError:
            await self.close()
            raise _no_reply() from None
        except Oom:
            return None
        except Broken as broken:
            await self.close()
            # Whichever connection it was that broke: this command may have been carried out.
            broken.sent = True
            raise

    async def _send(self, command: Command) -> None:
        if self._owed is not None:
            # Its reply would be taken for this command's.
            await self.close()
        connection = self._connection or await self.connect()
        while self._posted:
            try:
                await self._read(connection, self._posted[0])
            except (PressureError, Broken) as exc:
                if self._connection is None:
                    raise
                log.debug("a posted %s failed: %s", self._posted[0].words[0], exc)
            self._posted.popleft()
        self._owed = command
        try:
            await _write(connection, quickly_packed(command))
        except (redis_errors.RedisError, OSError) as exc:
            raise await self._failure(exc) from exc
        except BaseException:
            # Perhaps half of it was sent. Taken up again, it finds the connection broken.
            await self.close()
            self._owed = command
            raise

    async def _receive(self, command: Command) -> Any:
        connection = self._connection
        if connection is None:
            self._owed = None
            raise Broken(ConnectionError("the connection was closed"), sent=True)
        reply = await self._read(connection, command)
        self._owed = None
        return reply

    async def _read(self, connection: Any, command: Command) -> Any:
        """The next reply. A script that the server has not seen is sent whole."""
        try:
            try:
                return await connection.read_response(disconnect_on_error=False)
            except redis_errors.NoScriptError:
                if command.script is None:
                    raise
                whole = packed(("EVAL", command.script.text, *command.words[2:]))
                await _write(connection, whole)
                return await connection.read_response(disconnect_on_error=False)
            except redis_errors.ResponseError as exc:
                redirection = elsewhere(exc, command)
                if redirection is None or command.words[0] in _BLOCKING:
                    raise
                return await self._ask(redirection, command)
        except (redis_errors.RedisError, OSError) as exc:
            raise await self._failure(exc) from exc

    async def _ask(self, redirection: redis_errors.AskError, command: Command) -> Any:
        """Send one command to the node that the key is on while its slot is being moved."""
        node = Node(redirection.host, redirection.port)
        connection = new_connection(self.address, self.address.settings_at(node))
        try:
            async with asyncio.timeout(SOCKET_TIMEOUT):
                await connection.connect()
                await connection.send_command("ASKING")
                await connection.read_response()
                await connection.send_packed_command([quickly_packed(command)])
                return await connection.read_response()
        finally:
            await connection.disconnect(nowait=True)

    async def _failure(self, exc: Exception) -> Exception:
        failure = classify(exc, sent=True, address=self.address)
        if isinstance(failure, Broken) or not isinstance(exc, redis_errors.ResponseError):
            self.address.heed(exc)
            await self.close()
        self._owed = None
        return failure


async def _write(connection: Any, data: Any) -> None:
    writer = connection._writer
    if writer is not None and writer.is_closing():
        # To write nevertheless is an AttributeError in Python 3.12, or leaves the closed socket
        # registered with the event loop.
        raise ConnectionResetError("the connection was lost")
    await connection.send_packed_command([data], check_health=False)


async def _permitted(connection: Any) -> Any:
    """The reply to what may be asked if it is permitted."""
    try:
        return await connection.read_response()
    except redis_errors.NoPermissionError:
        return b""


def _no_reply() -> Broken:
    return Broken(ConnectionError("no reply to a blocking command"), sent=True)


class Control:
    """A handle's second connection, over which the others are unblocked."""

    def __init__(self, address: Address) -> None:
        self._link = AsyncLink(address)
        self._lock = asyncio.Lock()

    async def execute(self, command: Command) -> object:
        async with self._lock:
            return await self._link.execute(command)

    async def unblock(self, waiter: str) -> None:
        async with self._lock:
            await self._link.unblock(waiter)

    async def close(self) -> None:
        await self._link.close(nowait=False)
