"""Other versions of the protocol or of Python are refused readably, and nothing is lost."""

from __future__ import annotations

import os
import pickle
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

import pressure
from pressure import PressureQueue, RedisExecutor
from pressure.executor import ResultPayloadError, TaskPayloadError
from pressure.python_versions import PythonVersionError, marked, unmarked
from tests.faults import executing as do
from tests.security.canary import KEY
from tests.security.test_executor_canaries import Site, submit_unserved
from tests.support.processes import Child

WAIT = 30.0
HOST = socket.gethostname()
LATER = b"\x20"
"""The version byte of protocol 2.0."""


def test_an_item_of_a_later_protocol(url: str, queue_name: str, client: redis.Redis) -> None:
    with PressureQueue[Any](queue_name, url=url) as q:
        q.create()
        q.put("later")
        base = q._core.protocol.keys.base
        item = client.rpop(base)
        assert isinstance(item, bytes)
        client.rpush(base, LATER + item[1:])
        said = f"protocol version 2.0, and pressure on {HOST} speaks 1.0: install the same version"
        with pytest.raises(pressure.PayloadError, match=said):
            q.get()
        (letter,) = q.dead_letters
        assert (letter.reason, letter.payload) == ("unreadable", LATER + item[1:])
        assert said in letter.error
        q.put("now")
        assert q.get() == "now"


def test_a_later_minor_version_is_read(url: str, queue_name: str, client: redis.Redis) -> None:
    with PressureQueue[Any](queue_name, url=url) as q:
        q.create()
        q.put("a little later")
        base = q._core.protocol.keys.base
        item = client.rpop(base)
        assert isinstance(item, bytes)
        client.rpush(base, b"\x1f" + item[1:])
        assert q.get() == "a little later"


@pytest.fixture
def ex(url: str, queue_name: str) -> Iterator[RedisExecutor]:
    with RedisExecutor(url=url, queue=queue_name, key=KEY) as executor:
        executor._engine.start()
        yield executor


def test_a_task_of_a_later_protocol(
    ex: RedisExecutor,
    url: str,
    queue_name: str,
    client: redis.Redis,
    spawn_child: Callable[..., Child],
) -> None:
    site = Site(client, ex, queue_name)
    (future,) = submit_unserved(ex, site, 1)
    task = client.lindex(site.keys.base, -1)
    assert isinstance(task, bytes)
    client.lset(site.keys.base, -1, LATER + task[1:])  # type: ignore[arg-type]
    spawn_child(do.serve, url, queue_name, 1, 15.0, KEY).wait_for("serving")
    # By a worker that says who it is.
    with pytest.raises(TaskPayloadError, match=f"worker {HOST}:.*protocol version 2.0.*install"):
        future.result(WAIT)
    (letter,) = site.letters()
    assert letter.endswith(task[30:])


def test_an_answer_of_a_later_protocol(
    ex: RedisExecutor, queue_name: str, client: redis.Redis
) -> None:
    site = Site(client, ex, queue_name)
    (future,) = submit_unserved(ex, site, 1)
    answer = site.answers.codec().pack(bytes.fromhex(future.task_id), b"?")  # type: ignore[attr-defined]
    client.lpush(site.reply_keys.base, LATER + answer[1:])
    with pytest.raises(ResultPayloadError, match=r"protocol version 2.0.*install the same"):
        future.result(WAIT)


# Python


def of_another_python(payload: bytes) -> bytes:
    return b"V" + bytes((3, 99)) + payload


def test_the_mark() -> None:
    data = pickle.dumps(7)
    assert unmarked(data) == data
    assert bytes(unmarked(marked(data))) == data
    here = "{}.{}".format(*sys.version_info[:2])
    with pytest.raises(PythonVersionError, match=f"by Python 3.99, and this is Python {here}"):
        unmarked(of_another_python(data))
    for wrong in (b"", b"x", b"V", b"V\3"):
        with pytest.raises(ValueError):
            unmarked(wrong)


def test_an_item_with_code_of_another_python(
    url: str, queue_name: str, client: redis.Redis
) -> None:
    with PressureQueue[Any](queue_name, url=url) as q:
        q.create()
        q.put(lambda: 42)
        base = q._core.protocol.keys.base
        item = client.lindex(base, 0)
        assert isinstance(item, bytes)
        # Code is marked where it travels by value, and only there.
        assert item[66:69] == b"V" + bytes(sys.version_info[:2])
        assert q.get()() == 42
        codec = q._core.codec
        assert codec is not None
        forged = codec.pack(os.urandom(16), of_another_python(item[69:]))
        client.lpush(base, forged)
        with pytest.raises(pressure.PayloadError, match=r"Python 3.99.*run the same version"):
            q.get()
        (letter,) = q.dead_letters
        assert letter.payload == forged
        q.put(len)
        item = client.lindex(base, 0)
        assert isinstance(item, bytes)
        assert item[66] == 0x80
