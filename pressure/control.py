"""What a handle does beside its operations: a second connection, and commands that end blocks."""

from __future__ import annotations

import contextlib
import threading

from pressure.address import Address
from pressure.errors import ServerRefusedError
from pressure.link import Link
from pressure.protocol import Command
from pressure.requests import Flow

__all__ = ["Control", "one", "unblocking"]


class Control:
    """The handle's second connection, over which any thread may unblock the others."""

    def __init__(self, address: Address) -> None:
        self._link = Link(address)
        self._lock = threading.Lock()

    def execute(self, command: Command) -> object:
        with self._lock:
            return self._link.execute(command)

    def unblock(self, waiter: str) -> None:
        with self._lock:
            self._link.unblock(waiter)

    def close(self) -> None:
        with self._lock:
            self._link.close()


def unblocking(link: Link, waiters: list[str]) -> Flow[None]:
    """End what some connections block in, which register under these names."""
    if not link.waiter:
        yield Command(("CLIENT", "ID"))
    for client_id, _, server in (waiter.partition("@") for waiter in waiters):
        # On another server, or after its restart, that number is somebody else's.
        if server == link.waiter.partition("@")[2]:
            # Where it is not permitted, the command ends by itself before long.
            with contextlib.suppress(ServerRefusedError):
                yield Command(("CLIENT", "UNBLOCK", client_id, "TIMEOUT"))


def one(command: Command) -> Flow[object]:
    """Send one command."""
    reply: object = yield command
    return reply
