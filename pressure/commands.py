"""What travels between a client and the server: commands, statuses, acknowledgements, outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from pressure.keys import Keys
from pressure.scripts import Script

__all__ = ["Acks", "Command", "Outcome", "Status", "Word"]

Word = bytes | memoryview | str | int | float


class Status(IntEnum):
    """The first element of every script's reply."""

    OK = 0
    ABSENT = -1
    CLOSED = -2
    FULL = -3
    EMPTY = -4
    IN_USE = -5
    LOST = -6
    EXISTS = -7
    AGAIN = -8


class Command(NamedTuple):
    """What to send. `repeatable`: sending it twice does what sending it once does."""

    words: tuple[Word, ...]
    script: Script | None = None
    repeatable: bool = True


class Acks(NamedTuple):
    """What a consumer is done with, in the order of taking. `kinds` has a letter for each tag: `g`
    for an item that get() returned, `a` for one that was also fetched ahead, `f` for a leased one
    that is finished."""

    kinds: str = ""
    tags: Sequence[bytes] = ()


class Outcome(NamedTuple):
    """What became of a leased item: the value for its reply queue (if any), and the reason why it
    goes to the dead letters (if it does)."""

    tag: bytes
    reply: Keys | None
    value: bytes
    dead_letter: str = ""
