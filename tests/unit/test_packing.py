"""Commands as bytes: with words of every kind, and without asking a number for its text."""

from __future__ import annotations

import hiredis
import pytest

from pressure import packing
from pressure.commands import Acks, Beginning, Command, Word
from pressure.keys import Keys
from pressure.protocol import Protocol


def test_words_of_every_kind() -> None:
    words = ("SET", b"k\r\n", 12, -1, 0.25, memoryview(b"view"), "é")
    parts = [b"SET", b"k\r\n", b"12", b"-1", b"0.25", b"view", "é".encode()]
    expected = b"*%d\r\n" % len(parts)
    expected += b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
    assert packing.packed(words) == expected
    pieces = packing.packed_in_pieces(Command((b"HSET", b"key", b"value")))
    assert b"".join(pieces) == packing.packed((b"HSET", b"key", b"value"))


@pytest.mark.parametrize("args", [(), (b"one", 2, "three", b"x" * 100_000)])
def test_a_beginning_is_packed_once(args: tuple[Word, ...]) -> None:
    beginning = Beginning(("EVALSHA", "sha", 1, b"key"))
    words = (*beginning.words, *args)
    command = Command(words, beginning=beginning)
    assert packing.quickly_packed(command) == packing.packed(words)
    start = beginning.packed
    assert start == b"$7\r\nEVALSHA\r\n$3\r\nsha\r\n$1\r\n1\r\n$3\r\nkey\r\n"
    assert packing.quickly_packed(command) == packing.packed(words)
    assert beginning.packed is start


def test_only_what_is_the_same_again_has_a_beginning() -> None:
    protocol = Protocol(Keys("__pressure__", "q"), raw=False)
    beginnings = [protocol.ack(b"%d" % number, Acks()).beginning for number in (1, 2, 1)]
    assert beginnings[0] is beginnings[2] is not None
    assert beginnings[0] is not beginnings[1] is not None
    assert protocol.unfinished(0, [b"%d" % number for number in range(9)]).beginning is None


class Written(float):
    """As NumPy's `float64`, which is a float."""

    def __repr__(self) -> str:
        return f"Written({float(self)})"


def test_a_float_of_another_kind_is_written_as_a_number() -> None:
    assert packing.packed(("BLPOP", "k", Written(0.25))) == packing.packed(("BLPOP", "k", 0.25))


def test_hiredis_gets_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """It crashes the process if a signal's handler raises while it asks one for its text."""
    kinds: set[type] = set()

    def pack(words: tuple[object, ...]) -> bytes:
        kinds.update(map(type, words))
        return b""

    monkeypatch.setattr(hiredis, "pack_command", pack)
    packing.packed(("EVALSHA", b"x", 3, 2.5, True))
    assert kinds == {str, bytes}
