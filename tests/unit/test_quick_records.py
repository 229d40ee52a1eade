"""The quick ways to make and to open an item agree with the thorough ones."""

from __future__ import annotations

import pytest

from pressure import envelope
from pressure.codec import Codec

ID, CLIENT, BODY = b"i" * 16, b"c" * 16, b"the body"


def codec(*keys: bytes, context: bytes = b"here") -> Codec:
    return Codec(client_id=CLIENT, max_deliveries=0, keys=keys, context=context)


@pytest.mark.parametrize("keys", [(), (b"key",), (b"new", b"old")])
@pytest.mark.parametrize("most", [0, 3, 65_535])
def test_both_ways_make_and_open_the_same(keys: tuple[bytes, ...], most: int) -> None:
    one = codec(*keys)
    item = one.pack_record(ID, BODY, most)
    assert item == one.pack(ID, BODY, max_deliveries=most)
    one.check(one.parse(item))
    delivered = item[:4] + b"\0\2" + (77).to_bytes(8, "big") + item[14:]
    assert one.open_record(delivered) == (most, 2, 77, ID, CLIENT, BODY)


def test_what_is_not_sound_is_left_to_the_thorough_way() -> None:
    one = codec(b"key")
    item = one.pack_record(ID, BODY, 3)
    for at in (0, 1, 2, 3, 14, 30, 46, 50, len(item) - 1):
        changed = bytearray(item)
        changed[at] ^= 1
        assert one.open_record(bytes(changed)) is None
    assert one.open_record(item[:-1]) is None
    assert one.open_record(item[: envelope.HEADER_BYTES - 1]) is None
    assert one.open_record(b"") is None
    assert one.open_record(codec().pack_record(ID, BODY, 3)) is None
    assert one.open_record(codec(b"other").pack_record(ID, BODY, 3)) is None
    assert one.open_record(codec(b"key", context=b"there").pack_record(ID, BODY, 3)) is None
    assert codec().open_record(item) is None
    assert codec().open_record(codec().pack_record(ID, b"", 3)[:-1]) is None


def test_an_older_key_is_left_to_the_thorough_way() -> None:
    item = codec(b"old").pack_record(ID, BODY, 3)
    one = codec(b"new", b"old")
    assert one.open_record(item) is None
    one.check(one.parse(item))
