"""The bytes of a connection that one thread uses at a time.

redis-py prepares for what doesn't happen on our connections: pushed messages, other threads, a
pool. Once it has connected and authenticated, `Wire` talks to the plain socket itself. The system
keeps the time-out, so that a reply costs one system call and not two. TLS stays with redis-py.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
from collections.abc import Iterable
from typing import Any

import hiredis
import redis.exceptions as redis_errors

from pressure.packing import packed

__all__ = ["Wire", "wired"]

_BUFFER_BYTES = 1 << 16
_INCOMPLETE = object()


def wired(connection: Any) -> Any:
    """What to talk to a connected redis-py connection through: a `Wire`, which takes its socket
    over, or the connection itself if that is no plain socket. Nothing may be under way on it."""
    # Neither is documented; without them everything works as well, and a little slower.
    sock = getattr(connection, "_sock", None)
    parse_error = getattr(type(getattr(connection, "_parser", None)), "parse_error", None)
    if type(sock) is not socket.socket or parse_error is None:
        return connection
    timeout = sock.gettimeout()
    wire = Wire(sock.detach(), timeout, parse_error)
    # A parser refers to itself. Left to the garbage collector it would end at any time, and a
    # Ctrl-C that comes during a collection is dropped in the first `__del__` that this calls.
    vars(connection._parser).clear()
    return wire


class _Socket(socket.socket):
    __slots__ = ()

    def __del__(self) -> None:
        # Who drops a handle without closing it gets no warning: redis-py gives none either.
        self.close()


class Wire:
    """Sends and receives in place of a redis-py connection, with that one's methods and errors."""

    __slots__ = ("_buffer", "_poll", "_process", "_reader", "_sock")

    def __init__(self, descriptor: int, timeout: float | None, parse_error: Any) -> None:
        self._process = os.getpid()
        self._sock = sock = _Socket(fileno=descriptor)
        self._buffer = bytearray(_BUFFER_BYTES)
        self._reader: Any = hiredis.Reader(
            protocolError=redis_errors.InvalidResponse,
            replyError=parse_error,
            notEnoughData=_INCOMPLETE,
        )
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        if timeout:
            seconds = int(timeout)
            value = struct.pack("ll", seconds, int((timeout - seconds) * 1e6))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)
        sock.settimeout(None)

    def send_packed_command(self, command: Iterable[bytes]) -> None:
        for piece in command:
            try:
                self._sock.sendall(piece)
            except BlockingIOError:
                raise redis_errors.TimeoutError("time-out while writing to the socket") from None

    def send_command(self, *words: Any) -> None:
        self.send_packed_command([packed(words)])

    def can_read(self, timeout: float) -> bool:
        """Whether a reply, or its beginning, or the connection's end is there within `timeout`."""
        return bool(self._reader.has_data() or self._poll.poll(timeout * 1000))

    def read_response(self) -> Any:
        """The next reply. Raises it if it is an error, as well as what goes wrong on the way."""
        reader = self._reader
        reply = reader.gets()
        while reply is _INCOMPLETE:
            try:
                size = self._sock.recv_into(self._buffer)
            except BlockingIOError:
                raise redis_errors.TimeoutError("time-out while reading from the socket") from None
            if not size:
                raise redis_errors.ConnectionError("the server closed the connection")
            reader.feed(self._buffer, 0, size)
            reply = reader.gets()
        if isinstance(reply, redis_errors.RedisError):
            try:
                raise reply
            finally:
                # Or else the error holds this frame, and the frame the error and the socket.
                del reply
        return reply

    def disconnect(self) -> None:
        if self._process == os.getpid():
            # The server must hear of it even if a forked child has the socket, too.
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            # A task may have closed all descriptors.
            self._sock.close()
