"""`pressure info` and `pressure queue`: what is shown of queues, and what is done to them."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from concurrent.futures import wait
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import redis

from pressure import (
    PressureQueue,
    QueueEmptyError,
    RedisExecutor,
    ServerUnavailableError,
    Settings,
)
from pressure.channel.inventory import Inventory
from pressure.channel.registry import RunningTask, WorkerRecord
from pressure.cli.info import _look
from pressure.executor import TaskLostError
from pressure.keys import Keys
from tests.cli.conftest import LIMIT, Program, Run
from tests.support import acl
from tests.support.servers import ServerProcess
from tests.support.waiting import eventually

Queue = PressureQueue[Any]
OPERATIONS = Path(__file__).resolve().parents[2] / "docs" / "operations.md"


def only(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    (row,) = [row for row in rows if row["name"] == name]
    return row


def tasks(name: str, url: str, prefix: str) -> Queue:
    """A handle to the queue of an executor."""
    return Queue(name, url=url, prefix=prefix, settings=Settings(hash_tag=name))


def test_programs_find_what_the_document_says(run: Run, url: str, namespace: str) -> None:
    with Queue("seen", url=url, prefix=namespace) as q:
        q.create()
        (queue,) = run("queue", "list", "--json").json()
        q.delete()
    lines = OPERATIONS.read_text("utf-8").splitlines()

    def names(command: str) -> set[str]:
        (row,) = (line for line in lines if line.startswith(f"| `{command}` | a list: "))
        return set(re.findall(r"`(\w+)`", row.split("a list: ", 1)[1]))

    assert names("queue list") == {*queue, "tasks"}
    assert names("worker list") == {
        one.name for kind in (WorkerRecord, RunningTask) for one in fields(kind)
    }


class TestInfo:
    def test_an_empty_server_is_kindly_said_to_be_one(self, run: Run, namespace: str) -> None:
        ran = run("info")
        assert ran.code == 0
        assert f"There is no queue with the prefix {namespace} here yet." in ran.text
        assert run("queue", "list").text.startswith("There is no queue")
        said = run("info", "--json").json()
        assert (said["queues"], said["workers"], said["clients"]) == ([], [], [])
        assert said["server"]["memory_bytes"] > 0

    def test_queues(self, run: Run, url: str, namespace: str, queue_name: str) -> None:
        with Queue(queue_name, url=url, prefix=namespace) as queue:
            queue.create(7)
            queue.put_many([1, 2, 3])
            assert queue.get() == 1
            row = only(run("info", "--json").json()["queues"], queue_name)
            assert (row["kind"], row["state"], row["bound"]) == ("items", "open", 7)
            assert (row["put_total"], row["taken_total"], row["put_rate"]) == (3, 1, 0)
            assert row["items"] == 2
            assert 0 <= row["oldest_age"] < LIMIT
            queue.pause()
            assert only(run("info", "--json").json()["queues"], queue_name)["state"] == "paused"
            text = run("info").text
            assert re.search(rf"\n{queue_name}  items  paused for \d+(\.\d)?s ", text)
            queue.resume()
            queue.close()
            listed = run("queue", "list", "--json").json()
            assert only(listed, queue_name)["state"] == "closed"
            assert f"\n{queue_name}  items  closed " in run("queue", "list").text

    def test_raw_items_have_no_age(self, run: Run, queue: PressureQueue[bytes]) -> None:
        queue.create()
        queue.put(b"\x10" * 100)
        queue.put(b"short")
        row = only(run("info", "--json").json()["queues"], queue.name)
        assert (row["items"], row["oldest_age"]) == (2, None)

    @pytest.mark.parametrize("attribute", ["base", "bound", "leases", "beats"])
    def test_a_broken_queue_is_listed(
        self,
        run: Run,
        url: str,
        namespace: str,
        client: redis.Redis,
        queue: PressureQueue[bytes],
        attribute: str,
    ) -> None:
        key = getattr(Keys(namespace, queue.name), attribute)
        queue.create()
        with Queue(f"{queue.name}-sound", url=url, prefix=namespace) as sound:
            sound.create()
            client.delete(key)
            client.xadd(key, {"field": "value"})
            for listed in (
                run("info", "--json").json()["queues"],
                run("queue", "list", "--json").json(),
            ):
                broken, other = sorted(listed, key=lambda row: row["name"])
                assert (broken["name"], broken["state"]) == (queue.name, "broken")
                assert broken["items"] is None is broken["dead_letters"]
                assert (other["name"], other["state"]) == (sound.name, "open")
            assert re.search(rf"\n{queue.name} +items  broken +-", run("info").text)
            ran = run("doctor")
            assert ran.code == 1
            told = f"queue {queue.name!r} does not work: the key {key.decode()} holds a stream"
            assert told in ran.text
            client.delete(key)

    def test_clients_are_no_queues(
        self, run: Run, url: str, namespace: str, queue_name: str
    ) -> None:
        with RedisExecutor(url=url, queue=queue_name, prefix=namespace) as executor:
            future = executor.submit(pow, 2, 3)
            waiting = tasks(queue_name, url, namespace)
            assert eventually(lambda: waiting.exists and waiting.qsize() == 1, LIMIT)
            said = run("info", "--json").json()
            assert [row["name"] for row in said["queues"]] == [queue_name]
            row = said["queues"][0]
            assert (row["kind"], row["clients"], row["items"]) == ("tasks", 1, 1)
            (client,) = said["clients"]
            assert client["queue"] == queue_name and 0 < client["expires_in"] <= 60
            text = run("info").text
            assert "No pressure-worker serves these queues." in text
            assert client["id"][:8] in text
            assert future.cancel()
            waiting.disconnect()

    def test_a_name_cannot_command_the_terminal(
        self, run: Run, url: str, namespace: str, client: redis.Redis, queue_name: str
    ) -> None:
        name = f"{queue_name}\x1b[31m\u202e"
        with Queue(name, url=url, prefix=namespace) as queue:
            queue.create()
            client.set(Keys(namespace, name).producer, "\x1b]0;owned\x07")
            shown = [run("info").text, run("queue", "list").text, run("info", "--json").text]
            shown += [run("queue", "pause", name).text, run("queue", "pause", f"{name}x").text]
            assert not any(char in text for text in shown for char in "\x1b\x07\u202e")
            assert f"{queue_name}\\x1b[31m\\u202e" in shown[0]
            queue.delete()

    def test_what_is_no_queue_is_left_out(
        self, run: Run, client: redis.Redis, namespace: str
    ) -> None:
        keys = [f"{namespace}:list:bound", f"{namespace}:text:bound", f"{namespace}:{{x}}y:bound"]
        client.lpush(keys[0], "1")
        client.set(keys[1], "text")
        client.set(keys[2], "5")
        try:
            said = run("info", "--json")
            assert said.code == 0
            assert {row["name"] for row in said.json()["queues"]} <= {"xy"}
        finally:
            client.delete(*keys)

    def test_watch(self, program: Program, queue: PressureQueue[bytes], url: str) -> None:
        queue.create()
        process = program("info", "--json", "--watch", "0.1", PRESSURE_URL=acl.as_admin(url))
        assert process.stdout is not None
        looks = []
        for _ in range(3):
            looks.append(json.loads(process.stdout.readline()))
            queue.put(b"more")
        assert [look["queues"][0]["name"] for look in looks] == [queue.name] * 3
        assert looks[2]["queues"][0]["put_rate"] > 0
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT) == 130

    def test_watch_outlasts_an_outage(
        self, run: Run, queue: PressureQueue[bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        queue.create()
        looks = iter([None, ServerUnavailableError("it is away"), None, KeyboardInterrupt()])

        def look(inventory: Inventory) -> Any:
            trouble = next(looks)
            if trouble is not None:
                raise trouble
            return _look(inventory)

        monkeypatch.setattr("pressure.cli.info._look", look)
        ran = run("info", "--json", "--watch", "0.1")
        assert ran.code == 130
        assert ran.text.startswith("pressure: it is away\n{") and ran.text.count("\n") == 2

    def test_no_server(self, run: Run) -> None:
        for words in (["info"], ["queue", "list"], ["worker", "list"], ["dead", "list"]):
            ran = run(*words, "--url", "redis://127.0.0.1:1")
            assert ran.code == 1
            assert ran.text.startswith("pressure: no usable server at 127.0.0.1:1 (")
            assert "`pressure serve`), give another URL (url=, --url, PRESSURE_URL)" in ran.text

    def test_no_password(self, run: Run, make_server: Callable[..., ServerProcess]) -> None:
        server = make_server(minimal=False)
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "limited", "on", ">word", "~*", "+ping")
        limited = server.admin_url.replace("unix://", "unix://limited:wrong@")
        ran = run("info", "--url", limited)
        assert ran.code == 1 and ran.text.count("\n") == 1
        assert " refused: " in ran.text and ": give a user name and a password in" in ran.text


class TestQueue:
    def test_pause_and_resume(self, run: Run, queue: PressureQueue[bytes]) -> None:
        queue.create()
        queue.put(b"a")
        assert run("queue", "pause", queue.name) == (
            0,
            f"paused the plain queue {queue.name}, with 1 items waiting\n",
        )
        with pytest.raises(QueueEmptyError):
            queue.get_nowait()
        assert run("queue", "resume", queue.name) == (0, f"resumed the plain queue {queue.name}\n")
        assert queue.get_nowait() == b"a"
        again = run("queue", "resume", queue.name)
        assert again.text == f"the plain queue {queue.name} was not paused\n"

    def test_purge_and_delete_ask(self, run: Run, queue: PressureQueue[bytes]) -> None:
        queue.create()
        queue.put_many([b"a", b"b"])
        for order in ("purge", "delete"):
            ran = run("queue", order, queue.name, stdin="n\n")
            assert ran.code == 1
            assert "2 items" in ran.text
            assert queue.qsize() == 2
        assert run("queue", "purge", queue.name, stdin="y\n").code == 0
        assert queue.qsize() == 0
        queue.put(b"c")
        ran = run("queue", "purge", queue.name, "--yes")
        assert ran.text == f"dropped 1 items of the plain queue {queue.name}\n"
        ran = run("queue", "delete", queue.name, "-y")
        assert ran == (0, f"deleted the plain queue {queue.name}\n")
        assert not queue.exists

    def test_there_is_none(self, run: Run, queue_name: str) -> None:
        for order in ("pause", "resume", "purge", "delete"):
            ran = run("queue", order, queue_name)
            assert ran.code == 4
            assert ran.text == (
                f"pressure: queue '{queue_name}': it does not exist: see `pressure queue list`\n"
            )

    def test_forms_of_the_name_tell_namesakes_apart(
        self, run: Run, url: str, namespace: str, queue_name: str
    ) -> None:
        plain = Queue(queue_name, url=url, prefix=namespace)
        other = tasks(queue_name, url, namespace)
        plain.create()
        other.create()
        for words in (("queue", "pause"), ("queue", "delete", "-y"), ("dead", "replay", "--all")):
            ran = run(*words, queue_name)
            assert ran.code == 1 and ran.text.count("\n") == 1
            assert f"say {{{queue_name}}} for the task queue, plain:{queue_name} for" in ran.text
        ran = run("queue", "pause", f"plain:{queue_name}")
        assert ran.text.startswith(f"paused the plain queue {queue_name}, ")
        assert (plain.paused, other.paused) == (True, False)
        ran = run("queue", "pause", f"{{{queue_name}}}")
        assert ran.text.startswith(f"paused the task queue {queue_name}, ")
        assert other.stats().paused_at is not None
        run("queue", "delete", f"plain:{queue_name}", "-y")
        run("queue", "resume", queue_name)
        assert other.stats().paused_at is None
        plain.disconnect()
        other.disconnect()

    def test_the_futures_of_purged_tasks_hear_of_it(
        self, run: Run, url: str, namespace: str, queue_name: str
    ) -> None:
        key = "k" * 32
        with RedisExecutor(url=url, queue=queue_name, prefix=namespace, key=key) as executor:
            futures = [executor.submit(pow, 2, number) for number in range(250)]
            waiting = tasks(queue_name, url, namespace)
            assert eventually(lambda: waiting.exists and waiting.qsize() == 250, LIMIT)
            waiting.pause()
            ran = run("queue", "purge", queue_name, "-y")
            assert (ran.code, "give their key" in ran.text) == (1, True), ran.text
            assert waiting.qsize() == 250
            ran = run("queue", "purge", queue_name, "-y", PRESSURE_KEY="x" * 32)
            assert (ran.code, "signed with key " in ran.text) == (1, True), ran.text
            assert waiting.qsize() == 250
            ran = run("queue", "purge", queue_name, "-y", PRESSURE_KEY=f"{'x' * 32},{key}")
            assert ran == (0, f"dropped 250 items of the task queue {queue_name}\n")
            assert not wait(futures, LIMIT).not_done
            with pytest.raises(TaskLostError, match="has purged the queue"):
                futures[0].result()
            waiting.disconnect()
