"""Which queues of a daemon can't be served, as its workers note it: said once for all of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pressure.executor.supervision.member import Member

__all__ = ["Troubles"]

log = logging.getLogger("pressure.worker")


class Troubles:
    """Those of the daemon that serves these queues."""

    def __init__(self, queues: Sequence[str]) -> None:
        self._queues = queues
        self._known: dict[int, str] = {}

    def look(self, members: Sequence[Member]) -> list[str]:
        """What is wrong, a sentence for each queue. What is new is logged, and what is over."""
        # What is just being started has not met any.
        ready = [member.notes for member in members if member.notes.read().ready]
        if not ready:
            return list(self._known.values())
        found = {}
        for number, queue in enumerate(self._queues):
            why = next(filter(None, (notes.read_trouble(number) for notes in ready)), "")
            if why:
                found[number] = f"queue {queue!r} can't be served: {why}"
            if why and number not in self._known:
                log.warning(
                    "%s; it is tried again now and then; something else may have written to its "
                    "keys: `pressure doctor` names them",
                    found[number],
                )
            elif number in self._known and not why:
                log.warning("queue %r is served again", queue)
        self._known = found
        return list(found.values())
