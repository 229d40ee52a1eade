"""Records over a channel on a real server, where something fails halfway: nothing is forgotten."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import redis

from pressure import blobs, flows
from pressure.address import Address
from pressure.channel import Channel, Consumer, Delivery, Record, Verdict
from pressure.channel.producing import Producer
from pressure.errors import ServerOutOfMemoryError, ServerUnavailableError
from pressure.settings import Settings

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


def send(channel: Channel, records: Sequence[Record]) -> None:
    producer = Producer(channel)
    assert producer.send(records) == len(records)
    producer.close()


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
    records = [Record(os.urandom(16), bytes(16_000)) for _ in range(100)]
    for number, accepted in ((1, 65), (2, 35)):
        assert producer.send(records) == accepted
        assert producer.number == number
        del records[:accepted]
    producer.close()


def test_what_an_exchange_has_brought_in_vain_comes_again(
    channel: Channel, consumer: Consumer, fail: Callable[..., None]
) -> None:
    bodies = [b"small", LARGE, b"last"]
    send(channel, [Record(os.urandom(16), body) for body in bodies])
    fail(claim, consumer)
    assert [bytes(delivery.body) for delivery in claim(consumer)] == bodies


def test_what_was_waited_for_in_vain_comes_again(
    channel: Channel, consumer: Consumer, fail: Callable[..., None]
) -> None:
    send(channel, [Record(os.urandom(16), LARGE)])
    fail(consumer.next)
    assert consumer.next() is None
    assert [bytes(delivery.body) for delivery in claim(consumer)] == [LARGE]


def test_what_could_not_be_opened_comes_again(
    channel: Channel, consumer: Consumer, fail: Callable[..., None]
) -> None:
    send(channel, [Record(os.urandom(16), LARGE)])
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
    send(channel, [Record(id, b"notice")])
    assert len(claim(consumer)) == 1
    send(channel, [Record(id, LARGE)])
    fail(claim, consumer, done=[id])
    (answer,) = claim(consumer, done=[id])
    assert answer.body == LARGE
    assert consumer.holds(id)


def test_nothing_is_known_of_what_was_given_back(channel: Channel, consumer: Consumer) -> None:
    send(channel, [Record(os.urandom(16), b"body")])
    (delivery,) = claim(consumer)
    consumer.give_back([delivery.id])
    assert not consumer._session.leased
    assert not consumer._session.marks


# What lies beside the queue


def kept(channel: Channel, client: redis.Redis) -> tuple[int, int]:
    """How many parts lie beside the queue, and how many uploads count as under way."""
    keys = channel.core.protocol.keys
    blobs: Any = client.hlen(keys.blobs)
    uploads: Any = client.zcard(keys.uploads)
    return blobs, uploads


@pytest.mark.parametrize(
    ("size", "alone", "among"), [(16_000, 0, 0), (40_000, 0, 3), (70_000, 1, 3)]
)
def test_what_is_larger_lies_beside_the_queue_sooner_among_others(
    channel: Channel, client: redis.Redis, size: int, alone: int, among: int
) -> None:
    producer = Producer(channel)
    assert producer.send([Record(os.urandom(16), bytes(size))]) == 1
    assert kept(channel, client) == (alone, 0)
    assert producer.send([Record(os.urandom(16), bytes(size)) for _ in range(3)]) == 3
    assert kept(channel, client) == (alone + among, 0)
    producer.close()


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The ids of what was uploaded."""
    upload, seen = blobs.upload, list[bytes]()

    def noting(core: Any, message_id: bytes, *more: Any) -> Any:
        seen.append(message_id)
        return upload(core, message_id, *more)

    monkeypatch.setattr(blobs, "upload", noting)
    return seen


def bounded(channel: Channel, client: redis.Redis, bound: int) -> Producer:
    client.set(channel.core.protocol.keys.bound, bound)
    channel.handle.call(flows.describe(channel.core))
    return Producer(channel)


def test_what_was_refused_is_not_uploaded_again(
    channel: Channel, consumer: Consumer, client: redis.Redis, uploads: list[bytes]
) -> None:
    producer = bounded(channel, client, 4)
    records = [Record(os.urandom(16), LARGE + bytes([n])) for n in range(10)]
    rest, got = records, list[Delivery]()
    while rest:
        accepted = producer.send(rest)
        assert 1 <= accepted <= 4
        rest = rest[accepted:]
        claimed = claim(consumer)
        got += claimed
        consumer.exchange((), 0, 0.0, done=[one.id for one in claimed])
    assert [(one.id, bytes(one.body)) for one in got] == [(id, body) for id, body, _ in records]
    assert uploads == [record.id for record in records]
    assert kept(channel, client) == (0, 0)
    producer.close()


def test_what_was_refused_and_is_not_sent_any_more_is_removed(
    channel: Channel, client: redis.Redis
) -> None:
    producer = bounded(channel, client, 1)
    records = [Record(os.urandom(16), LARGE) for _ in range(4)]
    assert producer.send(records[:3]) == 1
    assert kept(channel, client) == (3, 2)
    channel.withdraw([records[0].id])
    assert producer.send([records[2], records[3]]) == 1
    assert kept(channel, client) == (2, 1)
    producer.close()
    assert kept(channel, client) == (1, 0)


def test_what_may_be_delivered_once_says_anew_where_it_is_put(
    channel: Channel, consumer: Consumer, client: redis.Redis
) -> None:
    producer = bounded(channel, client, 1)
    records = [Record(os.urandom(16), LARGE, 1) for _ in range(2)]
    assert producer.send(records) == 1
    consumer.exchange((), 0, 0.0, done=[one.id for one in claim(consumer)])
    producer._session.link.server = b"elsewher"
    assert producer.send(records[1:]) == 1
    assert kept(channel, client) == (1, 0)
    (delivery,) = claim(consumer)
    assert delivery.is_elsewhere(b"here now")
    assert not delivery.is_elsewhere(b"elsewher")
    producer.close()


def test_what_there_is_no_memory_for_is_removed(
    channel: Channel, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise ServerOutOfMemoryError("it is full")

    producer = Producer(channel)
    records = [Record(os.urandom(16), LARGE) for _ in range(3)]
    with monkeypatch.context() as patches, pytest.raises(ServerOutOfMemoryError):
        patches.setattr(flows, "put", refuse)
        producer.send(records)
    assert kept(channel, client) == (0, 0)
    assert producer.send(records) == 3
    producer.close()


def test_another_servers_uploads_are_made_again(
    channel: Channel, consumer: Consumer, client: redis.Redis
) -> None:
    producer = bounded(channel, client, 1)
    records = [Record(os.urandom(16), LARGE) for _ in range(2)]
    assert producer.send(records) == 1
    consumer.exchange((), 0, 0.0, done=[one.id for one in claim(consumer)])
    # As a replica that took over, and had not heard of that.
    client.delete(channel.core.protocol.keys.blobs)
    producer._session.link.run = "another"
    assert producer.send(records[1:]) == 1
    (delivery,) = claim(consumer)
    assert not delivery.error
    assert bytes(delivery.body) == LARGE
    producer.close()


def test_answers_that_there_is_no_memory_for_beside_the_queue(
    channel: Channel, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They travel in the list: the step that records them also frees what the tasks take up."""

    def refuse(*_: Any) -> Any:
        raise ServerOutOfMemoryError("it is full")

    reply = channel.reply_channel()
    reply.ensure()
    producer = Producer(channel)
    assert producer.send([Record(os.urandom(16), b"") for _ in range(2)]) == 2
    deliveries = claim(consumer)
    with monkeypatch.context() as patches:
        patches.setattr(blobs, "upload", refuse)
        consumer.exchange([Verdict(one, bytes(20_000)) for one in deliveries], 0, 0.0)
    listener = reply.consumer()
    assert [len(answer.body) for answer in claim(listener)] == [20_000] * 2
    producer.close()
    listener.close()
    reply.delete()
    reply.disconnect()
