"""Faults of the connections that go through a `FaultyProxy`."""

from __future__ import annotations

import random

from tests.faults.kit.fault import Fault
from tests.support.proxy import FaultyProxy
from tests.support.relay import Command
from tests.support.relay import Fault as Loss

MOVES = ("EVALSHA", "BLMOVE", "BLPOP")
"""What moves items, or may."""


class ConnectionsCut(Fault):
    """All connections end; with `reset` by a TCP reset. New ones may come at once."""

    def __init__(self, proxy: FaultyProxy, *, reset: bool = False) -> None:
        self._proxy = proxy
        self._reset = reset

    def strike(self) -> None:
        self._proxy.cut(reset=self._reset)


class OutOfReach(Fault):
    """All connections end, and none can be made."""

    def __init__(self, proxy: FaultyProxy) -> None:
        self._proxy = proxy

    def strike(self) -> None:
        self._proxy.refuse()
        self._proxy.cut()

    def heal(self) -> None:
        self._proxy.accept()


class Stalled(Fault):
    """Nothing gets through for a while, then everything does."""

    def __init__(self, proxy: FaultyProxy) -> None:
        self._proxy = proxy

    def strike(self) -> None:
        self._proxy.stall()

    def heal(self) -> None:
        self._proxy.resume()


class Slow(Fault):
    """Everything takes `seconds` longer, each way."""

    def __init__(self, proxy: FaultyProxy, seconds: float = 0.02) -> None:
        self._proxy = proxy
        self._seconds = seconds

    def strike(self) -> None:
        self._proxy.delay(self._seconds)

    def heal(self) -> None:
        self._proxy.delay(0.0)


class BlackHole(Fault):
    """The connections swallow everything, and nobody is told: there is no FIN. New ones are sound.
    The swallowed ones stay so."""

    def __init__(self, proxy: FaultyProxy) -> None:
        self._proxy = proxy

    def strike(self) -> None:
        self._proxy.black_hole()


class Partition(Fault):
    """As `BlackHole`, and new connections are swallowed as well."""

    def __init__(self, proxy: FaultyProxy) -> None:
        self._proxy = proxy

    def strike(self) -> None:
        self._proxy.black_hole(new_connections=True)

    def heal(self) -> None:
        self._proxy.heal()


class ReplyLost(Fault):
    """The next reply to a command that moves items is lost, with its connection."""

    def __init__(self, proxy: FaultyProxy, command: Command = None) -> None:
        self._proxy = proxy
        self._command = command
        self._loss: Loss | None = None

    def strike(self) -> None:
        # One at a time, or else every new connection would meet the next loss.
        if self._loss is None or self._loss.struck:
            self._loss = self._proxy.drop_next_reply(self._command or random.choice(MOVES))


class RequestLost(Fault):
    """The next command that moves items gets lost before the server has it."""

    def __init__(self, proxy: FaultyProxy, command: Command = None) -> None:
        self._proxy = proxy
        self._command = command
        self._loss: Loss | None = None

    def strike(self) -> None:
        if self._loss is None or self._loss.struck:
            self._loss = self._proxy.drop_next_request(self._command or random.choice(MOVES))
