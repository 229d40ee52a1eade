"""A lost reply to `exchange`, where what was acknowledged and what came with it share a tag.

So it is with a notice of a task and its answer, and with the answers to a task that was tried
twice. The second must not be taken for the first and acknowledged unread.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from pressure import exchanging, lifecycle
from pressure.channel import estate
from pressure.core import Core
from pressure.envelope import MESSAGE_ID
from pressure.protocol import Outcome
from pressure.serializers import serializer_for
from pressure.settings import Settings
from tests.redis.stepping import Actor, Link, Wire, standing_time
from tests.support.servers import ServerProcess


class Stage:
    """One consumer, which exchanges, and whoever puts."""

    def __init__(self, server: ServerProcess, name: str, clock: object) -> None:
        wire = Wire(server.client())
        core = Core[Link](name, "__test__", serializer_for("pickle"), Settings())
        self.consumer = Actor("consumer", wire, clock, core)  # type: ignore[arg-type]
        self.wire, self.core = wire, core
        self.tag = uuid.uuid4().bytes
        self.results: list[object] = []
        self.consumer.start("create", lifecycle.create(core, 0), self._ended)
        self.run()

    def _ended(self, result: object, error: BaseException | None) -> None:
        assert error is None, error
        self.results.append(result)

    def put(self, text: bytes) -> bytes:
        codec = self.core.codec
        assert codec is not None
        value = codec.pack_plain(self.tag, text)
        self.wire.send("LPUSH", self.core.protocol.keys.base, value)
        return value

    def exchange(self, *done: bytes, lose: str = "", all_done: bool = False) -> list[bytes]:
        outcomes = [Outcome(value[MESSAGE_ID], None, b"") for value in done]
        flow = exchanging.exchange(
            self.core, self.consumer.session, outcomes, 10, 0.0, all_done=all_done
        )
        self.consumer.start("exchange", flow, self._ended)
        if lose:
            self.consumer.step(lose)
        self.run()
        found = self.results[-1]
        assert isinstance(found, list)
        return found

    def run(self) -> None:
        while self.consumer.busy:
            self.consumer.step(slice_over=True)

    def held(self) -> list[bytes]:
        taken = self.core.protocol.keys.taken(self.consumer.session.consumer)
        held: list[bytes] = self.wire.send("LRANGE", taken, 0, -1)
        return held


@pytest.fixture
def stage(server: ServerProcess, queue_name: str) -> Iterator[Stage]:
    with standing_time() as clock:
        made = Stage(server, queue_name, clock)
        yield made
        made.wire.client.close()


@pytest.mark.parametrize("lose", ["", "reply", "request"])
def test_what_came_with_the_lost_reply_is_found(stage: Stage, lose: str) -> None:
    notice = stage.put(b"notice")
    assert stage.exchange() == [notice]
    answer = stage.put(b"answer")
    assert stage.exchange(notice, lose=lose) == [answer]
    assert stage.held() == [answer]
    assert stage.exchange(answer) == []
    assert stage.held() == []


@pytest.mark.parametrize("lose", ["", "reply", "request"])
def test_all_that_is_held_is_done(stage: Stage, lose: str) -> None:
    notice = stage.put(b"notice")
    assert stage.exchange() == [notice]
    answer = stage.put(b"answer")
    assert stage.exchange(all_done=True, lose=lose) == [answer]
    assert stage.held() == [answer]
    assert stage.exchange(all_done=True, lose=lose) == []
    assert stage.held() == []


def test_if_it_holds_more_what_is_known_is_done(stage: Stage) -> None:
    known = stage.put(b"known")
    assert stage.exchange() == [known]
    core, consumer = stage.core, stage.consumer
    late = core.codec.pack_plain(uuid.uuid4().bytes, b"late")  # type: ignore[union-attr]
    stage.wire.send("LPUSH", core.protocol.keys.taken(consumer.session.consumer), late)
    assert stage.exchange(all_done=True) == []
    assert stage.held() == [late]


def test_what_was_found_is_found_again_if_the_outcomes_were_cut_short(stage: Stage) -> None:
    first = stage.put(b"first")
    assert stage.exchange() == [first]
    second = stage.put(b"second")
    consumer, core = stage.consumer, stage.core
    consumer.start("wait", exchanging.wait_for_one(core, consumer.session, None), stage._ended)
    consumer.step("reply")
    outcomes = [Outcome(first[MESSAGE_ID], None, b"")]
    flow = exchanging.exchange(core, consumer.session, outcomes, 10, 0.0)
    consumer.start("exchange", flow, stage._ended)
    consumer.step()
    # It has found the second, and is about to record what became of the first.
    consumer.abandon()
    assert stage.exchange(first) == [second]
    assert stage.held() == [second]


@pytest.mark.parametrize("lose", ["", "reply", "request"])
def test_two_of_a_tag_are_acknowledged_one_by_one(stage: Stage, lose: str) -> None:
    notice, answer = stage.put(b"notice"), stage.put(b"answer")
    assert stage.exchange() == [notice, answer]
    assert stage.exchange(notice, lose=lose) == []
    assert stage.held() == [answer]
    assert stage.exchange(answer, lose=lose) == []
    assert stage.held() == []


@pytest.mark.parametrize("lose", ["", "reply", "request"])
def test_who_ends_a_task_knows_that_it_was_recorded(stage: Stage, lose: str) -> None:
    task = stage.put(b"task")
    assert stage.exchange() == [task]
    outcome = Outcome(task[MESSAGE_ID], None, b"")
    flow = estate._conclude(stage.core, stage.consumer.session.consumer, outcome)
    stage.consumer.start("conclude", flow, stage._ended)
    if lose:
        stage.consumer.step(lose)
    stage.run()
    assert stage.results[-1] is True
    assert stage.held() == []
