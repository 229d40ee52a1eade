"""Large arguments and results: how they travel, what is shared, and that nothing stays behind."""

from __future__ import annotations

import functools
import gc
import os
import pickle
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import redis

from pressure import blobs, parcels
from pressure.address import Address
from pressure.channel import Channel, Record
from pressure.channel.producing import Producer
from pressure.content import ALIGNMENT, Content, copy_of, room
from pressure.executor import (
    RedisExecutor,
    ResultPayloadError,
    WorkerLostError,
    current_executor,
    payloads,
    pickling,
)
from pressure.settings import Settings
from tests.executor.crews import MODES, PATIENCE, executor
from tests.support.processes import report
from tests.support.proxy import FaultyProxy
from tests.support.servers import ServerProcess

MIB = 1024 * 1024

# What runs in workers


def echo(value: Any) -> Any:
    return value


def double(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    array *= 2
    return array


def double_nested(size: int) -> float:
    """With one worker, the child runs in the process of its parent."""
    result = current_executor().submit(double, np.ones(size // 8)).result()
    return float(double(result)[-1])


def make(size: int) -> np.ndarray[Any, Any]:
    return np.arange(size // 8, dtype=np.float64)


def describe(array: np.ndarray[Any, Any]) -> tuple[float, bool, int]:
    return float(array.sum()), array.flags.writeable, array.ctypes.data % ALIGNMENT


def identity_of(value: Any) -> tuple[int, int]:
    return os.getpid(), id(value)


def element(array: np.ndarray[Any, Any], index: int) -> float:
    return float(array[index])


def inside(value: dict[str, list[Any]]) -> int:
    return len(value["list"][0])


def write_to(given: Any) -> None:
    array = given[0] if isinstance(given, tuple) else given
    array[0] = 1.0


_kept = np.zeros(MIB)


def count_up() -> np.ndarray[Any, Any]:
    """Returns the same array each time, and changes it in between."""
    global _kept
    _kept += 1
    return _kept


def die_with(value: Any) -> None:
    os._exit(3)


@pytest.fixture(scope="module", params=MODES)
def ex(request: pytest.FixtureRequest, server: ServerProcess) -> Iterator[RedisExecutor]:
    name = f"data-{os.urandom(6).hex()}"
    with executor(request.param, server.url, name, 2) as made:
        made.submit(make, 8).result(PATIENCE)
        yield made


def leave_large_things(url: str, queue: str) -> None:
    ex = RedisExecutor(url=url, queue=queue)
    shared = ex.share(b"x" * MIB)
    ex.submit(len, shared)
    ex.submit(len, b"y" * MIB)
    report("submitted")
    time.sleep(PATIENCE)


# Arrays


@pytest.mark.parametrize("size", [100, 60_000, 70_000, 512 * 1024, 3 * MIB + 8])
def test_array_there_and_back(ex: RedisExecutor, size: int) -> None:
    array = np.random.default_rng(0).random(size // 8)
    result = ex.submit(echo, array).result(PATIENCE)
    assert np.array_equal(result, array)
    assert result.flags.writeable
    assert result.flags.aligned


def test_large_buffers_are_aligned_and_writable_for_the_task(ex: RedisExecutor) -> None:
    array = np.ones(MIB)
    assert ex.submit(describe, array).result(PATIENCE) == (float(MIB), True, 0)
    assert np.array_equal(ex.submit(double, array).result(PATIENCE), array * 2)
    assert array[0] == 1.0


@pytest.mark.parametrize("size", [100, 70_000, 3 * MIB])
def test_arrays_of_nested_tasks_are_writable(server: ServerProcess, size: int) -> None:
    with executor("local", server.url, "-", 1) as ex:
        assert ex.submit(double_nested, size).result(PATIENCE) == 4.0


@pytest.mark.parametrize("size", [800, 3 * MIB])
@pytest.mark.parametrize("owning", [True, False])
def test_a_read_only_array_stays_read_only(ex: RedisExecutor, size: int, owning: bool) -> None:
    array = np.ones(size // 8) if owning else np.frombuffer(bytes(size))
    array.flags.writeable = False
    # Also when it comes again.
    for _ in range(4):
        assert ex.submit(describe, array).result(PATIENCE)[1] is False
    assert not ex.submit(echo, array).result(PATIENCE).flags.writeable


def test_arguments_are_as_they_were_at_submit(ex: RedisExecutor) -> None:
    array = np.zeros(MIB)
    futures = []
    for number in range(4):
        array[:] = number
        futures.append(ex.submit(element, array, -1))
    array[:] = -1
    assert [future.result(PATIENCE) for future in futures] == [0.0, 1.0, 2.0, 3.0]


def test_results_are_as_they_were_at_the_end_of_the_task(server: ServerProcess) -> None:
    with executor("local", server.url, "-", 1) as ex:
        futures = [ex.submit(count_up) for _ in range(5)]
        sums = [future.result(PATIENCE) for future in futures]
        assert [(float(s[0]), float(s[-1])) for s in sums] == [(n, n) for n in range(1, 6)]


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"x" * (2 * MIB + 1), id="bytes"),
        pytest.param("é" * MIB, id="str"),
        pytest.param([list(range(50_000)), np.ones((200, 500), order="F")], id="nested"),
        pytest.param(np.ones((300, 300))[::2, ::3], id="not contiguous"),
        pytest.param({n: np.full(20_000, n) for n in range(5)}, id="several"),
        pytest.param(np.zeros(0), id="empty"),
        pytest.param(np.array([{"a": 1}, None] * 20_000, dtype=object), id="objects"),
    ],
)
def test_what_else_is_large(ex: RedisExecutor, value: Any) -> None:
    result = ex.submit(echo, value).result(PATIENCE)
    np.testing.assert_equal(result, value)


def test_large_exceptions_travel(ex: RedisExecutor) -> None:
    def fail() -> None:
        raise ValueError(np.ones(MIB))

    with pytest.raises(ValueError) as caught:
        ex.submit(fail).result(PATIENCE)
    assert caught.value.args[0].nbytes == 8 * MIB


def test_a_result_above_the_limit_is_a_readable_error(server: ServerProcess) -> None:
    settings = Settings(max_item_bytes=MIB)
    with executor("local", server.url, "-", 1, settings=settings) as ex:
        with pytest.raises(ResultPayloadError, match="cannot travel"):
            ex.submit(make, 2 * MIB).result(PATIENCE)
        assert ex.submit(make, 8).result(PATIENCE).tolist() == [0.0]


def test_a_result_that_only_its_record_puts_above_the_limit(server: ServerProcess) -> None:
    settings = Settings(max_item_bytes=64 * 1024)
    with executor("local", server.url, "-", 1, settings=settings) as ex:
        assert [f.result(PATIENCE) for f in [ex.submit(abs, n) for n in range(100)]][99] == 99
        with pytest.raises(ResultPayloadError, match="cannot travel"):
            ex.submit(bytes, 64 * 1024 - 30).result(PATIENCE)
        # One that is just within it, amid others.
        futures = [ex.submit(bytes, 64 * 1024 - 200 if n == 50 else 0) for n in range(100)]
        assert sum(len(future.result(PATIENCE)) for future in futures) == 64 * 1024 - 200


# Nothing stays behind


def sizes(client: redis.Redis, name: str) -> dict[str, int]:
    """The number of elements in each hash of blobs, and of uploads under way."""
    found = {}
    for key in client.scan_iter(match=f"*{name}*", count=1000):
        if key.endswith(b":blobs"):
            found[key.decode()] = client.hlen(key)
        elif key.endswith(b":uploads"):
            found[key.decode()] = client.zcard(key)
    return {key: size for key, size in found.items() if size}


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


def test_blobs_go_when_they_were_read(
    server: ServerProcess, client: redis.Redis, queue_name: str
) -> None:
    with executor("daemon", server.url, queue_name, 1) as ex:
        for _ in range(3):
            ex.submit(echo, np.ones(MIB)).result(PATIENCE)
        until(lambda: not sizes(client, queue_name))


def test_blobs_of_a_task_that_was_cancelled_go(
    server: ServerProcess, client: redis.Redis, queue_name: str
) -> None:
    ex = RedisExecutor(url=server.url, queue=queue_name)
    future = ex.submit(echo, np.ones(MIB))
    until(lambda: bool(sizes(client, queue_name)))
    until(lambda: ex.stats().queue_depth == 1)
    assert future.cancel()
    assert not sizes(client, queue_name)
    ex.shutdown()


def test_blobs_of_a_task_that_kills_its_workers_go(
    server: ServerProcess, client: redis.Redis, queue_name: str
) -> None:
    with executor("daemon", server.url, queue_name, 1) as ex:
        future = ex.options(max_deliveries=1).submit(die_with, np.ones(MIB))
        with pytest.raises(WorkerLostError):
            future.result(PATIENCE)
        # What is in the dead letters can be replayed, so its body is kept with it.
        until(lambda: all(":reply:" not in key for key in sizes(client, queue_name)))


def test_an_upload_that_was_interrupted_is_dropped_later(
    server: ServerProcess, client: redis.Redis, queue_name: str
) -> None:
    channel = Channel(
        queue_name, Address.of(server.url), tag=queue_name, prefix="p", settings=Settings()
    )
    channel.ensure()
    core = channel.core
    flow = blobs.upload(core, os.urandom(16), b"x" * MIB)
    channel.handle.ask(next(flow))  # type: ignore[arg-type]
    request: Any = flow.send([0])
    channel.handle.ask(request.command(0))
    flow.close()
    assert sorted(sizes(client, queue_name).values()) == [1, 1]
    hour_ago = time.time() * 1000 - 3_700_000
    uploads: Any = client.zrange(core.protocol.keys.uploads, 0, -1)
    for upload in uploads:
        client.zadd(core.protocol.keys.uploads, {upload: hour_ago})
    producer = Producer(channel)
    assert producer.send([Record(os.urandom(16), b"y" * MIB)]) == 1
    producer.close()
    assert list(sizes(client, queue_name).values()) == [2]
    channel.delete()
    channel.disconnect()


def test_two_answers_to_one_task_never_mix(server: ServerProcess, queue_name: str) -> None:
    """A worker that stood still uploads its answer after another one has answered."""
    channel = Channel(
        queue_name,
        Address.of(server.url),
        tag=queue_name,
        prefix="p",
        settings=Settings(signing_keys=(b"k",)),
    )
    channel.ensure()
    reply = channel.reply_channel()
    reply.ensure()
    id = os.urandom(16)
    first = channel.seal(channel.client_id, id, b"1" * MIB)
    second = channel.seal(channel.client_id, id, b"2" * MIB)
    assert first is not None and second is not None
    opened = parcels.open_item(reply.core, first.item)
    assert reply.handle.call(opened).body == b"1" * MIB
    for one in (channel, reply):
        one.delete()
        one.disconnect()


def test_a_body_that_was_altered_is_refused(
    server: ServerProcess, client: redis.Redis, queue_name: str
) -> None:
    channel = Channel(
        queue_name,
        Address.of(server.url),
        tag=queue_name,
        prefix="p",
        settings=Settings(signing_keys=(b"k",)),
    )
    channel.ensure()
    producer = Producer(channel)
    assert producer.send([Record(b"i" * 16, b"x" * (2 * MIB))]) == 1
    producer.close()
    key = channel.core.protocol.keys.blobs
    field = sorted(client.hkeys(key))[-1]
    client.hset(key, field, bytes(len(client.hget(key, field) or b"")))
    consumer = channel.consumer()
    (delivery,) = consumer.exchange((), 1)
    assert "signature" in delivery.error
    assert not delivery.body
    consumer.close()
    channel.delete()
    channel.disconnect()


# Sharing


def test_a_shared_object_is_the_same_for_all_tasks(ex: RedisExecutor) -> None:
    array = np.arange(MIB, dtype=np.float64)
    with ex.share(array) as shared:
        assert shared.nbytes > array.nbytes
        array[:] = -1
        futures = [ex.submit(element, shared, n) for n in range(100)]
        assert [future.result(PATIENCE) for future in futures] == [float(n) for n in range(100)]
        seen = {ex.submit(identity_of, shared).result(PATIENCE) for _ in range(20)}
        assert len(seen) == len({pid for pid, _ in seen})


def test_a_shared_object_may_stand_anywhere(ex: RedisExecutor) -> None:
    with ex.share(list(range(1000))) as shared:
        assert ex.submit(inside, {"list": [shared]}).result(PATIENCE) == 1000
        assert ex.submit(inside, value={"list": [shared]}).result(PATIENCE) == 1000
        view = ex.options(max_deliveries=1)
        assert list(view.map(len, [shared] * 3)) == [1000] * 3


@pytest.mark.parametrize("size", [8, 5000, 3 * MIB])
def test_a_shared_array_is_read_only(ex: RedisExecutor, size: int) -> None:
    array = np.zeros(size // 8)
    for given in (array, (array, lambda: 1)):
        with ex.share(given) as shared, pytest.raises(ValueError, match="read-only"):
            ex.submit(write_to, shared).result(PATIENCE)


def test_a_shared_object_is_sent_once_and_removed(
    server: ServerProcess, client: redis.Redis, queue_name: str
) -> None:
    with executor("daemon", server.url, queue_name, 1) as ex:
        array = np.random.default_rng(1).random(MIB // 8)
        first = ex.share(array)
        again = ex.share(array.copy())
        assert list(sizes(client, queue_name).values()) == [3]
        assert ex.submit(len, again).result(PATIENCE) == len(array)
        first.release()
        assert list(sizes(client, queue_name).values()) == [3]
        with pytest.raises(ValueError, match="released"):
            ex.submit(len, first).result(PATIENCE)
        again.release()
        until(lambda: not sizes(client, queue_name))
        assert ex.submit(len, "abc").result(PATIENCE) == 3


def test_a_task_keeps_what_it_shares(
    server: ServerProcess, client: redis.Redis, queue_name: str
) -> None:
    ex = RedisExecutor(url=server.url, queue=queue_name)
    future = ex.submit(len, ex.share(b"x" * MIB))
    gc.collect()
    ex.share(b"")
    with executor("daemon", server.url, queue_name, 1):
        assert future.result(PATIENCE) == MIB
    ex.shutdown()


def test_shared_objects_belong_to_their_executor(ex: RedisExecutor, server: ServerProcess) -> None:
    with ex.share([1]) as shared:
        with pytest.raises(ValueError, match="own executor"):
            pickle.dumps(shared)
        with executor("local", server.url, "-", 1) as other:
            other.share([2])
            with pytest.raises(ValueError, match="own executor"):
                other.submit(len, shared).result(PATIENCE)


def test_what_was_shared_survives_a_server_that_comes_back_empty(
    make_server: Callable[..., ServerProcess], queue_name: str
) -> None:
    own = make_server()
    ex = RedisExecutor(url=own.url, queue=queue_name)
    future = ex.submit(len, ex.share(b"x" * MIB))
    until(lambda: ex.stats().queue_depth == 1)
    own.kill()
    own.start()
    with executor("daemon", own.url, queue_name, 1):
        assert future.result(PATIENCE) == MIB
    ex.shutdown()


# Arguments that come again


@pytest.mark.parametrize("kind", ["bytes", "read-only", "writable"])
def test_a_large_argument_that_comes_again_is_sent_once_more_at_most(
    server: ServerProcess, client: redis.Redis, queue_name: str, kind: str
) -> None:
    array = np.random.default_rng(3).random(2 * MIB // 8)
    array.flags.writeable = kind == "writable"
    value: Any = array.tobytes() if kind == "bytes" else array
    with executor("daemon", server.url, queue_name, 1) as ex:
        ex.submit(len, value).result(PATIENCE)
        before: Any = client.info("stats")
        for _ in range(8):
            assert ex.submit(len, value).result(PATIENCE) == len(value)
        after: Any = client.info("stats")
        assert after["total_net_input_bytes"] - before["total_net_input_bytes"] < 3 * MIB
        assert after["total_net_output_bytes"] - before["total_net_output_bytes"] < 3 * MIB


def test_arguments_that_come_again_may_change(ex: RedisExecutor) -> None:
    array = np.zeros(MIB)
    for number in range(5):
        array[0] = number
        assert ex.submit(element, array, 0).result(PATIENCE) == number
    futures = [ex.submit(double, array) for _ in range(4)]
    assert {float(future.result(PATIENCE)[0]) for future in futures} == {8.0}
    assert ex.submit(describe, array=array).result(PATIENCE) == (4.0, True, 0)
    view = array[:]
    view.flags.writeable = False
    for number in range(5, 9):
        array[0] = number
        assert ex.submit(element, view, 0).result(PATIENCE) == number
    # One that owns its memory can be made writable, and read-only again.
    for number in range(9, 13):
        array.flags.writeable = True
        array[0] = number
        array.flags.writeable = False
        assert ex.submit(element, array, 0).result(PATIENCE) == number


def test_large_arguments_are_released(ex: RedisExecutor) -> None:
    array = np.zeros(MIB)
    for _ in range(3):
        ex.submit(len, array).result(PATIENCE)
    gone = weakref.ref(array)
    del array
    until(lambda: gc.collect() >= 0 and gone() is None)


# The parts


def test_content_in_pieces() -> None:
    content = Content([b"abc", b"", bytearray(b"defgh"), memoryview(b"i")])
    assert len(content) == 9
    assert bytes(content) == bytes(content.joined()) == b"abcdefghi"
    assert not content.joined().readonly
    for most in range(1, 11):
        pieces = content.pieces(most)
        assert b"".join(pieces) == b"abcdefghi"
        assert all(len(piece) == most for piece in pieces[:-1])
    assert Content([]).pieces(4) == []


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, 3 * MIB])
def test_room_is_writable_and_private(size: int) -> None:
    data = os.urandom(size)
    copy = copy_of(data)
    assert copy == data
    assert len(room(size)) == size
    assert not copy.readonly


def test_payloads_keep_what_is_small_in_one_piece() -> None:
    assert isinstance(pickling.dumps(np.zeros(10)), bytes)
    packed = pickling.dumps([np.zeros(MIB), np.zeros(10)])
    assert isinstance(packed, payloads.Packed)
    assert len(packed.buffers) == 2
    for head in (b"", b"1", b"22" * 33):
        content = bytes(packed.content(head))
        assert content.startswith(head)
        found = payloads.loads(content[len(head) :])
        assert found[0].nbytes == 8 * MIB and found[1].nbytes == 80
    with pytest.raises(ValueError):
        payloads.loads(b"x" + bytes(100))


# Callables with large states


@pytest.mark.parametrize("size", [1000, 100_000, 3 * MIB])
def test_what_a_task_does_to_a_large_state_is_its_own(ex: RedisExecutor, size: int) -> None:
    double_it = functools.partial(double, np.ones(size // 8))
    for _ in range(3):
        assert float(ex.submit(double_it).result(PATIENCE)[0]) == 2.0


def test_arguments_beside_a_large_state_are_not_taken_for_repeated(ex: RedisExecutor) -> None:
    state = functools.partial(count_both, list(range(20_000)))
    shelf = ex._engine.dispatcher.shelf
    kept = len(shelf._entries)
    for number in range(6):
        array = np.full(2 * MIB // 8, number, dtype=np.float64)
        assert ex.submit(state, array).result(PATIENCE) == (20_000, len(array))
        del array
    # What an earlier test shared may be collected meanwhile.
    assert len(shelf._entries) <= kept


def count_both(one: Any, other: Any) -> tuple[int, int]:
    return len(one), len(other)


# Faults


@pytest.mark.parametrize("command", ["HSET", "HGET"])
def test_a_connection_that_breaks_among_the_chunks(
    server: ServerProcess, proxy: FaultyProxy, queue_name: str, command: str
) -> None:
    array = np.random.default_rng(2).random(3 * MIB // 8)
    with executor("daemon", server.url, queue_name, 1):
        ex = RedisExecutor(url=proxy.url, queue=queue_name)
        ex.submit(len, "abc").result(PATIENCE)
        faults = [proxy.drop_next_reply(command), proxy.drop_next_request(command)]
        result = ex.submit(echo, array).result(PATIENCE)
        assert np.array_equal(result, array)
        assert all(fault.struck for fault in faults)
        ex.shutdown()


def test_the_client_dies_with_large_tasks_and_shared_objects(
    server: ServerProcess,
    client: redis.Redis,
    queue_name: str,
    spawn_child: Callable[..., Any],
) -> None:
    """All that is the client's own has a time to live."""
    child = spawn_child(leave_large_things, server.url, queue_name)
    child.wait_for("submitted")
    until(lambda: sum(sizes(client, queue_name).values()) >= 6)
    child.kill()
    # Braces stand around the queue's name.
    left = list(client.scan_iter(match=f"*{queue_name}?:reply:*", count=1000))
    assert any(key.endswith(b":blobs") for key in left)
    for key in left:
        if key.endswith((b":blobs", b":store", b":uploads")):
            assert client.pttl(key) > 0, key
