"""A worker waits for a task while its queue loses all keys and is made anew, its connection intact.

What its `BLMOVE` is brought then belongs to a queue that knows nobody of its name, so no reaper
looks there. None of that may be lost.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from pressure import exchanging, lifecycle
from pressure.channel import estate
from pressure.core import Core
from pressure.envelope import MESSAGE_ID, caps
from pressure.errors import QueueDoesNotExistError
from pressure.protocol import Command, Outcome, Status
from pressure.requests import Flow
from pressure.serializers import serializer_for
from pressure.settings import Settings
from tests.redis.scripting import GENERATION, LEASE_MS, ME, Scripts
from tests.redis.stepping import Actor, Link, Wire, standing_time
from tests.support.servers import ServerProcess

OK = Status.OK
OLD = b"generation-0"


class TestScript:
    """What `exchange` does for a consumer that the queue doesn't know."""

    @pytest.fixture
    def p(self, client: redis.Redis, queue_name: str) -> Scripts:
        return Scripts(client, queue_name)

    def exchange(self, p: Scripts, done: list[bytes], *, whole: bool, generation: bytes) -> Status:
        command = p.protocol.exchange(
            generation,
            b"consumer",
            ME,
            [Outcome(tag, None, b"") for tag in done],
            lease_ms=LEASE_MS,
            known=True,
            count=4,
            moved=100,
            held=done if whole else [],
        )
        status: Status = p.run(command)[0]
        return status

    def brought(self, p: Scripts, *values: bytes, bound: int = 0) -> list[bytes]:
        """The tags of what the queue gets, and BLMOVE moves to the consumer."""
        p.create(bound)
        p.put(*values)
        for _ in values:
            p.run(p.protocol.blocking_take(b"consumer", 0.1), check=False)
        assert len(p.held()) == len(values)
        return [p.tag(value) for value in values]

    @pytest.mark.parametrize("done", ["nothing", "one", "all", "all, as a whole"])
    def test_what_another_queue_has_brought_goes_back(self, p: Scripts, done: str) -> None:
        tags = self.brought(p, p.value(b"a"), p.value(b"b"), bound=3)
        p.put(b"c", b"d")
        assert p.queued() == [b"c", b"d"]
        said = {"nothing": [], "one": tags[:1]}.get(done, tags)
        status = self.exchange(p, said, whole="whole" in done, generation=OLD)
        assert status == Status.AGAIN
        assert (p.queued(), p.held()) == ([b"a", b"b", b"c", b"d"], [])
        assert not p.client.exists(p.keys.consumed_messages, p.keys.departed)
        assert {caps(item)[1] for item in p.client.lrange(p.keys.base, 0, -1)} == {0}

    @pytest.mark.parametrize("whole", [False, True])
    def test_what_may_be_delivered_once_and_was_begun_is_charged(
        self, p: Scripts, whole: bool
    ) -> None:
        (tag,) = self.brought(p, p.value(b"a", max_deliveries=1))
        assert self.exchange(p, [tag], whole=whole, generation=OLD) == Status.AGAIN
        assert [caps(item) for item in p.client.lrange(p.keys.base, 0, -1)] == [(1, 1)]

    def test_what_may_be_delivered_once_and_was_not_begun_is_not(self, p: Scripts) -> None:
        self.brought(p, p.value(b"a", max_deliveries=1))
        assert self.exchange(p, [], whole=False, generation=OLD) == Status.AGAIN
        assert [caps(item) for item in p.client.lrange(p.keys.base, 0, -1)] == [(1, 0)]

    def test_who_has_heard_of_the_new_queue_and_is_unknown_there(self, p: Scripts) -> None:
        self.brought(p, p.value(b"a"))
        assert self.exchange(p, [], whole=False, generation=GENERATION) == Status.LOST
        assert (p.queued(), p.held()) == ([b"a"], [])

    def test_what_a_reaper_looks_for_is_left_to_it(self, p: Scripts) -> None:
        self.brought(p, p.value(b"a"))
        p.client.zadd(p.keys.departed, {b"consumer": 1})
        assert self.exchange(p, [], whole=False, generation=GENERATION) == Status.LOST
        assert (p.queued(), p.held()) == ([], [b"a"])

    def test_of_a_deleted_queue_nothing_is_left(self, p: Scripts) -> None:
        self.brought(p, p.value(b"a"))
        keys = p.client.keys(f"*{p.keys.name}*")
        p.client.delete(*[key for key in keys if b":taken:" not in key])
        assert self.exchange(p, [], whole=False, generation=OLD) == Status.ABSENT
        assert p.client.keys(f"*{p.keys.name}*") == []


class Stage:
    """A worker, a client with a handle of its own, and a supervisor with another."""

    def __init__(self, server: ServerProcess, name: str, clock: object) -> None:
        self.wire = Wire(server.client())
        self.clock, self.name = clock, name
        self.worker, self.client, self.boss = (self.actor(n) for n in ("worker", "client", "boss"))
        self.results: list[object] = []
        self.create()
        for actor in (self.worker, self.boss):
            actor.core.learn(self.client.core.generation, 0)
        self.exchange(0)

    def actor(self, name: str) -> Actor:
        core = Core[Link](self.name, "__test__", serializer_for("pickle"), Settings())
        return Actor(name, self.wire, self.clock, core)  # type: ignore[arg-type]

    def run(self, actor: Actor, flow: Flow[object]) -> object:
        self.begin(actor, flow)
        while actor.busy:
            actor.step(slice_over=True)
        return self.results[-1]

    def begin(self, actor: Actor, flow: Flow[object]) -> None:
        actor.start("", flow, lambda result, error: self.results.append(error or result))

    def create(self) -> None:
        assert not isinstance(
            self.run(self.client, lifecycle.create(self.client.core, 0)), Exception
        )

    def exchange(self, count: int, *done: bytes) -> object:
        outcomes = [Outcome(item[MESSAGE_ID], None, b"") for item in done]
        worker = self.worker
        return self.run(
            worker, exchanging.exchange(worker.core, worker.session, outcomes, count, 0.0)
        )

    def brought_by_another_queue(self, *, cap: int) -> bytes:
        """The worker blocks; the queue is lost, made anew, and gets a task."""
        worker = self.worker
        self.begin(worker, exchanging.wait_for_one(worker.core, worker.session, None))
        worker.step()
        assert worker.blocked
        self.wire.send("DEL", *self.wire.send("KEYS", f"__test__:{self.name}*"))
        self.create()
        codec = self.client.core.codec
        assert codec is not None
        task: bytes = codec.pack(b"i" * 16, b"task", max_deliveries=cap)
        self.wire.send("LPUSH", self.client.core.protocol.keys.base, task)
        worker.step()
        assert self.results[-1] == task
        return task

    def lists(self) -> tuple[list[bytes], list[bytes]]:
        """What is queued, and the names of the lists of what is held."""
        queued: list[bytes] = self.wire.send("LRANGE", self.client.core.protocol.keys.base, 0, -1)
        return queued, self.wire.send("KEYS", f"__test__:{self.name}:taken:*")


@pytest.fixture
def stage(server: ServerProcess, queue_name: str) -> Iterator[Stage]:
    with standing_time() as clock:
        made = Stage(server, queue_name, clock)
        yield made
        made.wire.client.close()


@pytest.mark.parametrize("cap", [0, 1, 3])
def test_its_outcome_is_thrown_away_and_it_is_found_again(stage: Stage, cap: int) -> None:
    task = stage.brought_by_another_queue(cap=cap)
    found = stage.exchange(1, task)
    assert isinstance(found, list) and len(found) == 1
    again: bytes = found[0]
    assert again[MESSAGE_ID] == task[MESSAGE_ID]
    # Of what may be delivered once, the next one says that it is lost.
    assert caps(again) == (cap, int(cap == 1))
    assert stage.exchange(0, again) == []
    assert stage.lists() == ([], [])


@pytest.mark.parametrize("lose", ["reply", "request"])
def test_if_the_reply_is_lost_the_reaper_finds_it(stage: Stage, lose: str) -> None:
    task = stage.brought_by_another_queue(cap=0)
    worker = stage.worker
    outcomes = [Outcome(task[MESSAGE_ID], None, b"")]
    stage.begin(worker, exchanging.exchange(worker.core, worker.session, outcomes, 1, 0.0))
    worker.step(lose)
    while worker.busy:
        worker.step(slice_over=True)
    stage.run(stage.boss, _reap_departed(stage))
    queued, held = stage.lists()
    mine = stage.results[-2]
    assert isinstance(mine, list) and queued + mine == [task]
    assert len(held) == len(mine)


def _reap_departed(stage: Stage) -> Flow[object]:
    core = stage.boss.core
    departed = yield Command(("ZRANGE", core.protocol.keys.departed, 0, -1))
    for consumer in departed:
        yield core.protocol.reap(consumer)
    return None


@pytest.mark.parametrize("knows", ["the old queue", "the new queue"])
def test_a_supervisor_that_has_ended_it_says_so(stage: Stage, knows: str) -> None:
    task = stage.brought_by_another_queue(cap=0)
    if knows == "the new queue":
        stage.boss.core.learn(stage.client.core.generation, 0)
    outcome = Outcome(task[MESSAGE_ID], None, b"")
    flow = estate._conclude(stage.boss.core, stage.worker.session.consumer, outcome)
    assert stage.run(stage.boss, flow) is True
    assert stage.lists() == ([], [])


def test_a_supervisor_finds_nothing_in_a_queue_that_is_gone(stage: Stage) -> None:
    task = stage.brought_by_another_queue(cap=0)
    stage.wire.send("DEL", *stage.wire.send("KEYS", f"__test__:{stage.name}*"))
    outcome = Outcome(task[MESSAGE_ID], None, b"")
    flow = estate._conclude(stage.boss.core, stage.worker.session.consumer, outcome)
    assert stage.run(stage.boss, flow) is False
    assert isinstance(stage.exchange(1, task), QueueDoesNotExistError)
    assert stage.lists() == ([], [])
