"""The layouts of section 9 of `protocol.md`."""

from __future__ import annotations

import re

import pytest

from pressure.executor.records import (
    CAPTURE,
    LIMITED,
    OUTPUT,
    STORED,
    Kind,
    pack_answer,
    pack_task,
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
        assert unpack_answer(body) == (kind, 2, 1.5, 2.5, b"h:1", b"payload", output)
    for end in range(20):
        with pytest.raises(ValueError):
            unpack_answer(record[:end])
    with pytest.raises(ValueError):
        unpack_answer(bytes([OUTPUT]) + record[1:23])


def test_the_document_lists_kinds_and_flags() -> None:
    listed = re.findall(r"^\| (\d+) \| ([A-Z]+) \|", SECTION, re.MULTILINE)
    assert [(int(number), name) for number, name in listed] == [(k.value, k.name) for k in Kind]
    for flag in (STORED, LIMITED, CAPTURE, OUTPUT):
        assert f"`{flag:#04x}`" in SECTION
