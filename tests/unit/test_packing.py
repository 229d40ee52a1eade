"""Commands as bytes: with words of every kind, and without asking a number for its text."""

from __future__ import annotations

import hiredis
import pytest

from pressure import packing
from pressure.commands import Command


def test_words_of_every_kind() -> None:
    words = ("SET", b"k\r\n", 12, -1, 0.25, memoryview(b"view"), "é")
    parts = [b"SET", b"k\r\n", b"12", b"-1", b"0.25", b"view", "é".encode()]
    expected = b"*%d\r\n" % len(parts)
    expected += b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
    assert packing.packed(words) == expected
    pieces = packing.packed_in_pieces(Command((b"HSET", b"key", b"value")))
    assert b"".join(pieces) == packing.packed((b"HSET", b"key", b"value"))


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
