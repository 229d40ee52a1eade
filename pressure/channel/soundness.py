"""Which keys of a queue hold what no queue has there: something else has written to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pressure.commands import Command
from pressure.keys import Keys

__all__ = ["faults"]

Ask = Callable[[Command], Any]

_NUMBERS = (
    *("bound", "produced_messages", "produced_bytes", "consumed_messages", "consumed_bytes"),
    *("orphans", "paused"),
)
_TYPES: dict[str, Sequence[str]] = {
    "string": (*_NUMBERS, "producer", "consumer", "generation", "joiners"),
    "list": (
        *("base", "producer_free", "consumer_free", "not_full", "closed", "room", "joined"),
        *("dead_letters", "resumed"),
    ),
    "hash": (
        *("producers", "departures", "fetched", "prefetched", "deliveries", "waiters", "blobs"),
        *("store", "workers"),
    ),
    "zset": ("leases", "departed", "uploads", "beats"),
}


def faults(ask: Ask, keys: Keys) -> list[str]:
    """A sentence for each such key. It only looks; `ask` sends a command."""
    found = []
    for kind, names in _TYPES.items():
        for name in names:
            key: bytes = getattr(keys, name)
            shown = key.decode(errors="backslashreplace")
            there = bytes(ask(Command(("TYPE", key)))).decode()
            if there not in (kind, "none"):
                found.append(f"the key {shown} holds a {there} in place of a {kind}")
            elif there == "string" and name in _NUMBERS:
                value = ask(Command(("GET", key)))
                if value is not None and not _is_whole(value):
                    found.append(f"the key {shown} holds no number")
    return found


def _is_whole(value: bytes) -> bool:
    """As the server reads numbers that it counts with."""
    digits = value.removeprefix(b"-")
    return digits.isdigit() and len(digits) < 19
