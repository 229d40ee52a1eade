"""`pressure doctor`: it finds what is wrong, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from pressure import PressureQueue
from pressure.address import Address
from pressure.channel import Channel
from pressure.channel.registry import Registry, WorkerRecord
from pressure.settings import Settings
from tests.cli.conftest import LIMIT, Run
from tests.support.servers import ServerProcess


def topics(said: dict[str, Any], *levels: str) -> set[str]:
    return {one["topic"] for one in said["findings"] if one["level"] in levels}


def test_all_is_well(
    run: Run, client: redis.Redis, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A machine that is busy with other tests is slow, and rightly so.
    monkeypatch.setattr("pressure.cli.doctor.SLOW", LIMIT)
    ran = run("doctor")
    assert ran.code == 0, ran.text
    assert ran.text.endswith("\nAll is well.\n")
    said = run("doctor", "--json").json()
    assert said["well"]
    wanted = {"installation", "server", "eviction", "latency", "clock", "key", "permissions"}
    assert wanted <= topics(said, "ok")
    assert list(client.scan_iter(f"{namespace}:*")) == []


def test_no_server(run: Run) -> None:
    ran = run("doctor", "--url", "redis://127.0.0.1:1")
    assert ran.code == 1
    assert "wrong    unreachable  no usable server at 127.0.0.1:1 (" in ran.text
    assert ran.text.endswith("1 to mend.\n")


def test_what_the_server_does_wrong(run: Run, make_server: Callable[..., ServerProcess]) -> None:
    server = make_server(minimal=False)
    with server.client() as client:
        client.config_set("maxmemory", "200mb")
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.execute_command(
            *("ACL", "SETUSER", "limited", "on", ">word", "~*", "&*", "+@all"),
            *("-blmove", "-client|unblock"),
        )
        ran = run("doctor", "--url", server.url)
        assert ran.code == 1
        assert "warning  eviction " in ran.text and "maxmemory-policy noeviction" in ran.text
        client.config_set("maxmemory-policy", "noeviction")
        assert run("doctor", "--url", server.url).code == 0
        limited = server.admin_url.replace("unix://", "unix://limited:word@")
        said = run("doctor", "--url", limited, "--json").json()
        assert topics(said, "wrong") == {"permissions"}
        (finding,) = [one for one in said["findings"] if one["topic"] == "permissions"]
        assert "blmove" in finding["sentence"].lower()
        assert "docs/acl.md" in finding["remedy"]


def test_full_memory_is_no_question_of_permissions(
    run: Run, make_server: Callable[..., ServerProcess]
) -> None:
    server = make_server(minimal=False)
    with server.client() as client:
        client.config_set("maxmemory", "1")
        said = run("doctor", "--url", server.admin_url, "--json").json()
    assert topics(said, "wrong") == {"memory"}
    assert "permissions" not in topics(said, "ok", "note", "warning")


def test_a_weak_key(run: Run) -> None:
    ran = run("doctor", PRESSURE_KEY="secret")
    assert ran.code == 1
    assert "can be guessed" in ran.text and "secret," not in ran.text


def test_workers_of_another_python(run: Run, url: str, namespace: str, queue_name: str) -> None:
    assert "python" not in topics(run("doctor", "--json").json(), "ok", "note", "warning", "wrong")
    address = Address.of(url)
    channel = Channel(queue_name, address, tag=queue_name, prefix=namespace, settings=Settings())
    channel.ensure()
    record = WorkerRecord(
        id="a" * 32,
        daemon="b" * 32,
        name="old",
        host="elsewhere",
        pid=1,
        supervisor_pid=1,
        version="0",
        python="3.9.7",
        queues=(),
        age=0.0,
        state="idle",
        task=None,
        done=0,
        failed=0,
        memory=None,
        ttl=LIMIT,
    )
    Registry(channel.handle).beat([record], LIMIT)
    said = run("doctor", "--json").json()
    (finding,) = [one for one in said["findings"] if one["topic"] == "python"]
    assert finding["level"] == "note"
    assert finding["sentence"].endswith("by value: old (elsewhere: 3.9.7)")
    channel.delete()
    channel.disconnect()


def test_a_key_that_does_not_fit_the_items(run: Run, url: str, namespace: str) -> None:
    """Also where no worker is there that could be asked."""
    mine, other = "k" * 40, "o" * 40
    q: PressureQueue[int] = PressureQueue("signed", url=url, prefix=namespace, key=mine)
    q.create()
    q.put(1)
    said = run("doctor", "--json", PRESSURE_KEY=mine).json()
    assert "items" in topics(said, "ok")
    for key in (other, ""):
        said = run("doctor", "--json", PRESSURE_KEY=key).json()
        (finding,) = [one for one in said["findings"] if one["topic"] == "items"]
        assert finding["level"] == "warning"
        assert "signed" in finding["sentence"]
        assert not said["well"]
    q.delete()
    q.disconnect()


@pytest.mark.parametrize("value", ["junk", "", "inf", "1.5"])
def test_counters_that_are_no_numbers(
    run: Run, queue: PressureQueue[bytes], client: redis.Redis, value: str
) -> None:
    queue.create()
    keys = queue._core.protocol.keys
    client.set(keys.paused, value)
    client.set(keys.produced_bytes, value)
    found = run("doctor", "--json").json()["findings"]
    (line,) = [one for one in found if one["topic"] == "queues"]
    assert line["level"] == "wrong" and repr(queue.name) in line["sentence"]
    for key in (keys.paused, keys.produced_bytes):
        assert f"the key {key.decode()} holds no number" in line["sentence"]
    assert run("queue", "list").code == 0
    assert "paused" in run("queue", "list").text
    assert run("queue", "resume", queue.name).text.startswith("resumed")
    client.delete(keys.produced_bytes)
    assert topics(run("doctor", "--json").json(), "wrong") == set()
