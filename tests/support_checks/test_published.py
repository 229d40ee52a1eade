from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import redis

from tests.support.fixtures import keys_left
from tests.support.published import (
    STEPS,
    AlreadyExists,
    Closed,
    Crash,
    DoesNotExist,
    Empty,
    Full,
    InUse,
    PublishedClient,
    crash_at,
)

JOIN_TIMEOUT = 20.0
MakeClient = Callable[..., PublishedClient]


@pytest.fixture
def make_client(queue_name: str, url: str) -> Iterator[MakeClient]:
    made: list[PublishedClient] = []

    def make(**options: object) -> PublishedClient:
        made.append(PublishedClient(queue_name, url, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.disconnect()


def in_thread(run: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def join(thread: threading.Thread) -> None:
    thread.join(JOIN_TIMEOUT)
    assert not thread.is_alive()


@pytest.mark.leaves_no_keys
def test_values_pass_in_order_through_a_bound_of_five(
    make_client: MakeClient, client: redis.Redis, queue_name: str
) -> None:
    producer, consumer = make_client(), make_client()
    values = [b"value %d" % number for number in range(200)]
    longest = 0

    def produce() -> None:
        for value in values:
            producer.put(value)
        producer.close()

    producer.create(5)
    thread = in_thread(produce)
    received = []
    for value in consumer:
        received.append(value)
        longest = max(longest, consumer.length)
    join(thread)

    assert received == values
    # One too many now and then, as published: both sides may see room for the same value.
    assert 0 < longest <= 6
    base = f"__pressure__:{queue_name}"
    assert client.get(f"{base}:stats:produced_messages") == b"200"
    assert client.get(f"{base}:stats:consumed_bytes") == str(len(b"".join(values))).encode()
    consumer.delete()
    assert keys_left(client, queue_name) == []


def test_a_bound_of_five_has_room_for_five(make_client: MakeClient) -> None:
    queue = make_client()
    queue.create(5)
    for _ in range(5):
        queue.put_nowait(b"x")

    with pytest.raises(Full):
        queue.put_nowait(b"x")

    queue.get()
    queue.put_nowait(b"x")
    assert queue.length == 5


def test_the_keys_of_a_new_queue_are_the_published_ones(
    make_client: MakeClient, client: redis.Redis, queue_name: str
) -> None:
    queue = make_client()

    queue.create(5)

    base = f"__pressure__:{queue_name}"
    assert keys_left(client, queue_name) == [
        f"{base}:bound",
        f"{base}:consumer_free",
        f"{base}:not_full",
        f"{base}:producer_free",
    ]
    assert client.get(f"{base}:bound") == b"5"
    queue.put(b"x")
    assert client.lrange(base, 0, -1) == [b"x"]
    assert client.get(f"{base}:producer") == queue.client_id.encode()


def test_refusals_are_named(make_client: MakeClient) -> None:
    queue = make_client()
    for operation in (lambda: queue.put(b""), queue.get, queue.close, queue.delete):
        with pytest.raises(DoesNotExist):
            operation()
    before = queue.exists
    queue.create(1)
    assert (before, queue.exists) == (False, True)
    with pytest.raises(AlreadyExists):
        queue.create(2)
    for timeout in (0, 0.01):
        with pytest.raises(Empty):
            queue.get(timeout)
    queue.put_nowait(b"1")
    for timeout in (0, 0.01):
        with pytest.raises(Full):
            queue.put(b"2", timeout)
    queue.put(b"3", overfill=True)
    assert queue.length == 2
    before = queue.closed
    queue.close()
    assert (before, queue.closed) == (False, True)
    for operation in (lambda: queue.put(b"4"), queue.close):
        with pytest.raises(Closed):
            operation()
    assert list(queue) == [b"1", b"3"]
    with pytest.raises(Closed):
        queue.get_nowait()


def test_a_blocked_get_wakes_for_a_value_and_for_the_close(make_client: MakeClient) -> None:
    producer = make_client()
    blocked = threading.Event()
    consumer = make_client(at=lambda step: blocked.set() if step == "get.open" else None)
    producer.create()
    received: list[bytes] = []
    thread = in_thread(lambda: received.extend(consumer))

    assert blocked.wait(JOIN_TIMEOUT)
    producer.put(b"1")
    producer.close()

    join(thread)
    assert received == [b"1"]
    assert producer.closed


@pytest.mark.leaves_no_keys
def test_delete_wakes_a_blocked_get_and_leaves_no_keys(make_client: MakeClient) -> None:
    blocked = threading.Event()
    consumer = make_client(at=lambda step: blocked.set() if step == "get.open" else None)
    deleter = make_client()
    deleter.create()
    outcome: list[type[Exception]] = []

    def consume() -> None:
        try:
            consumer.get()
        except Closed as error:
            outcome.append(type(error))

    thread = in_thread(consume)
    assert blocked.wait(JOIN_TIMEOUT)

    deleter.delete(timeout=JOIN_TIMEOUT)

    join(thread)
    assert outcome == [Closed]


@pytest.mark.parametrize("step", ["put.took_producer", "put.took_not_full", "put.counted"])
def test_a_producer_that_dies_with_the_token_blocks_its_role(
    make_client: MakeClient, step: str
) -> None:
    victim, other = make_client(at=crash_at(step)), make_client()
    other.create(5)

    with pytest.raises(Crash):
        victim.put(b"x")
    victim.disconnect()

    with pytest.raises(InUse):
        other.put(b"y", timeout=0.01)


def test_every_named_step_is_reached(make_client: MakeClient) -> None:
    reached: list[str] = []
    queue = make_client(at=reached.append)
    queue.create(2)
    queue.put(b"1")
    queue.put(b"2")
    queue.get()
    queue.close()
    queue.get()
    with pytest.raises(Closed):
        queue.put(b"3")
    queue.delete()

    assert set(reached) == set(STEPS)
    with pytest.raises(ValueError, match="no step"):
        crash_at("put.nothing")
