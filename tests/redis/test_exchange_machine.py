"""Any interleaving of workers that claim tasks and record what became of them, of the clients that
put these and read the answers, and of a supervisor; any of which may lose a reply or die.

As in `test_state_machine`, each command is a step. After every one the queue of tasks and both
reply queues are held against the invariants of `protocol.md`, and it must be true that a task and
its outcome change places at one instant: no outcome is recorded twice, and none is lost whose lease
holds.

`PRESSURE_STATE_MACHINE=N` runs N examples that differ each time, instead of the few fixed ones.
"""

from __future__ import annotations

import os
import pickle
import random
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pressure import blobs, flows, lifecycle, recovering, upkeep
from pressure.channel import channel, consuming, estate
from pressure.channel.consuming import Consumer, Verdict
from pressure.channel.replies import Opaque, reply_core
from pressure.content import Buffer
from pressure.core import Core
from pressure.errors import PressureError, QueueClosedError
from pressure.parcels import Delivery, Record, pack
from pressure.protocol import Command, Outcome
from pressure.requests import Flow
from pressure.settings import Settings
from tests.redis.invariants import SEVERAL, Ledger, Snapshot, Step, snapshot
from tests.redis.stepping import FATES, Actor, Link, Wire, standing_time
from tests.support.servers import ServerProcess

EXAMPLES = int(os.environ.get("PRESSURE_STATE_MACHINE", "0"))
LEASE = 3600.0
NOW, LATER = float("-inf"), None
WORKERS = ("w1", "w2", "w3")
READERS = ("r0", "r1")
ACTORS = (*WORKERS, *READERS, "client", "boss")

one_worker = st.sampled_from(WORKERS)
fates = st.sampled_from(["", "", "", "", "reply", "request"])


class Host:
    """As much of a handle as a `Consumer` needs whose flows are run by the test."""

    def __init__(self, actor: Actor) -> None:
        self.core = actor.core
        self._session = actor.session

    def acquire(self) -> Any:
        return self._session


@dataclass
class Operation:
    """What somebody is in the middle of: the tasks that it speaks of, each with the number of its
    client and its answer (None: none), and those that it buries."""

    answers: dict[str, tuple[int, str] | None] = field(default_factory=dict)
    buries: frozenset[str] = frozenset()
    large: frozenset[str] = frozenset()
    values: tuple[str, ...] = ()
    recorded: set[str] = field(default_factory=set)
    over: bool = False


@dataclass
class Side:
    """A queue, as it was after the last command, and what must hold there."""

    core: Core[Link]
    ledger: Ledger
    before: Snapshot

    def look(self, wire: Wire) -> Snapshot:
        return snapshot(wire.client, self.core.protocol.keys, raw=False)


def join(answers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Several answers as one, which begins as an executor's do."""
    text = "+".join(pickle.loads(answer) for _, answer in answers)
    return SEVERAL + len(answers).to_bytes(2, "big") + pickle.dumps(text)


def text_of(body: Buffer) -> str:
    text: str = pickle.loads(body[3:] if body[:1] == SEVERAL else body)
    return text.strip("-")


class Holder:
    """What a worker or a reader was handed and has not said to be done with."""

    def __init__(self, actor: Actor, side: Side) -> None:
        self.actor = actor
        self.side = side
        self.consumer = Consumer(Host(actor), join)  # type: ignore[arg-type]
        self.life = actor.session.life
        self.held: list[tuple[str, Delivery]] = []
        # Handed to it, and taken from it by others since.
        self.lost: set[str] = set()

    def hand_out(self, deliveries: list[Delivery]) -> list[str]:
        if self.life != self.actor.session.life:
            # It has lost its lease, and knows.
            self.life = self.actor.session.life
            self.held.clear()
        fresh = []
        for delivery in deliveries:
            if delivery.error:
                # Somebody else has finished it since; what is said of it now will be dropped.
                consumer = self.actor.session.consumer
                assert consumer not in self.side.before.leases, delivery.error
                continue
            item = text_of(delivery.body)
            if item in self.lost:
                self.held = [one for one in self.held if one[0] != item]
            assert item not in [one for one, _ in self.held], f"{item} was handed out twice"
            self.held.append((item, delivery))
            # Its lease may have been over before this came here.
            if item in self.side.before.taken.get(self.actor.session.consumer, ()):
                self.lost.discard(item)
            else:
                self.lost.add(item)
            fresh.append(item)
        return fresh


def put(core: Core[Link], actor: Actor, records: list[Record], until: Any, mode: str) -> Flow[int]:
    """What a channel's producer does."""
    codec = core.codec
    assert codec is not None
    values = []
    for record in records:
        values.append((yield from pack(core, codec, record)))
    return (yield from flows.put(core, actor.session, values, until, mode))


def wait(consumer: Consumer) -> Flow[list[Delivery]]:
    """What a worker of several queues does: one request that blocks."""
    waiting = consumer.waiting()
    item = None if waiting is None else (yield from waiting)
    return [] if item is None else (yield from consumer._opened([item]))


def take_next(consumer: Consumer) -> Flow[list[Delivery]]:
    delivery = yield from consumer._next(LATER)
    return [] if delivery is None else [delivery]


def give_back(holder: Holder, ids: list[bytes], charge: bool) -> Flow[None]:
    """What `Consumer.give_back` does."""
    session = holder.actor.session
    yield holder.actor.core.protocol.give_back(session.consumer, ids, charge=charge)
    for id in ids:
        session.leased.pop(id, None)
        session.marks.pop(id, None)


def one(command: Command) -> Flow[Any]:
    return (yield command)


class ExchangeMachine(RuleBasedStateMachine):
    """Three workers, two clients' reply queues and who reads them, who puts, and a supervisor."""

    server: ServerProcess

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.clock = self.stack.enter_context(standing_time())
        ids = random.Random(0)
        self.stack.enter_context(mock.patch("os.urandom", ids.randbytes))
        # So that some tasks and answers travel beside the lists.
        for module in (blobs, consuming):
            for limit in ("INLINE_BYTES", "CROWDED_BYTES"):
                self.stack.enter_context(mock.patch.object(module, limit, 40))
        self.wire = Wire(self.server.client())
        self.name = f"x-{uuid.uuid4().hex[:12]}"
        self.number = 0
        self.eager = 9
        self.fates: tuple[str, ...] = ()
        self.late: list[tuple[str, str, Command, Operation]] = []
        self.recorded: dict[str, str | None] = {}
        self.read: Counter[str] = Counter()
        self.dead: list[tuple[bytes, list[tuple[str, Delivery]]]] = []
        self.now: dict[str, Operation] = {}

    @initialize(bound=st.integers(0, 5))
    def begin(self, bound: int) -> None:
        self.options = Settings(lease=LEASE)
        first = self.new_core()
        self.tasks = self.side(first, ttl=False)
        self.replies = [self.side(reply_core(first, bytes([n]) * 16), ttl=True) for n in range(2)]
        self.actors = {}
        self.holders: dict[str, Holder] = {}
        for name in ("client", "boss"):
            self.actors[name] = Actor(name, self.wire, self.clock, first)
        for number, name in enumerate(READERS):
            self.enter(name, self.replies[number].core, self.replies[number])
        for name in WORKERS:
            self.enter(name, self.new_core(), self.tasks)
        self.start("client", "create", lifecycle.create(first, bound))
        self.run_out("client")
        for number, name in enumerate(READERS):
            core, generation = self.replies[number].core, (bytes([number]) * 16).hex().encode()
            self.start(name, "create", lifecycle.create(core, 0, generation))
            self.run_out(name)
        self.put(3, 0, False)

    def new_core(self) -> Core[Link]:
        core = Core[Link](self.name, "__machine__", Opaque(), self.options)
        core.learn(self.tasks.core.generation if hasattr(self, "tasks") else b"", 0)
        return core

    def side(self, core: Core[Link], *, ttl: bool) -> Side:
        before = snapshot(self.wire.client, core.protocol.keys, raw=False)
        return Side(core, Ledger(raw=False, ttl=ttl, mixed=False), before)

    def enter(self, name: str, core: Core[Link], side: Side) -> None:
        self.actors[name] = Actor(name, self.wire, self.clock, core)
        self.holders[name] = Holder(self.actors[name], side)

    def teardown(self) -> None:
        try:
            if hasattr(self, "replies"):
                self.finish()
        finally:
            left = self.wire.client.keys(f"__machine__:{self.name}*")
            if left:
                self.wire.client.delete(*left)
            self.wire.client.close()
            self.stack.close()

    # Steps

    def start(
        self,
        name: str,
        doing: str,
        flow: Flow[Any],
        ended: Callable[[Any, BaseException | None], None] = lambda result, error: None,
        operation: Operation | None = None,
    ) -> None:
        current = self.now[name] = operation or Operation()

        def judged(result: Any, error: BaseException | None) -> None:
            if error is not None and not isinstance(error, PressureError):
                raise error
            note(f"{name}: {doing} -> {result if error is None else error!r}")
            current.over = True
            ended(result, error)

        self.actors[name].start(doing, flow, judged)
        for at in range(self.eager):
            if not self.actors[name].busy or self.actors[name].blocked:
                break
            self.run_step(name, self.fates[at] if at < len(self.fates) else "")

    def run_step(self, name: str, lose: str, *, slice_over: bool = False) -> None:
        actor, operation = self.actors[name], self.now[name]
        request, doing, consumer = actor.request, actor.doing, actor.session.consumer
        command = getattr(request, "command", request)
        original = self.wire.send

        def send(*words: Any) -> Any:
            reply = original(*words)
            if isinstance(command, Command):
                self.check(name, command, doing, operation, consumer, lose)
            return reply

        with mock.patch.object(self.wire, "send", send):
            lost = actor.step(lose, slice_over=slice_over)
        if lost is not None:
            self.late.append((name, doing, lost, operation))

    def check(
        self,
        name: str,
        command: Command,
        doing: str,
        operation: Operation,
        consumer: bytes,
        lose: str,
    ) -> None:
        script = command.script.name if command.script else str(command.words[0])
        whose = self.holders[name].side if name in self.holders else self.tasks
        if whose is not self.tasks:
            now = whose.look(self.wire)
            note(f"  {name} {script} {lose}: {now.base} {now.taken}")
            held = now.taken.get(consumer, []) if script == "exchange" else []
            self.judge(whose, now, Step(script, doing, tuple(held), lose))
            return
        tasks = self.tasks.look(self.wire)
        owned = {self.owner(of): items for of, items in tasks.taken.items()}
        note(f"  {name} {script} {lose}: {tasks.base} {owned}")
        values = operation.values
        if doing == "notice":
            for side in self.replies:
                self.judge(side, side.look(self.wire), Step(script, doing, values, lose))
        elif script in ("exchange", "announce"):
            self.answers(tasks, operation, doing, lose)
            values = tuple(tasks.taken.get(consumer, ())) if script == "exchange" else ()
        self.judge(self.tasks, tasks, Step(script, doing, values, lose))

    def answers(self, tasks: Snapshot, operation: Operation, doing: str, lose: str) -> None:
        """What an exchange has recorded lies in the reply queues now, or is counted."""
        done = self.outcomes(self.tasks.before, tasks, operation)
        least = most = 0
        for number, side in enumerate(self.replies):
            now = side.look(self.wire)
            said = [operation.answers[task] for task in done]
            values = tuple(one[1] for one in said if one and one[0] == number)
            new = [item for item in now.base if item not in side.before.items]
            if now.exists:
                each = [answer for item in new for answer in item.split("+")]
                assert each == list(values), f"{new} and not {values} was recorded"
                values = tuple(new)
            else:
                # Whose answer is large may have heard of that before.
                large = operation.large.intersection(values)
                least, most = least + len(values) - len(large), most + len(values)
            self.judge(side, now, Step("answer", doing, values, lose))
        orphans = tasks.orphans - self.tasks.before.orphans
        assert least <= orphans <= most, f"{orphans} orphans, not {least} to {most}"

    def judge(self, side: Side, now: Snapshot, step: Step) -> None:
        before, side.before = side.before, now
        if step.script in ("reap", "leave"):
            for holder in self.holders.values():
                if holder.side is side and holder.actor.session.consumer not in now.leases:
                    self.lose(side, before.taken.get(holder.actor.session.consumer, ()))
        side.ledger.judge(before, now, step)

    def outcomes(self, before: Snapshot, after: Snapshot, operation: Operation) -> list[str]:
        """The tasks whose outcomes an exchange has recorded, in the order in which it names them.
        Their answers must be where they belong."""
        finished = set(before.held) - set(after.items)
        buried = set(after.letters) - set(before.letters)
        assert not (finished or buried) or not operation.over, "an exchange was done after its end"
        assert buried <= operation.buries, f"{buried} were buried"
        assert finished <= operation.answers.keys() - operation.buries, f"{finished} vanished"
        done = [task for task in operation.answers if task in finished | buried]
        for task in done:
            assert task not in self.recorded, f"two outcomes of {task} were recorded"
            said = operation.answers[task]
            self.recorded[task] = said and said[1]
        operation.recorded.update(done)
        return done

    def owner(self, consumer: bytes) -> str:
        names = [a.name for a in self.actors.values() if a.session.consumer == consumer]
        return names[0] if names else consumer[:3].hex()

    def lose(self, side: Side, items: Any) -> None:
        """These are no longer of whoever holds them, or soon will not be."""
        for holder in self.holders.values():
            if holder.side is side:
                holder.lost.update(items)

    # What the clients do

    def idle(self, name: str) -> bool:
        return not self.actors[name].busy

    @rule(count=st.integers(1, 4), client=st.integers(0, 1), until=st.booleans())
    def put(self, count: int, client: int, until: bool) -> None:
        if not self.idle("client"):
            return
        records, values = [], []
        for _ in range(count):
            self.number += 1
            text = f"t{self.number}" + ("-" * 60 if self.number % 4 == 0 else "")
            values.append(text.strip("-"))
            records.append(Record(bytes(12) + self.number.to_bytes(4, "big"), pickle.dumps(text)))
        actor = self.actors["client"]
        core = actor.core
        core.client_id = bytes([client]) * 16
        core.learn(core.generation, core.bound)

        def ended(accepted: Any, error: BaseException | None) -> None:
            accepted = accepted if error is None else error.accepted  # type: ignore[attr-defined]
            self.tasks.ledger.put_ended(tuple(values), accepted)

        flow = put(core, actor, records, LATER if until else NOW, "")
        self.start("client", "put", flow, ended, Operation(values=tuple(values)))

    @rule(
        who=st.integers(0, 1),
        mask=st.integers(0, 31),
        count=st.integers(0, 4),
        until=st.booleans(),
    )
    def read_answers(self, who: int, mask: int, count: int, until: bool) -> None:
        """A client acknowledges some of what it has read, and reads on."""
        name = READERS[who]
        holder = self.holders[name]
        if not self.idle(name) or not holder.side.before.exists:
            return
        picked = [one for at, one in enumerate(holder.held) if mask >> (at % 5) & 1]
        # Of those of one task, the older first.
        wanted = Counter(delivery.id for _, delivery in picked)
        done: list[tuple[str, Delivery]] = []
        for text, delivery in holder.held:
            if wanted[delivery.id] > 0:
                wanted[delivery.id] -= 1
                done.append((text, delivery))
        ids = [delivery.id for _, delivery in done]
        flow = holder.consumer._exchange((), count, LATER if until else NOW, ids, True)
        self.exchange(name, flow, {text: None for text, _ in done})

    # What the workers do

    @rule(
        name=one_worker,
        mask=st.sampled_from([0, 31, 31, 31, 1, 2, 6, 21]),
        kinds=st.sampled_from([0, 0, 0, 0b01, 0b10, 0b11]),
        count=st.integers(0, 4),
        until=st.booleans(),
        registers=st.sampled_from([False, False, False, True]),
    )
    def work(
        self, name: str, mask: int, kinds: int, count: int, until: bool, registers: bool
    ) -> None:
        """Record outcomes of some of what it holds, or of all, and claim."""
        holder = self.holders[name]
        if not self.idle(name):
            return
        picked = [one for at, one in enumerate(holder.held) if mask >> (at % 5) & 1]
        verdicts, done = [], []
        answers: dict[str, tuple[int, str] | None] = {}
        buries, large = set(), set()
        self.number += 1
        for at, (task, delivery) in enumerate(picked):
            if kinds & 1 and (at + self.number) % 2:
                # All or some, without an answer.
                done.append(delivery.id)
                answers[task] = None
                continue
            text = f"a:{task}:{name}:{self.number}"
            body = pickle.dumps(text + ("-" * 60 if (at + self.number) % 3 == 0 else ""))
            if len(body) > blobs.INLINE_BYTES:
                large.add(text)
            letter = "{}" if kinds & 2 and at % 2 else ""
            if letter:
                buries.add(task)
            verdicts.append(Verdict(delivery, body, letter))
            answers[task] = delivery.client_id[0], text
        # As it names them to the server.
        order = {task: None for task in answers if answers[task] is None} | answers
        until_ = LATER if until else NOW
        flow = holder.consumer._exchange(verdicts, count, until_, done, not registers)
        self.exchange(name, flow, order, frozenset(buries), frozenset(large))

    @rule(name=one_worker, count=st.integers(1, 4), until=st.booleans())
    def claim(self, name: str, count: int, until: bool) -> None:
        """The beginning of all else, and so done more often."""
        self.work(name, 0, 0, count, until, False)

    @rule(name=one_worker, count=st.integers(0, 4))
    def all_done(self, name: str, count: int) -> None:
        holder = self.holders[name]
        if self.idle(name):
            ids = [delivery.id for _, delivery in holder.held]
            flow = holder.consumer._exchange((), count, NOW, ids, True)
            self.exchange(name, flow, {task: None for task, _ in holder.held})

    def exchange(
        self,
        name: str,
        flow: Flow[Any],
        answers: dict[str, tuple[int, str] | None],
        buries: frozenset[str] = frozenset(),
        large: frozenset[str] = frozenset(),
    ) -> None:
        holder = self.holders[name]
        side = holder.side
        side.ledger.released.update(answers)
        operation = Operation(answers, buries, large)
        life = holder.actor.session.life

        def ended(found: Any, error: BaseException | None) -> None:
            assert error is None or isinstance(error, QueueClosedError), error
            if holder.actor.session.life == life:
                holder.held = [one for one in holder.held if one[0] not in answers]
            if side is self.tasks:
                missing = answers.keys() - operation.recorded - holder.lost
                assert not missing, f"the outcomes of {missing} were dropped"
            self.handed(name, found or [])

        self.start(name, "exchange", flow, ended, operation)

    def handed(self, name: str, found: list[Delivery]) -> None:
        holder = self.holders[name]
        side = holder.side
        fresh = holder.hand_out(found)
        for item in fresh:
            for other in self.holders.values():
                if (
                    other is not holder
                    and other.side is side
                    and other.life == (other.actor.session.life)
                ):
                    own = item in [text for text, _ in other.held]
                    assert not own or item in other.lost, f"{item} was handed to two"
        if side is not self.tasks:
            self.read.update(fresh)
        session = holder.actor.session
        if not session.stale and side.before.exists and session.consumer in side.before.leases:
            there = set(side.before.taken.get(session.consumer, ()))
            mine = {text for text, _ in holder.held}
            assert there <= mine, f"{name} holds {there - mine} and does not know"
            assert mine - there <= holder.lost, f"{name} does not hold {mine - there}"

    @rule(name=one_worker, several=st.booleans())
    def wait_for_one(self, name: str, several: bool) -> None:
        """Wait without recording anything."""
        holder = self.holders[name]
        if self.idle(name):
            consumer = holder.consumer
            flow = wait(consumer) if several else take_next(consumer)
            self.start(name, "wait", flow, lambda found, error: self.handed(name, found or []))

    @rule(name=one_worker, first=st.integers(0, 3), charge=st.booleans(), boss=st.booleans())
    def give_back(self, name: str, first: int, charge: bool, boss: bool) -> None:
        """The worker returns what it has claimed, from the `first` on; or who watches over it does
        so in its name, and it does not know."""
        holder = self.holders[name]
        back = holder.held[first:]
        who = "boss" if boss else name
        if not back or not self.idle(who):
            return
        ids = [delivery.id for _, delivery in back]
        items = [task for task, _ in back]
        holder.lost.update(items)
        if boss:
            command = self.actors["boss"].core.protocol.give_back
            flow = one(command(holder.actor.session.consumer, ids, charge=False))
        else:
            flow = give_back(holder, ids, charge)
            holder.held = holder.held[:first]
            self.tasks.ledger.charges.update(items if charge else [])
        self.start(who, "give back", flow)

    @rule(name=one_worker, which=st.integers(0, 3))
    def notice(self, name: str, which: int) -> None:
        """A worker sends word of a task, under the same id as its answer will have."""
        holder = self.holders[name]
        if not holder.held or not self.idle(name):
            return
        task, delivery = holder.held[which % len(holder.held)]
        number = delivery.client_id[0]
        self.number += 1
        text = f"n:{task}:{self.number}"
        core = reply_core(holder.actor.core, delivery.client_id)
        flow = channel._notify(core, holder.actor.session, Record(delivery.id, pickle.dumps(text)))
        if self.replies[number].before.exists:
            self.start(name, "notice", flow, operation=Operation(values=(text,)))
            self.run_out(name)

    # What happens to those who are in the middle of something

    @rule(who=st.integers(0, 6), lose=fates, slice_over=st.booleans())
    def step(self, who: int, lose: str, slice_over: bool) -> None:
        busy = [name for name in ACTORS if not self.idle(name)]
        if busy:
            self.run_step(busy[who % len(busy)], lose, slice_over=slice_over)

    @rule(who=st.integers(0, 6), most=st.integers(2, 6))
    def steps(self, who: int, most: int) -> None:
        busy = [name for name in ACTORS if not self.idle(name)]
        for _ in range(most if busy else 0):
            if not self.idle(busy[who % len(busy)]):
                self.run_step(busy[who % len(busy)], "", slice_over=True)

    @rule(eager=st.sampled_from([0, 1, 2, 9, 9, 9]), these=st.sampled_from(FATES))
    def hurry(self, eager: int, these: tuple[str, ...]) -> None:
        """How far those get at once who begin something from now on, and what gets lost of it."""
        self.eager, self.fates = eager, these

    @precondition(lambda self: self.late)
    @rule(which=st.integers(0, 5))
    def arrives_late(self, which: int) -> None:
        """A command that was given up comes to the server after all."""
        name, doing, command, operation = self.late.pop(which % len(self.late))
        script = command.script.name if command.script else str(command.words[0])
        if script in ("delete", "close", "create", "BLPOP"):
            return
        self.wire.send_at_once(command)
        self.check(name, command, doing, operation, b"", "late")

    @rule(name=st.sampled_from([*WORKERS, *READERS]))
    def die(self, name: str) -> None:
        """Its process is gone; who comes next is another."""
        holder = self.holders[name]
        side, consumer = holder.side, holder.actor.session.consumer
        held = side.before.taken.get(consumer, ())
        if side is self.tasks:
            self.dead.append((consumer, list(holder.held)))
            core = self.new_core()
        else:
            core = reply_core(self.tasks.core, bytes([READERS.index(name)]) * 16)
        holder.actor.abandon()
        self.lose(side, held)
        self.enter(name, core, side)

    @rule(name=st.sampled_from([*WORKERS, *READERS]))
    def lease_runs_out(self, name: str) -> None:
        holder = self.holders[name]
        consumer = holder.actor.session.consumer
        if consumer in holder.side.before.leases:
            self.lose(holder.side, holder.side.before.taken.get(consumer, ()))
            keys = holder.side.core.protocol.keys
            self.wire.client.zadd(keys.leases, {consumer: 1}, xx=True)
            holder.side.before = holder.side.look(self.wire)

    @rule()
    def time_passes(self) -> None:
        """The leases of the dead run out, and the departed are to be looked at again."""
        living = {actor.session.consumer for actor in self.actors.values()}
        living |= {actor.session.heir for actor in self.actors.values()}
        for side in (self.tasks, *self.replies):
            keys = side.core.protocol.keys
            for consumer in side.before.leases.keys() - living:
                self.wire.client.zadd(keys.leases, {consumer: 1}, xx=True)
            for consumer in side.before.departed:
                self.wire.client.zadd(keys.departed, {consumer: 0}, xx=True)
            side.before = side.look(self.wire)

    @precondition(lambda self: self.dead)
    @rule(which=st.integers(0, 3), says=st.booleans(), at=st.integers(0, 3))
    def see_to_the_dead(self, which: int, says: bool, at: int) -> None:
        """A supervisor records what it has ended, or charges it, and gives back the others."""
        if not self.idle("boss"):
            return
        consumer, held = self.dead.pop(which % len(self.dead))
        core = self.actors["boss"].core
        keys: list[bytes] = []
        operation = Operation()
        outcome = None
        if held:
            task, delivery = held[at % len(held)]
            if says:
                self.number += 1
                text = f"a:{task}:boss:{self.number}"
                number = delivery.client_id[0]
                operation.answers[task] = number, text
                self.tasks.ledger.released.add(task)
                reply = reply_core(core, delivery.client_id)
                assert reply.codec is not None
                value = reply.codec.pack(delivery.id, pickle.dumps(text), max_deliveries=0)
                outcome = Outcome(delivery.id, reply.protocol.keys, value)
            else:
                keys.append(delivery.id)
                self.tasks.ledger.charges[task] += 1

        def bury() -> Flow[None]:
            if outcome is not None:
                ended = yield from estate._conclude(core, consumer, outcome)
                assert not ended or operation.answers.keys() <= self.recorded.keys()
                reaped = consumer not in self.tasks.before.leases
                assert ended or not operation.recorded or reaped, "it was recorded"
            yield core.protocol.reap(consumer, force=True, charge_oldest=False, charge=keys)

        def ended(did: Any, error: BaseException | None) -> None:
            assert error is None, error

        self.start("boss", "see to the dead", bury(), ended, operation)

    @rule(
        what=st.sampled_from(
            [
                *("reap", "reap", "reap", "reap answers", "pause", "resume", "resume"),
                *("set_bound", "set_bound", "close", "sign off", "sign off", "client leaves"),
            ]
        ),
        name=one_worker,
        who=st.integers(0, 1),
    )
    def other(self, what: str, name: str, who: int) -> None:
        reader, side = READERS[who], self.replies[who]
        core = self.actors["boss"].core
        if what == "sign off":
            self.sign_off(name)
        elif what in ("reap answers", "client leaves"):
            if not self.idle(reader) or not side.before.exists:
                return
            if what == "reap answers":
                self.start(reader, what, recovering.reap_due(self.actors[reader].core))
            else:
                # Nobody reads what comes later.
                self.start(reader, "delete", lifecycle.delete(side.core))
                self.run_out(reader)
        elif self.idle("boss"):
            flow: Flow[Any]
            if what == "reap":
                flow = recovering.reap_due(core)
            elif what == "set_bound":
                flow = one(core.protocol.set_bound(3))
            elif what == "close":
                flow = lifecycle.close(core)
            else:
                flow = lifecycle.pause(core) if what == "pause" else lifecycle.resume(core)
            self.start("boss", what, flow)

    def sign_off(self, name: str) -> None:
        holder = self.holders[name]
        if not self.idle(name):
            return
        core, session = holder.actor.core, holder.actor.session
        self.lose(self.tasks, [task for task, _ in holder.held])
        holder.held.clear()

        def ended(result: Any, error: BaseException | None) -> None:
            self.enter(name, core, self.tasks)

        self.start(name, "sign off", upkeep.sign_off(core, session), ended)

    # The end

    def run_out(self, name: str) -> None:
        for _ in range(200):
            if self.idle(name):
                return
            self.run_step(name, "", slice_over=True)
        raise AssertionError(f"{self.actors[name]} hangs")

    def finish(self) -> None:
        """All come to an end, every task has one outcome, and every answer is read."""
        for _ in range(300):
            busy = [name for name in ACTORS if not self.idle(name)]
            if not busy:
                break
            for name in busy:
                if self.actors[name].blocked:
                    self.actors[name].core.unblocked += 1
                if not self.idle(name):
                    self.run_step(name, "", slice_over=True)
        else:
            raise AssertionError(f"they hang: {[a for a in self.actors.values() if a.busy]}")
        self.eager, self.fates = 9, ()
        for name in (*WORKERS, *READERS):
            self.die(name)
        self.time_passes()
        self.start("boss", "resume", lifecycle.resume(self.actors["boss"].core))
        self.run_out("boss")
        self.start("boss", "reap", recovering.reap_due(self.actors["boss"].core))
        self.run_out("boss")
        assert not self.tasks.before.held, "the reaper left something"
        while self.tasks.before.base or self.holders["w1"].held:
            self.work("w1", 31, 0, 4, False, False)
            self.run_out("w1")
        letters = set(self.tasks.before.letters)
        missing = set(self.tasks.ledger.appeared) - self.recorded.keys()
        assert not missing, f"no outcome: {missing}"
        assert letters <= self.recorded.keys()
        for number, name in enumerate(READERS):
            side = self.replies[number]
            if not side.before.exists:
                continue
            self.start(name, "reap", recovering.reap_due(self.actors[name].core))
            self.run_out(name)
            while side.before.base or self.holders[name].held:
                self.read_answers(number, 31, 4, False)
                self.run_out(name)
            unread = {item for item in side.ledger.appeared if not self.read[item]}
            assert not unread, f"answers that nobody has read: {unread}"
            self.start(name, "delete", lifecycle.delete(side.core))
            self.run_out(name)
        self.start("boss", "delete", lifecycle.delete(self.actors["boss"].core))
        self.run_out("boss")


@pytest.mark.timeout(300)
def test_every_task_has_one_outcome(server: ServerProcess) -> None:
    machine = type("Machine", (ExchangeMachine,), {"server": server})
    chosen = settings(
        max_examples=EXAMPLES or 45,
        stateful_step_count=40,
        deadline=None,
        derandomize=not EXAMPLES,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
        report_multiple_bugs=False,
    )
    run_state_machine_as_test(machine, settings=chosen)
