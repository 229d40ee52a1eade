"""How long a worker keeps an answer for which its server has no memory."""

from __future__ import annotations

from typing import Any

import pytest

from pressure.channel import Delivery, Sealed, Verdict
from pressure.content import Content
from pressure.errors import ItemTooLargeError, PressureError
from pressure.executor.records import Kind, unpack_answer
from pressure.executor.worker import sealing
from pressure.retry import Oom
from tests.redis.stepping import Clock

DELIVERY = Delivery(b"i" * 16, b"c" * 16, b"", 0, 0, 0)
OUTCOME = Verdict(DELIVERY, Content([b"answer"]))


class Server:
    """A channel whose server refuses so many answers."""

    def __init__(self, refusals: float, error: PressureError) -> None:
        self.asked, self._refusals, self._error = 0, refusals, error

    def seal(self, client_id: bytes, id: bytes, body: Any) -> Sealed:
        assert (client_id, id, body) == (*DELIVERY[1::-1], OUTCOME.answer)
        self.asked += 1
        if self.asked <= self._refusals:
            raise self._error
        return Sealed(b"item")


class Waits(Clock):
    def sleep(self, seconds: float) -> None:
        assert seconds <= 0.5, "it looks whether it is to stop"
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Waits:
    clock = Waits()
    monkeypatch.setattr(sealing, "time", clock)
    monkeypatch.setattr("pressure.retry.time", clock)
    monkeypatch.setattr("pressure.executor.worker.verdicts.time", clock)
    return clock


def seal(server: Server, stops_at: float = float("inf"), clock: Waits | None = None) -> Verdict:
    stopping = lambda: clock is not None and clock.now >= stops_at  # noqa: E731
    return sealing.seal(server, OUTCOME, b"worker", 1.0, stopping=stopping)  # type: ignore[arg-type]


def error_of(verdict: Verdict) -> bytes:
    assert isinstance(verdict.answer, bytes)
    answer = unpack_answer(verdict.answer)
    assert answer.kind == Kind.BROKEN
    return bytes(answer.payload)


def test_it_is_tried_again(clock: Waits) -> None:
    server, began = Server(5, Oom("maxmemory")), clock.now
    assert seal(server).answer == Sealed(b"item")
    assert server.asked == 6
    assert 0.1 < clock.now - began < 1.0


def test_patience_has_an_end(clock: Waits) -> None:
    server, began = Server(float("inf"), Oom("maxmemory")), clock.now
    assert b"maxmemory" in error_of(seal(server))
    assert clock.now - began == pytest.approx(sealing.PATIENCE)
    assert server.asked < 50


def test_who_is_told_to_stop_has_less(clock: Waits) -> None:
    server, began = Server(float("inf"), Oom("maxmemory")), clock.now
    assert b"maxmemory" in error_of(seal(server, began + 1.0, clock))
    assert clock.now - began <= 1.0 + 0.5 + sealing.HURRIED


def test_what_is_too_large_stays_so(clock: Waits) -> None:
    server = Server(float("inf"), ItemTooLargeError("q", 10, 5))
    assert b"max_item_bytes" in error_of(seal(server))
    assert server.asked == 1
