"""What a worker process is told when it starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pressure.address import Address
from pressure.channel import Channel
from pressure.core import Settings

__all__ = ["BROKEN_EXIT", "DEFAULT_BOUND", "Post"]

BROKEN_EXIT = 70
"""Exit code of a worker whose initializer failed."""
DEFAULT_BOUND = 10_000
"""How many tasks a queue holds that an executor or a worker makes."""


@dataclass(frozen=True, slots=True)
class Post:
    """Where a worker works. It is sent to the process, so it holds what that needs to connect.
    `stderr` is a `multiprocessing` connection: its descriptor becomes the process's stderr."""

    address: Address
    queue: str
    prefix: str
    settings: Settings
    notes: str
    max_tasks: int | None
    stderr: Any = None
    initializer: Callable[..., object] | None = None
    initargs: tuple[Any, ...] = ()
    same_main: bool = False
    """Whether the workers have the `__main__` of the client, who started them."""

    def channel(self) -> Channel:
        return Channel(
            self.queue, self.address, tag=self.queue, prefix=self.prefix, settings=self.settings
        )
