"""The items of one producer on their way, and what is known of those whose reply is outstanding.

A send is a flow like any other, but it need not be run to its end at once: its request can be sent
now and the reply read later, by whichever thread comes next. A reply that never comes, or trouble,
leaves the request to be sent once more, which changes nothing if it was carried out.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from types import GeneratorType
from typing import Any, TypeVar

from pressure import bundles, putting
from pressure.errors import OutcomeUnknownError, PressureError, ServerUnavailableError
from pressure.link import Link
from pressure.multiprocessing.remote import Remote
from pressure.protocol import Command, Status
from pressure.requests import Flow, Request
from pressure.retry import Broken, Disconnected
from pressure.scripts import SCRIPTS
from pressure.session import Session

__all__ = ["MOST", "REPLY_PATIENCE", "Outgoing"]

log = logging.getLogger("pressure")
T = TypeVar("T")

MOST = 512
MOST_BYTES = 256 * 1024
REPLY_PATIENCE = 5.0
PATIENCE = 1.0
"""How long (seconds) a lost server is sought before the caller may look whether it shall go on."""


class Outgoing:
    """The buffer of one handle in one process, and the sends from it.

    `_sending` is held by whoever sends or reads a reply. Never wait for it with `_mutex`, which
    keeps the buffer and the number of reserved places together. Both are reentrant, so that a
    thread can tell whether it has one, which Ctrl-C may keep it from noting; but nothing is sent in
    the midst of another send (`_refuse_reentry`).
    """

    def __init__(self, remote: Remote, *, reserves: bool) -> None:
        self._remote = remote
        self._reserves = reserves
        self.reset()

    def reset(self) -> None:
        """Start over, as in a forked child: what is buffered here is the parent's to send."""
        self._bodies: deque[bytes] = deque()
        self._under_way: list[bytes] = []
        # How many of that send's items were accepted by earlier requests.
        self._before = 0
        self._places = 0
        self._mutex = threading.RLock()
        self._sending = threading.RLock()
        self._session: Session[Link] | None = None
        # A send that is not finished: its last request, and its flow. `posted` says that the
        # request was sent, and its reply is to be read.
        self._cut_short: tuple[Request, Flow[int]] | None = None
        self._posted = False
        self._sends = 0
        self._failure: Exception | None = None
        self._may_lose = False

    def _refuse_reentry(self) -> None:
        """Before waiting for `_sending`: the handler of a signal, or a finalizer, may have come in
        the midst of a send of its own thread, which can't go on before it returns."""
        if self._sending._is_owned():  # type: ignore[attr-defined]
            raise RuntimeError("a queue was used from within its own put, which isn't over")

    def _collect(self, patience: float) -> bool:
        """Read the reply to what was posted; False if it is not there, or there is trouble, which
        the feeder then deals with."""
        assert self._cut_short is not None
        request, flow = self._cut_short
        try:
            reply = self._producer().link.receive(time.monotonic() + patience)
        except TimeoutError:
            if patience:
                self._posted = False
                self._producer().link.close()
            return False
        except (Broken, PressureError):
            # To be sent once more, which changes nothing if it was carried out.
            self._posted = False
            return False
        self._posted = False
        try:
            self._go_on(request, reply, flow)
        except StopIteration:
            self._sent()
            return True
        except PressureError:
            self._bodies.clear()
            self._sent()
            raise
        except BaseException:
            # Ctrl-C. Where in the flow it came nobody knows: see `_concluded`.
            flow.close()
            raise
        return False

    def _go_on(self, request: Request, reply: Any, flow: Flow[int]) -> Request:
        following = flow.send(reply)
        accepted = self._accepted(request, reply)
        # Without a call in between: wherever Ctrl-C comes, this is counted, or asked for again.
        self._before += accepted
        self._cut_short = following, flow
        return following

    def _producer(self) -> Session[Link]:
        if self._session is None:
            self._session = self._remote.producer_session()
        return self._session

    def _begin(self, session: Session[Link]) -> Request:
        """Take up the next batch. From here on it counts as cut short, until it is sent."""
        if self._under_way:
            # Taken up before, by a call that was cut short.
            self._put_back()
        bodies = self._bodies
        batch = self._under_way = []
        size = 0
        try:
            while bodies and len(batch) < MOST and size < MOST_BYTES:
                batch.append(bodies[0])
                bodies.popleft()
                size += len(batch[-1])
            self._before = 0
            flow = putting.put_bodies(self._remote.core, session, batch, None)
            request = next(flow)
        except BaseException:
            if batch and bodies and bodies[0] is batch[-1]:
                # Ctrl-C came in the middle of its move.
                batch.pop()
            self._put_back()
            raise
        self._cut_short = request, flow
        return request

    def _sent(self) -> None:
        self._sends += 1
        self._under_way = []
        self._cut_short = None

    def _put_back(self, accepted: int = 0) -> None:
        """Send again later what is under way, but for the first `accepted`."""
        self._bodies.extendleft(reversed(self._under_way[accepted:]))
        self._under_way = []
        self._cut_short = None

    # Counting

    def counted(self, look: Callable[[int], T]) -> T:
        """Call `look` with how many items are here and not at the server, while that cannot
        change."""
        self._refuse_reentry()
        with self._sending:
            if self._posted:
                self._collect(REPLY_PATIENCE)
            return look(len(self._bodies) + len(self._under_way))

    def settle(self) -> None:
        """Send what is buffered and free the places that are left, before a look at the server."""
        if self._bodies or self._places or self._cut_short:
            self._refuse_reentry()
            with self._sending:
                self._send_all()
                self._free_places()

    def _send_all(self, seen_to: Callable[[], bool] = lambda: False) -> None:
        """Send everything, for as long as the server is not away; or just what comes next, if the
        rest is `seen_to` by another thread. The caller holds the lock."""
        while self._cut_short or self._bodies:
            session = self._producer()
            if not (self._posted and self._collect(REPLY_PATIENCE)):
                if self._cut_short is None:
                    with self._mutex:
                        session.hold = self._places if self._reserves else -1
                        self._places = 0
                        self._begin(session)
                self._complete(session, patience=PATIENCE)
            if seen_to():
                return

    def _complete(
        self, session: Session[Link], until: float | None = None, *, patience: float | None = None
    ) -> int:
        """Finish the send that was cut short, under its own number; returns how many it put."""
        accepted = self._remote.handle.run(self._resumed(), session, until, patience=patience)
        with self._mutex:
            self._places = session.places
            # Their places were lost, because this process stood still.
            self._bodies.extendleft(reversed(self._under_way[accepted:]))
        self._sent()
        return accepted

    def _free_places(self) -> None:
        with self._mutex:
            places, self._places = self._places, 0
        if places:
            session = self._producer()
            self._remote.handle.run(_free_places(self._remote, session), session, patience=PATIENCE)

    def _resumed(self) -> Flow[int]:
        """The rest of the send that was cut short. May be cut short in turn."""
        assert self._cut_short is not None
        request, flow = self._cut_short
        if isinstance(flow, GeneratorType) and flow.gi_frame is None:
            return (yield from self._concluded(request))
        while True:
            self._cut_short = request, flow
            try:
                try:
                    reply = yield request
                except (Disconnected, PressureError) as exc:
                    if isinstance(exc, ServerUnavailableError | OutcomeUnknownError):
                        # It is tried once more.
                        raise
                    # It says how many were put before.
                    request = flow.throw(exc)
                else:
                    request = self._go_on(request, reply, flow)
            except StopIteration as stop:
                result: int = stop.value
                return result
            except (PressureError, GeneratorExit):
                raise
            except BaseException:
                # As in `_collect`.
                flow.close()
                raise

    def _concluded(self, request: Request) -> Flow[int]:
        """The end of a send whose flow was cut short as it looked at a reply: the server says once
        more what the request has done."""
        accepted = self._before
        if isinstance(request, Command) and request.script is SCRIPTS["put"]:
            reply: Any = yield request
            # Who sends the rest is told if it was refused, and why.
            self._producer().places = reply[2] if reply[0] == Status.OK else 0
            accepted += self._accepted(request, reply)
        return accepted

    def _accepted(self, request: Request, reply: Any) -> int:
        """How many items the server has accepted with this."""
        if not isinstance(request, Command) or request.script is not SCRIPTS["put"]:
            return 0
        if reply[0] != Status.OK:
            return 0
        core = self._remote.core
        values = core.protocol.values_of(request)[: reply[1]]
        return sum(bundles.weight(core, value) for value in values)

    def _drop(self, exc: Exception) -> None:
        lost = len(self._bodies) + len(self._under_way)
        self._bodies.clear()
        self._sent()
        self._places = 0
        if lost:
            self._failure = exc
            level = logging.DEBUG if self._may_lose else logging.WARNING
            name = self._remote.core.name
            log.log(level, "queue %s: %d items were not sent: %s", name, lost, exc)


def _free_places(remote: Remote, session: Session[Link]) -> Flow[None]:
    core = remote.core
    session.places = 0
    yield core.protocol.put(
        core.generation,
        session.producer,
        session.next_number(),
        core.client,
        [],
        ttl_ms=core.ttl_ms,
        hold=0,
    )
