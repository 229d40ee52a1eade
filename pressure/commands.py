"""What travels between a client and the server: commands, statuses, acknowledgements, outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from pressure.keys import Keys
from pressure.scripts import Script

__all__ = ["Acks", "Beginning", "Command", "Outcome", "Status", "Word", "outcome_words"]

_NO_REPLY = b"\0\0"

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


class Beginning:
    """The words with which many a command begins. Their bytes are `packed` once for all of them."""

    __slots__ = ("packed", "words")

    def __init__(self, words: tuple[Word, ...]) -> None:
        self.words = words
        self.packed = b""


class Command(NamedTuple):
    """What to send. `repeatable`: sending it twice does what sending it once does."""

    words: tuple[Word, ...]
    script: Script | None = None
    repeatable: bool = True
    beginning: Beginning | None = None


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


def outcome_words(
    outcomes: Sequence[Outcome], held: Sequence[bytes]
) -> tuple[list[Word], list[bytes]]:
    """What `exchange` is told of outcomes, and the keys of the reply queues that they are for.

    `held` are the tags of all that the consumer holds, if the outcomes are of just these and bury
    nothing; if there are no outcomes then, all these are done without an answer.
    """
    pairs: dict[bytes, bytes] = {}
    last, number = None, _NO_REPLY
    reply_keys: list[bytes] = []
    numbers: list[bytes] = []
    tags: list[bytes] = []
    values: list[bytes] = []
    reasons: list[int | str] = []
    for index, (tag, reply, value, reason) in enumerate(outcomes, 1):
        if reply is not last:
            # Mostly there is one for all.
            last = reply
            number = _NO_REPLY if reply is None else pairs.get(reply.base, b"")
            if reply is not None and not number:
                number = pairs[reply.base] = (len(pairs) + 1).to_bytes(2, "big")
                reply_keys += (reply.base, reply.bound, reply.blobs, reply.uploads)
        numbers.append(number)
        tags.append(tag)
        values.append(value)
        if reason:
            reasons += (index, reason)
    if not held:
        return [len(outcomes), b"".join(numbers), *tags, *values, *reasons], reply_keys
    replies = number if numbers.count(number) == len(numbers) else b"".join(numbers)
    answers = () if replies == _NO_REPLY else values
    return [-len(held), replies, held[0], held[-1], *answers], reply_keys
