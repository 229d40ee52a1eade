"""What a worker process is told when it starts."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pressure.address import Address
from pressure.channel import Channel
from pressure.settings import Settings

__all__ = ["BROKEN_EXIT", "DEFAULT_BOUND", "Post"]

BROKEN_EXIT = 70
"""Exit code of a worker whose initializer failed."""
DEFAULT_BOUND = 10_000
"""How many tasks a queue holds that an executor or a worker makes."""


@dataclass(frozen=True, slots=True)
class Post:
    """Where a worker works. It is sent to the process, so it holds what that needs to connect.

    `queues` are served without starving any. `notes` and `stderr` are `multiprocessing`
    connections: the descriptor of one is of the file of the process's notes, that of the other
    becomes its stderr. With `burst`, the process ends when the queues are empty, and notes that it
    is retired.
    """

    address: Address
    queues: tuple[str, ...]
    prefix: str
    settings: Settings
    notes: Any
    max_tasks: int | None
    stderr: Any = None
    initializer: Callable[..., object] | None = None
    initargs: tuple[Any, ...] = ()
    same_main: bool = False
    """Whether the workers have the `__main__` of the client, who started them."""
    burst: bool = False
    name: str = ""
    """What operators call the daemon; empty for the local workers of an executor."""

    @property
    def local(self) -> bool:
        """Whether the worker is a process of the program whose tasks it runs."""
        return not self.name

    @property
    def queue(self) -> str:
        """The only queue, or the first."""
        return self.queues[0]

    def channel(self, queue: str | None = None) -> Channel:
        """A handle to one of the queues: the first, unless another is named."""
        name = self.queue if queue is None else queue
        channel = Channel(name, self.address, tag=name, prefix=self.prefix, settings=self.settings)
        if self.name:
            # A daemon has reached its server once; its workers wait for one that is away.
            channel.handle.ride_out()
        return channel

    def initialize(self) -> bool:
        """Call the initializer, if there is one, and end the process if that fails. Returns whether
        SIGTERM came meanwhile: it runs to its end, for it may do more than to prepare for tasks."""
        asked_to_stop: list[int] = []
        if self.initializer is not None:
            signal.signal(signal.SIGTERM, lambda number, _: asked_to_stop.append(number))
            try:
                self.initializer(*self.initargs)
            except BaseException:
                logging.getLogger("concurrent.futures").critical(
                    "Exception in initializer:", exc_info=True
                )
                sys.exit(BROKEN_EXIT)
        return bool(asked_to_stop)
