"""What `exchange` does quickly for a lone task is what it does at length."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from typing import Any

import pytest
import redis

from pressure.keys import Keys
from pressure.protocol import Outcome, Protocol, Status
from pressure.scripts import Script
from tests.redis.scripting import BLOB_ID, GENERATION, LEASE_MS, ME, Scripts

CONSUMER = b"consumer"
TTL_MS = 60_000
OLD_MS = 10_000


def at_length() -> Script:
    """The script without its quick way."""
    source = resources.files("pressure").joinpath("lua/exchange.lua").read_text("utf-8")
    quick, end = source.index("if outcomes == -1"), source.index("-- prelude\n")
    return Script("exchange", source[:quick] + source[end:])


class Lone:
    """A worker that has taken one task and has its answer, in a queue of its own."""

    def __init__(self, client: redis.Redis, name: str, task: bytes, answer: bytes) -> None:
        self.client: Any = client
        self.tasks, self.replies = Scripts(client, name), Scripts(client, name + "-replies")
        # In the same slot as the tasks.
        self.replies.keys = Keys("__scripts__", name + "-replies")
        self.replies.protocol = Protocol(self.replies.keys, raw=False)
        self.task, self.answer = task, answer
        self.bound, self.reply_ttl, self.ttl, self.waiter = 10, TTL_MS, TTL_MS, "7@run"
        self.count = 2
        self.generation = GENERATION

    def begin(self) -> None:
        self.tasks.run(self.tasks.protocol.create(self.bound, GENERATION, ttl_ms=self.ttl))
        self.replies.run(self.replies.protocol.create(0, GENERATION, ttl_ms=self.reply_ttl))
        self.tasks.run(self.exchange([], [], moved=0))
        self.hold(self.task)
        if self.ttl:
            # What is renewed later can be told from what is not.
            for key in self.client.keys(b"*" + self.tasks.keys.base + b"*"):
                self.client.pexpire(key, OLD_MS)

    def hold(self, *tasks: bytes) -> None:
        """These have been taken, the oldest first."""
        taken = self.tasks.keys.taken(CONSUMER)
        self.client.delete(taken)
        self.client.lpush(taken, *tasks)
        if self.ttl:
            self.client.pexpire(taken, OLD_MS)

    def other(self) -> bytes:
        return self.task[:14] + b"x" * 16 + self.task[30:]

    def exchange(self, outcomes: list[Outcome], held: list[bytes], *, moved: int) -> Any:
        return self.tasks.protocol.exchange(
            self.generation,
            CONSUMER,
            ME,
            outcomes,
            lease_ms=LEASE_MS,
            known=bool(held),
            count=self.count,
            ttl_ms=self.ttl,
            waiter=self.waiter,
            moved=moved,
            held=held,
        )

    def finish(self, script: Script | None) -> tuple[Any, dict[str, Any]]:
        """The reply, and all that is there then."""
        tag = self.tasks.tag(self.task)
        outcome = Outcome(tag, self.replies.keys, self.answer, "")
        command = self.exchange([outcome], [tag], moved=len(self.task))
        words = list(command.words)
        assert command.script is not None
        words[:2] = ["EVAL", (script or command.script).text]
        reply = self.client.execute_command(*words)
        return reply, self._all()

    def _all(self) -> dict[str, Any]:
        """Each key's value, and whether its time to live was renewed (None: it has none)."""
        found = {}
        for whose, keys in (("tasks", self.tasks.keys), ("replies", self.replies.keys)):
            for key in (*keys.fixed(), keys.taken(CONSUMER)):
                lives = self.client.pttl(key)
                if lives != -2:
                    name = whose + key.replace(keys.base, b"").decode()
                    # That of what is taken is renewed by who puts it back.
                    renewed = lives > OLD_MS and key != keys.taken(CONSUMER)
                    found[name] = self._read(key), None if lives == -1 else renewed
        return found

    def _read(self, key: Any) -> Any:
        kind = self.client.type(key)
        if kind == b"list":
            return self.client.lrange(key, 0, -1)
        if kind == b"hash":
            return self.client.hgetall(key)
        return self.client.zrange(key, 0, -1) if kind == b"zset" else self.client.get(key)


def paused(lone: Lone) -> None:
    lone.client.set(lone.tasks.keys.paused, "1")


def closed(lone: Lone) -> None:
    lone.client.lpush(lone.tasks.keys.closed, "1", "1")


def joined(lone: Lone) -> None:
    lone.client.set(lone.tasks.keys.joiners, "1")


def more_is_queued(lone: Lone) -> None:
    lone.client.lpush(lone.tasks.keys.base, lone.other())


def more_is_held(lone: Lone) -> None:
    lone.hold(lone.task, lone.other())


def an_older_one_is_held(lone: Lone) -> None:
    lone.hold(lone.other(), lone.task)


def another_is_held(lone: Lone) -> None:
    lone.hold(lone.other())


def nothing_is_held(lone: Lone) -> None:
    lone.client.delete(lone.tasks.keys.taken(CONSUMER))


def the_lease_is_lost(lone: Lone) -> None:
    nothing_is_held(lone)
    lone.client.delete(lone.tasks.keys.leases)


def the_client_is_gone(lone: Lone) -> None:
    lone.client.delete(lone.replies.keys.bound)


def the_task_has_a_blob(lone: Lone) -> None:
    blob = lone.tasks.blob(1)
    lone.task = blob[:14] + lone.task[14:30] + blob[30:]
    lone.hold(lone.task)
    lone.client.hset(lone.tasks.keys.blobs, BLOB_ID + bytes(4), "chunk")


def the_answer_has_a_blob(lone: Lone) -> None:
    lone.answer = lone.tasks.blob(1)[:14] + lone.answer[14:]


def no_room_is_signalled(lone: Lone) -> None:
    lone.client.delete(lone.tasks.keys.not_full)


def another_generation(lone: Lone) -> None:
    lone.generation = b"generation-2"


def it_is_absent(lone: Lone) -> None:
    lone.client.delete(lone.tasks.keys.bound)


def it_counts_for_the_second_time(lone: Lone) -> None:
    lone.client.set(lone.tasks.keys.consumed_messages, 1)
    lone.client.set(lone.tasks.keys.consumed_bytes, 100)


def usual(lone: Lone) -> None:
    pass


SETTINGS: dict[str, dict[str, Any]] = {
    "unbounded": {"bound": 0},
    "for ever": {"ttl": 0, "reply_ttl": 0},
    "for ever, unbounded": {"ttl": 0, "reply_ttl": 0, "bound": 0},
    "registered": {"waiter": ""},
    "no claim": {"count": 0},
    "one": {"count": 1},
}
SITUATIONS = [
    usual,
    paused,
    closed,
    joined,
    more_is_queued,
    more_is_held,
    an_older_one_is_held,
    another_is_held,
    nothing_is_held,
    the_lease_is_lost,
    the_client_is_gone,
    the_task_has_a_blob,
    the_answer_has_a_blob,
    no_room_is_signalled,
    another_generation,
    it_is_absent,
    it_counts_for_the_second_time,
]


def differences(
    client: redis.Redis, name: str, situation: Callable[[Lone], None], settings: dict[str, Any]
) -> tuple[Any, Any]:
    """What the two ways do, from there."""
    made = Scripts(client, name)
    task, answer = made.value(b"task"), made.value(b"answer")
    results = []
    for way, script in (("quick", None), ("long", at_length())):
        lone = Lone(client, f"{name}-{way}", task, answer)
        vars(lone).update(settings)
        lone.begin()
        situation(lone)
        results.append(lone.finish(script))
    return results[0], results[1]


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.__name__)
def test_both_ways_do_the_same(
    client: redis.Redis, queue_name: str, situation: Callable[[Lone], None]
) -> None:
    quick, long = differences(client, queue_name, situation, {})
    assert quick == long


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=[*SETTINGS])
def test_both_ways_do_the_same_with_other_settings(
    client: redis.Redis, queue_name: str, settings: dict[str, Any]
) -> None:
    quick, long = differences(client, queue_name, usual, settings)
    assert quick == long


def test_the_quick_way_is_taken(client: redis.Redis, queue_name: str) -> None:
    script = at_length()
    lone = Lone(client, queue_name, *(Scripts(client, queue_name).value(b"x") for _ in "12"))
    lone.begin()
    client.config_resetstat()
    reply, there = lone.finish(None)
    assert Status(reply[0]) == Status.EMPTY
    assert there["replies"][0] == [lone.answer]
    assert "lindex" not in str(client.info("commandstats")), "it looks at the list's ends at length"
    assert "LINDEX" in script.text
