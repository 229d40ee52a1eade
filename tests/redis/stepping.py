"""Runs the flows of several clients in one thread, one command at a time, and loses what it is told
to lose.

The rules of blocking and recovering (`pressure.flows` and its like) are generators. Here each
client's generator stands still until the test lets its next command run, so any interleaving of any
number of clients is a list of numbers, and a test that fails does so again. Time stands still, too:
it advances when a flow sleeps, and when the test says so.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import redis

from pressure.core import Core
from pressure.prefetch import Prefetch
from pressure.protocol import Command
from pressure.requests import Block, Flow, Post, Sleep, Stream
from pressure.retry import Broken, Disconnected
from pressure.scripts import SCRIPTS
from pressure.session import Session

__all__ = ["FATES", "Actor", "Clock", "Link", "Wire", "ask_early", "standing_time"]

FATES = [(), (), (), ("reply",), ("request",), ("", "reply"), ("", "request"), ("reply", "reply")]
"""What gets lost of an operation that is carried out at once, command by command."""
UNBLOCKING_MOVES = {"BLMOVE": "LMOVE", "BLPOP": "LPOP"}


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """For other threads, of handles that earlier tests have left. The flows' own sleep is a
        request."""
        time.sleep(seconds)


@contextmanager
def standing_time() -> Iterator[Clock]:
    """The flows' time stands still in this context."""
    clock = Clock()
    timed = [
        module
        for name, module in sorted(sys.modules.items())
        if name.startswith("pressure.") and getattr(module, "time", None) is time
    ]
    patches = [mock.patch.object(module, "time", clock) for module in timed]
    for patch in patches:
        patch.start()
    try:
        yield clock
    finally:
        for patch in patches:
            patch.stop()


class Link:
    """As much of a connection as the flows see of it: how the server calls it; and, for one request
    that is sent without waiting for the reply, what was sent and what came back."""

    _numbers = itertools.count(1)

    estranged = False

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self.sent: Command | None = None
        self.answer: Any = None
        self.reconnect()

    def send(self, command: Command) -> None:
        self.sent = command

    def receive(self, until: float | None = None) -> Any:
        if self.answer is None:
            raise Broken(redis.ConnectionError(), sent=True)
        return self.answer

    def close(self) -> None:
        """The next command goes over another connection."""

    def reconnect(self) -> None:
        self.waiter = f"{next(self._numbers)}@{self._run_id}"

    @property
    def client_id(self) -> str:
        return self.waiter.partition("@")[0]


class _Lender:
    """Lends one session, as a handle lends what is free."""

    def __init__(self, session: Session[Link]) -> None:
        self._session = session

    def acquire(self, *, taking: bool = False) -> Session[Link]:
        return self._session

    def release(self, session: Session[Link]) -> None:
        session.link.sent = session.link.answer = None


def ask_early(core: Core[Link], session: Session[Link], count: int) -> Flow[bool]:
    """What `Prefetch` does over a session that is free. Returns whether something came."""
    prefetch: Any = Prefetch(core, _Lender(session))  # type: ignore[arg-type]
    prefetch.ask(count, in_order=True)
    link = session.link
    if link.sent is None:
        return False
    try:
        link.answer = yield link.sent
    except Disconnected:
        link.answer = None
    found: bool = prefetch.finish()
    return found


class Wire:
    """The server, as everybody's commands reach it, one after the other."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self._execute: Callable[..., Any] = client.execute_command
        client.response_callbacks.clear()
        for script in SCRIPTS.values():
            client.script_load(script.text)
        self.run_id = next(
            line[7:].decode()
            for line in self.send("INFO", "server").splitlines()
            if line.startswith(b"run_id:")
        )
        self.unblocked: set[str] = set()
        """The connections whose blocking command somebody ended."""

    def send(self, *words: Any) -> Any:
        if words[:2] == ("CLIENT", "UNBLOCK"):
            number = words[2]
            self.unblocked.add(number.decode() if isinstance(number, bytes) else str(number))
            return 1
        return self._execute(*words)

    def send_at_once(self, command: Command) -> Any:
        """A blocking command, as far as it gets without a wait."""
        name, *rest = command.words
        if name in UNBLOCKING_MOVES:
            reply = self.send(UNBLOCKING_MOVES[str(name)], *rest[:-1])
            # BLPOP names the list besides.
            return reply if name == "BLMOVE" or reply is None else [rest[0], reply]
        return self.send(*command.words)


class Actor:
    """A thread that uses a handle: its session, and the operation that it is in the middle of."""

    def __init__(self, name: str, wire: Wire, clock: Clock, core: Core[Link]) -> None:
        self.name = name
        self.core = core
        self.wire = wire
        self.clock = clock
        self.session = Session(Link(wire.run_id))
        core.sessions.append(self.session)
        self.request: Any = None
        self.doing = ""
        self._flow: Flow[Any] | None = None
        self._ended: Callable[[Any, BaseException | None], None] = lambda result, error: None

    def __repr__(self) -> str:
        return f"<{self.name} {self.doing or 'idle'}>"

    @property
    def busy(self) -> bool:
        return self._flow is not None

    @property
    def blocked(self) -> bool:
        return isinstance(self.request, Block)

    def awaits(self, key: bytes) -> bool:
        """Whether it is blocked until something lies in the list `key`."""
        return isinstance(self.request, Block) and self.request.command.words[1] == key

    def start(
        self,
        doing: str,
        flow: Flow[Any],
        ended: Callable[[Any, BaseException | None], None],
    ) -> None:
        """Begin an operation; `ended` is called with its result, or with what it raised."""
        self.doing, self._flow, self._ended = doing, flow, ended
        self._resume(lambda: next(flow))

    def abandon(self) -> None:
        """The thread dies where it stands, and says nothing to anybody."""
        if self._flow is not None:
            self._flow.close()
        self._finish()

    def step(self, lose: str = "", *, slice_over: bool = False) -> Command | None:
        """Run the next command. `lose` is what gets lost: "reply", or the "request" itself.

        A blocking command that finds nothing is tried again by the next step, unless its slice is
        over. Returns the command that never reached the server, if there is one.
        """
        request = self.request
        if isinstance(request, Sleep):
            self.clock.now += request.seconds
            self._send(None)
        elif isinstance(request, Stream):
            self._stream(request)
        elif isinstance(request, Post):
            self.wire.send(*request.command.words)
            self._send(None)
        else:
            return self._command(request, lose, slice_over)
        return None

    def _command(self, request: Block | Command, lose: str, slice_over: bool) -> Command | None:
        blocking = isinstance(request, Block)
        command = request.command if isinstance(request, Block) else request
        reply = None
        if lose != "request":
            reply = self.wire.send_at_once(command) if blocking else self.wire.send(*command.words)
        if not lose:
            here = self.session.link.client_id
            ended = slice_over or here in self.wire.unblocked
            if blocking and reply is None and not ended:
                return None
            self.wire.unblocked.discard(here)
            if isinstance(request, Block) and request.then is not None:
                self.wire.send(*request.then.words)
            self._send(reply)
            return None
        self.session.link.reconnect()
        if blocking:
            if command.repeatable:
                self._send(None)
            else:
                self._throw()
        elif not command.repeatable:
            self._throw()
        return command if lose == "request" else None

    def _stream(self, request: Stream) -> None:
        going = request.done < request.count
        while going:
            going = request.accept(self.wire.send(*request.command(request.done).words))
        self._send(request.done)

    def _send(self, reply: Any) -> None:
        flow = self._flow
        assert flow is not None
        self._resume(lambda: flow.send(reply))

    def _throw(self) -> None:
        flow = self._flow
        assert flow is not None
        self._resume(lambda: flow.throw(Disconnected()))

    def _resume(self, go: Callable[[], Any]) -> None:
        try:
            self.request = go()
        except StopIteration as stop:
            ended = self._ended
            self._finish()
            ended(stop.value, None)
        except Exception as exc:
            ended = self._ended
            self._finish()
            ended(None, exc)

    def _finish(self) -> None:
        self._flow = self.request = None
        self.doing = ""
