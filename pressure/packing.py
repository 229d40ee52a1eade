"""A command as it goes over the wire."""

from __future__ import annotations

from typing import Any

import hiredis

from pressure.commands import Command, Word

__all__ = ["packed", "packed_in_pieces", "quickly_packed"]

_TEXT = frozenset((bytes, str))


def packed(words: tuple[Word, ...]) -> bytes:
    """The bytes of a command of these words."""
    # hiredis asks a number for its text. If a signal's handler raises in that moment, as that of
    # Ctrl-C does, the process crashes: so it gets no numbers. And it takes no bytearray.
    plain: tuple[Any, ...] = words
    if not _TEXT.issuperset(map(type, words)):
        plain = tuple(
            [
                word if type(word) in _TEXT else b"%d" % word if type(word) is int else _plain(word)
                for word in words
            ]
        )
    command: bytes = hiredis.pack_command(plain)
    return command


def quickly_packed(command: Command) -> bytes:
    """The same for a command."""
    words, beginning = command.words, command.beginning
    if beginning is None:
        return packed(words)
    start = beginning.packed
    if not start:
        start = beginning.packed = _bare(beginning.words)
    return b"*%d\r\n%b%b" % (len(words), start, _bare(words[len(beginning.words) :]))


def _bare(words: tuple[Word, ...]) -> bytes:
    """The bytes of some words of a command, without those that say how many there are."""
    command = packed(words)
    return command[command.index(b"\n") + 1 :]


def packed_in_pieces(command: Command) -> list[Any]:
    """The same in pieces. Its last word is not copied, however large it is."""
    words: Any = command.words
    head = [b"*%d\r\n" % len(words)]
    head += [b"$%d\r\n%b\r\n" % (len(word), word) for word in words[:-1]]
    head.append(b"$%d\r\n" % len(words[-1]))
    return [b"".join(head), words[-1], b"\r\n"]


def _plain(word: Word | bytearray) -> object:
    if isinstance(word, bytearray):
        return bytes(word)
    if isinstance(word, int):
        return b"%d" % word
    # A subclass, as NumPy's, may write itself otherwise.
    return float.__repr__(word).encode() if isinstance(word, float) else word
