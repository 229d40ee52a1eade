"""The layouts of section 9 of `protocol.md`."""

from __future__ import annotations

import re

import pytest

from pressure.channel import Delivery
from pressure.executor.client.answers import OTHER_KEY, read
from pressure.executor.records import (
    CAPTURE,
    LIMITED,
    OUTPUT,
    STORED,
    Kind,
    join_answers,
    pack_answer,
    pack_task,
    read_head,
    split_answers,
    unpack_answer,
    unpack_task,
)
from tests.executor.crews import ROOT

SECTION = (ROOT / "protocol.md").read_text("utf-8").split("## 9. Executor\n")[1].split("\n## 10")[0]


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("limits", [None, (1.5, 2.0)])
@pytest.mark.parametrize("capture", [False, True])
def test_tasks(stored: bool, limits: tuple[float, float] | None, capture: bool) -> None:
    record = pack_task(b"function", b"arguments", stored=stored, limits=limits, capture=capture)
    assert isinstance(record, bytes)
    flags = stored * STORED | (limits is not None) * LIMITED | capture * CAPTURE
    for body in (record, memoryview(record)):
        assert unpack_task(body) == (flags, b"function", b"arguments", limits)
    for end in range(19 if limits else 3):
        with pytest.raises(ValueError):
            unpack_task(record[:end])


@pytest.mark.parametrize("output", [b"", b"said"])
@pytest.mark.parametrize("kind", list(Kind))
def test_answers(kind: Kind, output: bytes) -> None:
    record = pack_answer(
        kind, b"payload", worker=b"h:1", deliveries=2, started=1.5, finished=2.5, output=output
    )
    assert isinstance(record, bytes)
    for body in (record, memoryview(record)):
        answer = unpack_answer(body)
        assert (answer.kind, answer.payload, answer.output) == (kind, b"payload", output)
        assert read_head(answer.head) == (2, 1.5, 2.5, answer.worker) == (2, 1.5, 2.5, b"h:1")
    for end in range(20):
        with pytest.raises(ValueError):
            unpack_answer(record[:end])
    with pytest.raises(ValueError):
        unpack_answer(bytes([OUTPUT]) + record[1:23])


def test_several_answers() -> None:
    answers = [(b"%016d" % number, b"record" * number) for number in range(3)]
    joined = join_answers(answers)
    assert joined[0] == Kind.SEVERAL
    for body in (joined, memoryview(joined)):
        assert split_answers(body) == answers
    for end in range(1, len(joined)):
        with pytest.raises(ValueError):
            split_answers(joined[:end])
    with pytest.raises(ValueError):
        split_answers(joined + b"x")
    assert split_answers(b"") is None
    assert split_answers(bytes([Kind.RESULT]) + joined[1:]) is None


def test_one_of_several_answers_cannot_be_read() -> None:
    good = pack_answer(
        Kind.RESULT, b"payload", worker=b"h:1", deliveries=0, started=1.5, finished=2.5
    )
    assert isinstance(good, bytes)
    ids = [b"%016d" % number for number in range(4)]
    records = [good, b"\0bad", good + b"too long", good]
    body = join_answers(list(zip(ids, records, strict=True)))
    delivery = Delivery(ids[0], bytes(16), body, 0, 0, 0)
    read_all = read(delivery, len(good))
    assert [id for id, _ in read_all] == ids
    first, bad, long, last = [answer for _, answer in read_all]
    assert first == last == unpack_answer(good)
    assert bad == "it is no answer record"
    assert isinstance(long, str) and "max_item_bytes" in long


def test_all_hear_of_an_item_that_is_refused() -> None:
    ids = [b"%016d" % number for number in range(3)]
    body = join_answers([(id, b"record") for id in ids])
    delivery = Delivery(ids[0], bytes(16), b"", 0, 0, 0, "refused: why", True, False, body)
    said = f"refused: why; {OTHER_KEY}"
    assert read(delivery, 100) == [(id, said) for id in ids]
    for unreadable in (b"", body[:5], body[:-1]):
        delivery = delivery._replace(unchecked=unreadable)
        assert read(delivery, 100) == [(ids[0], said)]


def test_the_document_lists_kinds_and_flags() -> None:
    listed = re.findall(r"^\| (\d+) \| ([A-Z]+) \|", SECTION, re.MULTILINE)
    assert [(int(number), name) for number, name in listed] == [(k.value, k.name) for k in Kind]
    for flag in (STORED, LIMITED, CAPTURE, OUTPUT):
        assert f"`{flag:#04x}`" in SECTION
