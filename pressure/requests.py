"""What a flow may ask of the driver that runs it (see `pressure.flows`)."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NamedTuple, TypeVar

from pressure.protocol import Command

__all__ = ["Block", "Flow", "Post", "Request", "Sleep", "Stream"]

T = TypeVar("T")


class Block(NamedTuple):
    """Block at the server with `command`, which itself ends after `seconds`; stop at `until`
    (monotonic; None: when the command ends). The reply is None if nothing came. The server carries
    out `then` right afterwards, even if the client is dead by then; nobody needs its reply."""

    command: Command
    seconds: float
    until: float | None
    then: Command | None = None


class Post(NamedTuple):
    """Send `command` without waiting for its reply, which nobody needs. The reply to the request
    itself is None."""

    command: Command


class Sleep(NamedTuple):
    seconds: float


class Stream:
    """Send `count` commands, each of which may be repeated, a few ahead of the replies.

    `command(index)` makes one, whose last word may be large. `received(index, reply)` is called
    once for each in order, also when the connection breaks in between; False ends the stream early.
    The reply to the request itself is how many replies were accepted.
    """

    __slots__ = ("command", "count", "done", "received", "under_way")

    def __init__(
        self,
        count: int,
        command: Callable[[int], Command],
        received: Callable[[int, Any], bool],
    ) -> None:
        self.count = count
        self.command = command
        self.received = received
        self.done = 0
        self.under_way: Command | None = None
        """Which command a driver is at that sends one at a time."""

    def accept(self, reply: object) -> bool:
        """Hand the next reply over; returns whether the stream goes on."""
        if not self.received(self.done, reply):
            return False
        self.done += 1
        return self.done < self.count


Request = Command | Block | Post | Sleep | Stream
Flow = Generator[Request, Any, T]
