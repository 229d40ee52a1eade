"""A network between clients and their server that fails on demand.

The proxy knows where commands and replies begin and end, and so which reply answers which command:
`drop_next_reply("BLMOVE")` loses the reply to exactly that command after the server carried it out.
(Pairing by position doesn't hold on a connection that subscribes in RESP2, or uses `CLIENT REPLY`.)
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import socket
import tempfile
import threading
import time
from types import TracebackType
from typing import Literal, Self
from urllib.parse import unquote, urlsplit, urlunsplit

from tests.support.relay import Command, Fault, Relay, Side, Weather

Address = str | tuple[str, int]
Direction = Literal["both"] | Side

_CONNECT_TIMEOUT = 5.0
_END_TIMEOUT = 10.0
_RESET_TIMEOUT = 2.0


class FaultyProxy:
    """Listens in front of the server at `server_url`; clients use `url` instead.

    It listens as its server does, on a unix socket or on a port of 127.0.0.1, and credentials and
    database of the url are kept. Every fault may be called from any thread.
    """

    def __init__(self, server_url: str) -> None:
        parts = urlsplit(server_url)
        self._directory: str | None = None
        self._server: Address
        self._address: Address
        if parts.scheme == "unix":
            short = "/tmp" if os.path.isdir("/tmp") else None
            self._directory = tempfile.mkdtemp(prefix="pp-", dir=short)
            self._server = unquote(parts.path)
            self._address = os.path.join(self._directory, "s")
        elif parts.scheme == "redis":
            self._server = (parts.hostname or "127.0.0.1", parts.port or 6379)
            self._address = ("127.0.0.1", 0)
        else:
            raise ValueError(f"can't look into {parts.scheme}:// connections")
        self._weather = Weather()
        self._listener = socket.socket()
        self._acceptor: threading.Thread | None = None
        self.accept()
        if isinstance(self._address, str):
            # urlunsplit would leave out the slashes of an empty host.
            query = f"?{parts.query}" if parts.query else ""
            self.url = f"unix://{parts.netloc}{self._address}{query}"
        else:
            userinfo, at, _ = parts.netloc.rpartition("@")
            host, port = self._address
            self.url = urlunsplit(parts._replace(netloc=f"{userinfo}{at}{host}:{port}"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def connections(self) -> int:
        """How many connections are open now, swallowed ones included."""
        with self._weather.changed:
            return len(self._weather.relays)

    def cut(self, *, reset: bool = False) -> None:
        """Close every connection on both sides, with a TCP reset if `reset`. New ones may come.

        Raises:
            AssertionError: a connection did not end in time.
        """
        with self._weather.changed:
            relays = list(self._weather.relays)
        for relay in relays:
            relay.cut(reset=reset)
        if reset and not self._gone(relays, _RESET_TIMEOUT):
            # A pump that is stuck in sending is not woken by the way to a reset.
            for relay in relays:
                relay.cut()
        if not self._gone(relays, _END_TIMEOUT):
            raise AssertionError("some connections did not end")
        for relay in relays:
            relay.join(_END_TIMEOUT)

    def refuse(self) -> None:
        """Refuse new connections from now on, as if the server were down. Open ones go on."""
        acceptor, self._acceptor = self._acceptor, None
        if acceptor is None:
            return
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        acceptor.join(_END_TIMEOUT)
        self._listener.close()

    def accept(self) -> None:
        """Accept new connections again, at the same address."""
        if self._acceptor is not None:
            return
        self._listener.close()
        self._listener = _listen(self._address)
        if not isinstance(self._address, str):
            self._address = self._listener.getsockname()
        self._acceptor = threading.Thread(
            target=self._accept_all, args=(self._listener,), name="proxy-accept", daemon=True
        )
        self._acceptor.start()

    def stall(self, seconds: float = math.inf) -> None:
        """Hold back all data, also of new connections, for `seconds` or until `resume`."""
        with self._weather.changed:
            self._weather.stalled_until = time.monotonic() + seconds
            self._weather.changed.notify_all()

    def resume(self) -> None:
        """End a stall; what was held back is delivered."""
        self.stall(0.0)

    def delay(self, seconds: float, direction: Direction = "both") -> None:
        """Hold each piece of data in that direction for `seconds`. 0 ends it."""
        with self._weather.changed:
            for side in self._weather.delays:
                if direction in ("both", side):
                    self._weather.delays[side] = seconds
            self._weather.changed.notify_all()

    def black_hole(self, *, new_connections: bool = False) -> None:
        """Swallow all data of the open connections, for good, without closing anything.

        Neither side learns of it, not even when the other closes: the server keeps a half-open
        connection until `cut` or `close`. With `new_connections`, those that come later are
        swallowed too (a partition), until `heal`.
        """
        with self._weather.changed:
            self._weather.swallow_new = new_connections
            for relay in self._weather.relays:
                relay.swallow()

    def heal(self) -> None:
        """Treat new connections well again. Those that were swallowed stay so."""
        with self._weather.changed:
            self._weather.swallow_new = False

    def drop_next_reply(self, command: Command = None, *, cut: bool = True) -> Fault:
        """Lose the reply to the next matching command, after the server has sent it.

        Args:
            command: the command's name in any case (`"EVALSHA"`), or a function that is called
                with its words, or None for any that a client library doesn't send by itself.
            cut: close that connection then; otherwise it is swallowed, as by `black_hole`.

        Returns:
            The fault, whose `wait` returns once it has happened.
        """
        return self._arm(Fault(command, lose="reply", cut=cut))

    def drop_next_request(self, command: Command = None, *, cut: bool = True) -> Fault:
        """Lose the next matching command before the server gets it; else as `drop_next_reply`."""
        return self._arm(Fault(command, lose="request", cut=cut))

    def close(self) -> None:
        """Close everything and end all threads. Harmless if done before.

        Raises:
            AssertionError: a connection did not end in time.
        """
        self.refuse()
        self.cut()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _arm(self, fault: Fault) -> Fault:
        with self._weather.changed:
            self._weather.faults.append(fault)
        return fault

    def _gone(self, relays: list[Relay], timeout: float) -> bool:
        with self._weather.changed:
            return self._weather.changed.wait_for(
                lambda: self._weather.relays.isdisjoint(relays), timeout
            )

    def _accept_all(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = _connect(self._server)
            if server is None:
                client.close()
            else:
                Relay(self._weather, client, server).start()


def _listen(address: Address) -> socket.socket:
    if isinstance(address, str):
        listener = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(address)
    else:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen(128)
    return listener


def _connect(address: Address) -> socket.socket | None:
    server = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    server.settimeout(_CONNECT_TIMEOUT)
    try:
        server.connect(address)
    except OSError:
        server.close()
        return None
    server.settimeout(None)
    return server
