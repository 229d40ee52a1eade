"""Records over a channel on a real server, where something fails halfway: nothing is forgotten."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pressure import blobs
from pressure.address import Address
from pressure.channel import Channel, Consumer, Delivery, Record
from pressure.channel.producing import Producer
from pressure.core import Settings
from pressure.errors import ServerUnavailableError

LARGE = bytes(100_000)


@pytest.fixture
def channel(url: str, queue_name: str) -> Iterator[Channel]:
    made = Channel(queue_name, Address.of(url), tag=queue_name, prefix="p", settings=Settings())
    made.ensure()
    yield made
    made.delete()
    made.disconnect()


@pytest.fixture
def consumer(channel: Channel) -> Iterator[Consumer]:
    """It is registered, and the queue is empty."""
    made = channel.consumer()
    assert made.exchange((), 1, 0.0) == []
    yield made
    made.close()


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes a call while the server is away for all downloads."""

    def away(*_: object) -> Any:
        raise ServerUnavailableError("it is away")

    def call_in_vain(call: Callable[..., object], *args: object, **options: Any) -> None:
        with monkeypatch.context() as patches, pytest.raises(ServerUnavailableError):
            patches.setattr(blobs, "download", away)
            call(*args, **options)

    return call_in_vain


def claim(consumer: Consumer, **options: Any) -> list[Delivery]:
    return consumer.exchange((), 10, 0.0, **options)


@pytest.mark.parametrize(
    ("queued", "count", "claimed"), [(9, 3, 3), (5, 16, 2), (1, 16, 1), (5, 17, 5)]
)
def test_who_claims_few_gets_a_share_of_the_last(
    channel: Channel, consumer: Consumer, queued: int, count: int, claimed: int
) -> None:
    """They are long tasks, which others could run meanwhile."""
    other = channel.consumer()
    assert other.exchange((), 1, 0.0) == []
    producer = Producer(channel)
    assert producer.send([Record(os.urandom(16), b"") for _ in range(queued)]) == queued
    assert len(consumer.exchange((), count, 0.0)) == claimed
    producer.close()
    other.close()


def test_what_a_producer_sends_with_one_call_has_one_number(channel: Channel) -> None:
    """All of it is taken for lost if the server knows only of an earlier number."""
    producer = Producer(channel)
    records = [Record(os.urandom(16), bytes(30_000)) for _ in range(50)]
    for number, accepted in ((1, 34), (2, 16)):
        assert producer.send(records) == accepted
        assert producer.number == number
        del records[:accepted]
    producer.close()


def test_what_an_exchange_has_brought_in_vain_comes_again(
    channel: Channel, consumer: Consumer, fail: Callable[..., None]
) -> None:
    bodies = [b"small", LARGE, b"last"]
    channel.send([Record(os.urandom(16), body) for body in bodies])
    fail(claim, consumer)
    assert [bytes(delivery.body) for delivery in claim(consumer)] == bodies


def test_what_was_waited_for_in_vain_comes_again(
    channel: Channel, consumer: Consumer, fail: Callable[..., None]
) -> None:
    channel.send([Record(os.urandom(16), LARGE)])
    fail(consumer.next)
    assert consumer.next() is None
    assert [bytes(delivery.body) for delivery in claim(consumer)] == [LARGE]


def test_what_could_not_be_opened_comes_again(
    channel: Channel, consumer: Consumer, fail: Callable[..., None]
) -> None:
    channel.send([Record(os.urandom(16), LARGE)])
    waiting = consumer.waiting()
    assert waiting is not None
    item = channel.handle.run(waiting, consumer._session)
    fail(consumer.opened, item)
    assert [bytes(delivery.body) for delivery in claim(consumer)] == [LARGE]


def test_an_acknowledgement_that_is_said_again_is_not_about_a_later_item(
    channel: Channel, consumer: Consumer, fail: Callable[..., None]
) -> None:
    """A notice of a task and its answer share an id."""
    id = os.urandom(16)
    channel.send([Record(id, b"notice")])
    assert len(claim(consumer)) == 1
    channel.send([Record(id, LARGE)])
    fail(claim, consumer, done=[id])
    (answer,) = claim(consumer, done=[id])
    assert answer.body == LARGE
    assert consumer.holds(id)


def test_nothing_is_known_of_what_was_given_back(channel: Channel, consumer: Consumer) -> None:
    channel.send([Record(os.urandom(16), b"body")])
    (delivery,) = claim(consumer)
    consumer.give_back([delivery.id])
    assert not consumer._session.leased
    assert not consumer._session.marks
