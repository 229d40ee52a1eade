"""Any interleaving of any operations by several clients, of which any may lose a reply or die.

Hypothesis chooses what happens next: somebody begins an operation, the next command of one who is
in the middle of one is carried out, or gets lost, or arrives long after it was given up; somebody
dies; a lease runs out. After every command the keys on the server are held against the invariants
of `protocol.md` and against what the clients have been told (`tests.redis.invariants`).

`PRESSURE_STATE_MACHINE=N` runs N examples that differ each time, instead of the few fixed ones.
"""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import Callable
from contextlib import ExitStack
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

from pressure import blobs, flows, items, lifecycle, putting, recovering, upkeep
from pressure.core import Core
from pressure.errors import (
    PayloadError,
    PressureError,
    QueueClosedError,
    QueueDoesNotExistError,
)
from pressure.keys import Keys
from pressure.letters import change_letters
from pressure.protocol import Command, Status
from pressure.requests import Flow
from pressure.serializers import serializer_for
from pressure.session import Session
from pressure.settings import Settings
from tests.redis.invariants import Ledger, Snapshot, Step, snapshot
from tests.redis.stepping import FATES, Actor, Link, Wire, ask_early, standing_time
from tests.support.servers import ServerProcess

EXAMPLES = int(os.environ.get("PRESSURE_STATE_MACHINE", "0"))
LEASE = 3600.0
NOW, LATER = float("-inf"), None
ACTORS = ("a1", "a2", "a3", "b1", "b2", "keeper")

actors = st.integers(0, 5)
fates = st.sampled_from(["", "", "", "", "reply", "request"])


def get(core: Core[Link], session: Session[Link], until: Any, count: int, ahead: bool) -> Flow[Any]:
    """What `Taker.get` does; the result is the object, and the session that acknowledges it."""
    while True:
        waiting = core.pop_ahead()
        if waiting is None:
            try:
                fetched = yield from items.fetch(core, session, count, until, ahead=ahead)
            except (QueueClosedError, QueueDoesNotExistError, PayloadError):
                raise
            except BaseException:
                session.stale = session.stale or session.known
                raise
            if fetched is None:
                return None
            obj = fetched.obj
            owner = session
            if obj is not items.SKIPPED:
                session.pending.append((fetched.kind, fetched.tag))
        else:
            owner = waiting.session
            try:
                obj = yield from items.open_ahead(core, waiting)
                if obj is not items.SKIPPED:
                    waiting.session.pending.append((waiting.kind, waiting.tag))
            finally:
                core.moved(waiting)
        if obj is not items.SKIPPED:
            return owner, obj


def lease(core: Core[Link], session: Session[Link], until: Any) -> Flow[Any]:
    """What `Taker.lease` does; the result is what a `Lease` is made of."""
    while True:
        try:
            fetched = yield from items.fetch(core, session, 1, until, ahead=False)
        except (QueueClosedError, QueueDoesNotExistError, PayloadError):
            raise
        except BaseException:
            session.stale = session.stale or session.known
            raise
        if fetched is None:
            return None
        if fetched.obj is not items.SKIPPED:
            session.leased[fetched.tag] += 1
            return session, session.life, fetched.tag, fetched.obj


def one(command: Command) -> Flow[Any]:
    return (yield command)


class QueueMachine(RuleBasedStateMachine):
    """The clients: three threads of one handle, two of another, and the first one's keeper."""

    server: ServerProcess

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.clock = self.stack.enter_context(standing_time())
        ids = random.Random(0)
        self.stack.enter_context(mock.patch("os.urandom", ids.randbytes))
        # So that some of the items here travel beside the list.
        self.stack.enter_context(mock.patch.object(blobs, "INLINE_BYTES", 40))
        client = self.server.client()
        self.wire = Wire(client)
        self.keys = Keys("__machine__", f"m-{uuid.uuid4().hex[:12]}")
        self.number = 0
        self.half_deleted = False
        self.eager = 9
        self.fates: tuple[str, ...] = ()
        self.orphans: set[bytes] = set()
        self.late: list[tuple[Actor, str, Command, tuple[str, ...]]] = []
        self.leases: list[tuple[Actor, Any]] = []
        self.values: dict[str, tuple[str, ...]] = {}
        # What each withdrawal that is under way has taken out.
        self.withdrawals: dict[tuple[str, ...], set[str]] = {}

    @initialize(
        raw=st.booleans(), ttl=st.booleans(), bound=st.integers(0, 4), most=st.integers(0, 2)
    )
    def begin(self, raw: bool, ttl: bool, bound: int, most: int) -> None:
        self.raw = raw
        self.ledger = Ledger(raw=raw, ttl=ttl, mixed=False)
        options = Settings(lease=LEASE, ttl=LEASE if ttl else None, max_deliveries=most)
        serializer = serializer_for("raw" if raw else "pickle")
        name = self.keys.name
        first, second = (Core[Link](name, "__machine__", serializer, options) for _ in range(2))
        self.actors = {
            name: Actor(name, self.wire, self.clock, second if name[0] == "b" else first)
            for name in ACTORS
        }
        self.cores = [first, second]
        self.before = self.look()
        self.start("a1", "create", lifecycle.create(first, bound))
        while self.actors["a1"].busy:
            self.run_step("a1", "")

    def teardown(self) -> None:
        try:
            if hasattr(self, "actors"):
                self.finish()
        finally:
            left = self.wire.client.keys(self.keys.base + b"*")
            if left:
                self.wire.client.delete(*left)
            self.wire.client.close()
            self.stack.close()

    # Steps

    def look(self) -> Snapshot:
        return snapshot(self.wire.client, self.keys, raw=self.raw)

    def start(
        self,
        name: str,
        doing: str,
        flow: Flow[Any],
        ended: Callable[[Any, BaseException | None], None] = lambda result, error: None,
        values: tuple[str, ...] = (),
    ) -> None:
        self.values[name] = values

        def judged(result: Any, error: BaseException | None) -> None:
            if error is not None and not isinstance(error, PressureError):
                raise error
            note(f"{name}: {doing} -> {result if error is None else error!r}")
            ended(result, error)

        self.actors[name].start(doing, flow, judged)
        # Mostly it is done at once, as it would be if nobody else were there.
        for at in range(self.eager):
            if self.idle(name) or self.actors[name].blocked:
                break
            self.run_step(name, self.fates[at] if at < len(self.fates) else "")

    def run_step(self, name: str, lose: str, *, slice_over: bool = False) -> None:
        actor = self.actors[name]
        request, doing = actor.request, actor.doing
        command = getattr(request, "command", request)
        script = ""
        if isinstance(command, Command):
            script = command.script.name if command.script else str(command.words[0])
        values = self.values[name]
        # Looked at before the flow goes on, which may tell the caller something.
        original = self.wire.send

        def send(*words: Any) -> Any:
            reply = original(*words)
            self.check(script, doing, values, lose, actor)
            return reply

        with mock.patch.object(self.wire, "send", send):
            lost = actor.step(lose, slice_over=slice_over)
        if lost is not None:
            self.late.append((actor, doing, lost, values))

    def check(
        self, script: str, doing: str, values: tuple[str, ...], lose: str, actor: Actor
    ) -> None:
        now = self.look()
        if script == "settle":
            values = tuple(now.taken.get(actor.session.consumer, ()))
        if script == "discard":
            # All that are there, also those that were buried since it was called.
            values = tuple(self.before.letters)
        if script == "withdraw":
            removed = self.withdrawals.get(values)
            if removed is None:
                values = ()
            else:
                removed.update(set(self.before.base) - set(now.base))
        by = None if doing == "end_lease" else actor.session
        step = Step(script, doing, values, lose, by)
        before, self.before = self.before, now
        taken = {self.owner(consumer): held for consumer, held in now.taken.items()}
        note(f"  {actor.name} {script} {lose}: {now.base} {taken}")
        self.ledger.judge(before, now, step)
        if now.exists and not now.paused:
            for other in self.actors.values():
                forgotten = other.awaits(self.keys.resumed) and not now.resumed
                assert not forgotten, f"{other} waits for the end of a pause that is over"

    def owner(self, consumer: bytes) -> str:
        names = [a.name for a in self.actors.values() if a.session.consumer == consumer]
        return names[0] if names else consumer[:3].hex()

    # What somebody begins

    def idle(self, name: str) -> bool:
        return not self.actors[name].busy

    def pick(self, number: int, *, busy: bool = False) -> str:
        """One of those who have nothing to do (or something); empty if there is none."""
        fitting = [name for name in ACTORS if self.actors[name].busy == busy]
        return fitting[number % len(fitting)] if fitting else ""

    @rule(
        who=actors,
        count=st.integers(1, 3),
        wait=st.booleans(),
        mode=st.sampled_from(["", "", "", "overfill", "head"]),
        hold=st.sampled_from([-1, -1, 0, 2]),
    )
    def put(self, who: int, count: int, wait: bool, mode: str, hold: int) -> None:
        name = self.pick(who)
        if not name:
            return
        actor = self.actors[name]
        values = []
        for _ in range(count):
            self.number += 1
            # Some are so long that they travel as blobs.
            values.append(f"i{self.number}" + ("-" * 60 if self.number % 3 == 0 else ""))
        plain = tuple(value.strip("-") for value in values)
        self.ledger.ordered.update(plain)
        actor.session.hold = max(actor.session.hold, hold)
        bodies = [actor.core.serialize(v.encode() if self.raw else v) for v in values]

        def ended(accepted: Any, error: BaseException | None) -> None:
            if error is not None:
                accepted = error.accepted  # type: ignore[attr-defined]
            self.ledger.put_ended(plain, accepted)

        flow = putting.put_bodies(actor.core, actor.session, bodies, LATER if wait else NOW, mode)
        self.start(name, f"put {mode}".strip(), flow, ended, plain)

    @rule(who=actors, wait=st.booleans(), count=st.integers(1, 3), ahead=st.booleans())
    def get(self, who: int, wait: bool, count: int, ahead: bool) -> None:
        if name := self.pick(who):
            self.begin_get(name, wait, count, ahead)

    def begin_get(self, name: str, wait: bool, count: int, ahead: bool) -> None:
        actor = self.actors[name]

        def ended(got: Any, error: BaseException | None) -> None:
            if isinstance(error, QueueClosedError):
                self.closed_and_drained()
            elif got is not None:
                self.ledger.hand_out(self.plain(got[1]), got[0])

        flow = get(actor.core, actor.session, LATER if wait else NOW, count, ahead)
        self.start(name, "get", flow, ended)

    def closed_and_drained(self) -> None:
        assert self.before.closed or not self.before.exists, "closed, it is said"
        assert not self.before.base, "an item was left in a closed queue"

    def plain(self, obj: Any) -> str:
        text: str = obj.decode() if self.raw else obj
        return text.strip("-")

    @rule(who=actors, wait=st.booleans())
    def lease(self, who: int, wait: bool) -> None:
        name = self.pick(who)
        if not name:
            return
        actor = self.actors[name]

        def ended(held: Any, error: BaseException | None) -> None:
            if held is not None:
                self.ledger.hand_out(self.plain(held[3]))
                self.leases.append((actor, held))

        flow = lease(actor.core, actor.session, LATER if wait else NOW)
        self.start(name, "lease", flow, ended)

    @rule(eager=st.sampled_from([0, 1, 2, 3, 9, 9, 9]), these=st.sampled_from(FATES))
    def hurry(self, eager: int, these: tuple[str, ...]) -> None:
        """How far those get at once who begin something from now on, and what gets lost of it."""
        self.eager, self.fates = eager, these

    @precondition(lambda self: self.leases)
    @rule(who=actors, which=st.integers(0, 5), back=st.booleans(), charge=st.booleans())
    def end_lease(self, who: int, which: int, back: bool, charge: bool) -> None:
        name = self.pick(who)
        own = [one for one in self.leases if name and one[0].core is self.actors[name].core]
        if not own:
            return
        entry = own[which % len(own)]
        self.leases.remove(entry)
        _, (session, life, tag, obj) = entry
        item = self.plain(obj)
        if life != session.life:
            return
        if back:
            # It may come back from now on, whatever the reply says.
            self.ledger.came_back(item, charge=charge)
        else:
            self.ledger.released.add(item)

        def ended(held: Any, error: BaseException | None) -> None:
            if not held:
                if back:
                    self.ledger.handed[item] += 1
                self.ledger.touched.add(item)

        flow = upkeep.end_lease(self.actors[name].core, session, tag, back=back, charge=charge)
        self.start(name, "end_lease", flow, ended)

    @rule(
        who=actors,
        what=st.sampled_from(
            [
                "settle",
                "give back ahead",
                "sign off",
                "reap",
                "describe",
                "size",
                "unfinished",
                "task_done",
                "peek",
                "create",
                "delete",
                "close",
                "drain",
                "replay",
                "discard",
                "pause",
                "resume",
                "resume",
                "purge",
            ]
        ),
    )
    def other(self, who: int, what: str) -> None:
        name = self.pick(who)
        if not name:
            return
        actor = self.actors[name]
        core, session = actor.core, actor.session
        if what == "settle":
            flow: Flow[Any] = upkeep.settle(core, session)
        elif what == "give back ahead":
            flow = upkeep.give_back_ahead(core)
        elif what == "sign off":
            flow = self.sign_off(actor)
        elif what == "reap":
            flow = recovering.reap_due(core)
        elif what == "describe":
            flow = flows.describe(core)
        elif what == "size":
            flow = one(core.protocol.size())
        elif what == "unfinished":
            flow = lifecycle.unfinished(core)
        elif what == "task_done":
            flow = lifecycle.task_done(core, session)
        elif what == "peek":
            flow = one(core.protocol.peek(-1))
        elif what == "create":
            flow = lifecycle.create(core, 2)
        elif what == "delete":
            flow = self.delete(actor)
        elif what == "close":
            flow = lifecycle.close(core)
        elif what == "drain":
            flow = one(core.protocol.drain())
        elif what == "pause":
            flow = lifecycle.pause(core)
        elif what == "resume":
            flow = lifecycle.resume(core)
        elif what == "purge":
            if not self.before.exists:
                return
            # Of one who has deleted an earlier queue of this name.
            flow = one(core.protocol.purge(list(self.before.taken)))
        elif what == "replay":
            flow = change_letters(core, core.protocol.replay, None)
        else:
            flow = change_letters(core, core.protocol.discard, None)
        self.start(name, what, flow)

    @rule(who=actors, count=st.integers(1, 3))
    def ask_early(self, who: int, count: int) -> None:
        """The next items, before somebody needs them."""
        if name := self.pick(who):
            actor = self.actors[name]
            self.start(name, "ask early", ask_early(actor.core, actor.session, count))

    @precondition(lambda self: self.before.items)
    @rule(who=actors, which=st.integers(0, 5), count=st.integers(1, 3))
    def withdraw(self, who: int, which: int, count: int) -> None:
        """Items that are queued, or that somebody may hold: these stay where they are."""
        name = self.pick(who)
        if not name:
            return
        actor = self.actors[name]
        there = self.before.items
        chosen = [there[(which + i) % len(there)] for i in range(min(count, len(there)))]
        self.number += 1
        values = (*chosen, f"withdrawal {self.number}")
        removed = self.withdrawals[values] = set()

        def ended(reply: Any, error: BaseException | None) -> None:
            assert error is None
            # Whatever still arrives of it must do nothing.
            del self.withdrawals[values]
            digits = reply[1] if reply[0] == Status.OK else b"0" * len(chosen)
            told = {item for item, one in zip(chosen, digits, strict=True) if one == ord("1")}
            # A queue that was deleted takes with it what was known of it.
            assert told == removed or reply[0] != Status.OK

        session = actor.session
        tags = [self.before.tags[item] for item in chosen]
        flow = one(actor.core.protocol.withdraw(session.producer, session.next_number(), tags))
        self.start(name, "withdraw", flow, ended, values)

    def sign_off(self, actor: Actor) -> Flow[Any]:
        session = actor.session
        mine = [one for one in self.leases if one[1][0] is session]
        for entry in mine:
            self.leases.remove(entry)
            self.ledger.came_back(self.plain(entry[1][3]), charge=False)
        if actor.core.buffer:
            yield from upkeep.give_back_ahead(actor.core)
        yield from upkeep.sign_off(actor.core, session)
        actor.core.sessions.remove(session)
        actor.session = Session(Link(self.wire.run_id))
        actor.core.sessions.append(actor.session)

    def delete(self, actor: Actor) -> Flow[Any]:
        yield from lifecycle.delete(actor.core)
        actor.core.generation = b""
        actor.core.buffer.clear()

    @rule(who=actors, bound=st.integers(0, 4))
    def set_bound(self, who: int, bound: int) -> None:
        if name := self.pick(who):
            core = self.actors[name].core
            self.start(name, "set_bound", one(core.protocol.set_bound(bound)))

    @rule(who=actors)
    def join(self, who: int) -> None:
        if name := self.pick(who):
            self.start(name, "join", lifecycle.join(self.actors[name].core, LATER))

    @rule(which=st.integers(0, 1))
    def unblock(self, which: int) -> None:
        core = self.cores[which]
        core.unblocked += 1
        for actor in self.actors.values():
            if actor.core is core and actor.busy:
                self.wire.unblocked.add(actor.session.link.client_id)

    # What happens to those who are in the middle of something

    @rule(who=actors, lose=fates, slice_over=st.booleans())
    def step(self, who: int, lose: str, slice_over: bool) -> None:
        if name := self.pick(who, busy=True):
            self.run_step(name, lose, slice_over=slice_over)

    @rule(who=actors, most=st.integers(2, 6))
    def steps(self, who: int, most: int) -> None:
        name = self.pick(who, busy=True)
        for _ in range(most):
            if not name or self.idle(name):
                break
            self.run_step(name, "", slice_over=True)

    @precondition(lambda self: self.late)
    @rule(which=st.integers(0, 5))
    def arrives_late(self, which: int) -> None:
        """A command that was given up comes to the server after all."""
        entry = self.late.pop(which % len(self.late))
        actor, doing, command, values = entry
        script = command.script.name if command.script else str(command.words[0])
        if script in ("delete", "close", "create", "BLPOP") or not self.before.exists:
            return
        self.ledger.touched.update(self.before.held)
        self.wire.send_at_once(command)
        self.check(script, doing, values, "late", actor)

    @rule(name=st.sampled_from(ACTORS[:-1]))
    def die(self, name: str) -> None:
        self.take_over(name)

    def take_over(self, name: str) -> None:
        """The thread's whole process is gone; who comes next is another."""
        core = self.actors[name].core
        for actor in self.actors.values():
            if actor.core is core:
                self.half_deleted |= actor.doing == "delete" or actor.doing.startswith("put")
                actor.abandon()
        for session in core.sessions:
            self.touch(session.consumer)
            self.orphans.add(session.consumer)
        self.leases = [one for one in self.leases if one[0].core is not core]
        self.late = [entry for entry in self.late if entry[0].core is not core]
        fresh = Core[Link](core.name, "__machine__", core.serializer, core.settings)
        self.cores = [fresh if one is core else one for one in self.cores]
        for name, actor in list(self.actors.items()):
            if actor.core is core:
                self.actors[name] = Actor(name, self.wire, self.clock, fresh)

    @rule(name=st.sampled_from(ACTORS))
    def lease_runs_out(self, name: str) -> None:
        consumer = self.actors[name].session.consumer
        if consumer not in self.before.leases:
            return
        self.run_out_of_lease(consumer)
        self.clock.now += LEASE
        self.before = self.look()

    @precondition(lambda self: self.before.departed or self.orphans)
    @rule()
    def time_passes(self) -> None:
        """The leases of the dead run out, and the departed are to be looked at again."""
        for consumer in self.orphans & self.before.leases.keys():
            self.run_out_of_lease(consumer)
        for consumer in self.before.departed:
            self.wire.client.zadd(self.keys.departed, {consumer: 0}, xx=True)
        self.before = self.look()

    def run_out_of_lease(self, consumer: bytes) -> None:
        self.wire.client.zadd(self.keys.leases, {consumer: 1}, xx=True)

    def touch(self, consumer: bytes) -> None:
        self.ledger.touched.update(self.before.taken.get(consumer, ()))

    # The end

    def finish(self) -> None:
        """Everybody comes to an end by himself, every item comes out, and nothing is left."""
        core = self.cores[0]
        self.fates = ()
        for _ in range(400):
            busy = [name for name, actor in self.actors.items() if actor.busy]
            if not busy:
                break
            for name in busy:
                if self.idle(name):
                    continue
                actor = self.actors[name]
                if actor.blocked and self.before.exists:
                    actor.core.unblocked += 1
                self.run_step(name, "", slice_over=True)
        else:
            raise AssertionError(f"they hang: {[a for a in self.actors.values() if a.busy]}")
        if self.before.exists:
            self.start("a1", "resume", lifecycle.resume(core))
            self.run_out("a1")
            self.take_all(core)
        if self.before.exists:
            self.start("a1", "delete", self.delete(self.actors["a1"]))
            self.run_out("a1")
        left = self.look().keys
        assert not left or self.half_deleted, f"left behind: {left}"

    def run_out(self, name: str) -> None:
        for _ in range(200):
            if self.idle(name):
                return
            self.run_step(name, "", slice_over=True)
        raise AssertionError(f"{self.actors[name]} hangs")

    def take_all(self, core: Core[Link]) -> None:
        for name in ("a1", "b1"):
            self.start(name, "give back ahead", upkeep.give_back_ahead(self.actors[name].core))
            self.run_out(name)
        for name in ACTORS:
            self.start(
                name, "settle", upkeep.settle(self.actors[name].core, self.actors[name].session)
            )
            self.run_out(name)
        for actor in self.actors.values():
            session = actor.session
            for item in self.before.taken.get(session.consumer, ()):
                known = self.before.tags[item] in session.leased
                assert known, f"{actor.name} holds {item} and does not know"
        # The leases of whoever does this are renewed, so the others must be gone.
        self.take_over("a1")
        self.take_over("b1")
        for consumer in self.before.leases:
            self.run_out_of_lease(consumer)
        for consumer in self.before.departed:
            self.wire.client.zadd(self.keys.departed, {consumer: 0}, xx=True)
        self.clock.now += LEASE
        self.before = self.look()
        self.start("a2", "reap", recovering.reap_due(self.actors["a2"].core))
        self.run_out("a2")
        assert not self.before.held, "the reaper left something"
        while self.before.base:
            self.begin_get("a3", False, 1, False)
            self.run_out("a3")
        alive = set(self.ledger.appeared) - self.ledger.gone - set(self.before.letters)
        lost = {item for item in alive if not self.ledger.handed[item]}
        assert not lost, f"lost: {lost}"


@pytest.mark.timeout(300)
def test_any_interleaving_keeps_the_invariants(server: ServerProcess) -> None:
    machine = type("Machine", (QueueMachine,), {"server": server})
    chosen = settings(
        max_examples=EXAMPLES or 60,
        stateful_step_count=40,
        deadline=None,
        derandomize=not EXAMPLES,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
        report_multiple_bugs=False,
    )
    run_state_machine_as_test(machine, settings=chosen)
