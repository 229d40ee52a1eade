"""One connection through the faulty proxy, and the faults that it and the others are subject to.

    client ──> pump "to_server" ──> server
    client <── pump "to_client" <── server

The pumps pass whole messages, count commands and replies, and ask `Weather` what to do with them.
"""

from __future__ import annotations

import contextlib
import math
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Literal

from tests.support.resp import Message, Splitter

Side = Literal["to_server", "to_client"]
Predicate = Callable[[tuple[bytes, ...]], bool]
Command = str | Predicate | None

_CHUNK = 65536
# What a client library sends by itself to open a connection; hit only by a fault that names it.
_HANDSHAKE = frozenset({b"HELLO", b"AUTH", b"SELECT", b"CLIENT", b"READONLY"})


class Fault:
    """The loss of one message, waiting for its command; it tells when it has struck."""

    def __init__(self, command: Command, *, lose: Literal["request", "reply"], cut: bool) -> None:
        self.lose = lose
        self.cut = cut
        self.command: tuple[bytes, ...] = ()
        self._wanted = command
        self._struck = threading.Event()

    @property
    def struck(self) -> bool:
        """Whether it has happened."""
        return self._struck.is_set()

    def wait(self, timeout: float = 10.0) -> None:
        """Return once it has happened; `command` then holds the words of the command it hit.

        Raises:
            AssertionError: it did not happen in `timeout` seconds.
        """
        if not self._struck.wait(timeout):
            raise AssertionError(f"no command met the lost {self.lose} in {timeout} s")

    def claims(self, command: tuple[bytes, ...]) -> bool:
        """Whether it is this command's; if so it is remembered."""
        name = command[0].upper() if command else b""
        if self._wanted is None:
            wanted = name not in _HANDSHAKE
        elif isinstance(self._wanted, str):
            wanted = name == self._wanted.upper().encode()
        else:
            wanted = self._wanted(command)
        if wanted:
            self.command = command
        return wanted

    def strike(self) -> None:
        """It has happened."""
        self._struck.set()


class Weather:
    """What all connections of one proxy are exposed to.

    `changed` guards every field here and the state of each relay, and announces each change.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.stalled_until = -math.inf
        self.delays: dict[Side, float] = {"to_server": 0.0, "to_client": 0.0}
        self.swallow_new = False
        self.faults: list[Fault] = []
        self.relays: set[Relay] = set()

    def hold_back(self, relay: Relay, side: Side) -> None:
        """Return when data that arrived now may be passed on, or the relay is cut or swallowed."""
        arrived = time.monotonic()
        with self.changed:
            while not relay.is_cut and not relay.is_swallowed:
                due = max(self.stalled_until, arrived + self.delays[side])
                left = due - time.monotonic()
                if left <= 0:
                    return
                self.changed.wait(None if math.isinf(left) else left)

    def fault_for(self, message: Message) -> Fault | None:
        """The first fault that waits for this command, which is no longer waiting then."""
        with self.changed:
            if not self.faults:
                return None
            command = message.arguments()
            for fault in self.faults:
                if fault.claims(command):
                    self.faults.remove(fault)
                    return fault
        return None


class Relay:
    """One client's connection, and the one to the server that belongs to it."""

    def __init__(self, weather: Weather, client: socket.socket, server: socket.socket) -> None:
        self.is_cut = False
        self.is_swallowed = False
        self._weather = weather
        self._client = client
        self._server = server
        self._running = 2
        self._commands = 0
        self._replies = 0
        # The position of the reply to lose. The connection ends with it, so one is enough.
        self._doomed: tuple[int, Fault] | None = None
        sides: tuple[Side, Side] = ("to_server", "to_client")
        self._pumps = [
            threading.Thread(target=self._pump, args=(side,), name=f"proxy-{side}", daemon=True)
            for side in sides
        ]

    def start(self) -> None:
        """Begin to pass data."""
        with self._weather.changed:
            self.is_swallowed = self._weather.swallow_new
            self._weather.relays.add(self)
        for pump in self._pumps:
            pump.start()

    def swallow(self) -> None:
        """Pass nothing any more, not even the end of a side, and close nothing."""
        with self._weather.changed:
            self.is_swallowed = True
            self._weather.changed.notify_all()

    def cut(self, *, reset: bool = False) -> None:
        """End both sides. The last pump closes the sockets, since either may be in use by one."""
        with self._weather.changed:
            self.is_cut = True
            self._weather.changed.notify_all()
            if self._running == 0:
                return
            for side in (self._client, self._server):
                with contextlib.suppress(OSError):
                    if reset and side.family != socket.AF_UNIX:
                        # With a linger time of 0 the close is a reset, if no end was sent before.
                        linger = struct.pack("ii", 1, 0)
                        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                        side.shutdown(socket.SHUT_RD)
                    else:
                        side.shutdown(socket.SHUT_RDWR)

    def join(self, timeout: float) -> None:
        """Wait for the pumps to end."""
        deadline = time.monotonic() + timeout
        for pump in self._pumps:
            pump.join(max(deadline - time.monotonic(), 0.0))

    def _pump(self, side: Side) -> None:
        up = side == "to_server"
        source, target = (self._client, self._server) if up else (self._server, self._client)
        splitter = Splitter(inline=up)
        judge = self._judge_command if up else self._judge_reply
        try:
            while data := source.recv(_CHUNK):
                self._weather.hold_back(self, side)
                if not self._is_over():
                    self._pass(splitter.feed(data), target, judge)
            self._weather.hold_back(self, side)
            if not self._is_over():
                target.sendall(splitter.rest())
        except OSError:
            pass
        finally:
            self._end(target)

    def _is_over(self) -> bool:
        return self.is_cut or self.is_swallowed

    def _pass(
        self,
        messages: list[Message],
        target: socket.socket,
        judge: Callable[[Message], Fault | None],
    ) -> None:
        """Send on, in one go, what comes before the first message that a fault strikes."""
        passed = bytearray()
        fault = None
        for message in messages:
            fault = judge(message)
            if fault is not None:
                break
            passed += message.raw
        target.sendall(passed)
        if fault is not None:
            self._strike(fault)

    def _judge_command(self, message: Message) -> Fault | None:
        if self._doomed is None and (fault := self._weather.fault_for(message)) is not None:
            if fault.lose == "request":
                return fault
            self._doomed = (self._commands, fault)
        self._commands += 1
        return None

    def _judge_reply(self, message: Message) -> Fault | None:
        if message.is_push:
            return None
        if self._doomed is not None and self._doomed[0] == self._replies:
            return self._doomed[1]
        self._replies += 1
        return None

    def _strike(self, fault: Fault) -> None:
        if fault.cut:
            self.cut()
        else:
            self.swallow()
        fault.strike()

    def _end(self, target: socket.socket) -> None:
        """One direction has ended: pass the end on, and close all after the second."""
        with self._weather.changed:
            # One side of a swallowed connection may close; the other must not notice.
            self._weather.changed.wait_for(lambda: self.is_cut or not self.is_swallowed)
            self._running -= 1
            if self._running == 0:
                self._client.close()
                self._server.close()
                self._weather.relays.discard(self)
                self._weather.changed.notify_all()
            elif not self.is_cut:
                with contextlib.suppress(OSError):
                    target.shutdown(socket.SHUT_WR)
