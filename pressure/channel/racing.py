"""Waiting at several queues at once.

Each consumer blocks at the server on a connection of its own. When one of them gets something, the
others are unblocked; what they have got by then goes to whoever asked, too.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import time
from dataclasses import dataclass
from typing import Any

from pressure.channel.consuming import Consumer
from pressure.errors import PressureError
from pressure.handle import Handle
from pressure.link import BLOCK_MARGIN, OOM_POLL
from pressure.requests import Block, Flow
from pressure.retry import Broken, Disconnected, Oom

__all__ = ["Race"]

log = logging.getLogger("pressure")


@dataclass(slots=True)
class _Runner:
    consumer: Consumer
    flow: Flow[bytes | None]
    number: int
    patience: float


class Race:
    """`bell` is the reading end of a pipe (non-blocking): what is written to it ends a `wait`."""

    def __init__(self, bell: int) -> None:
        self._bell = bell
        self._poll = select.poll()
        self._poll.register(bell, select.POLLIN)
        self._runners: dict[int, _Runner] = {}
        self._waiting: set[Consumer] = set()
        self._controls: dict[Any, Handle] = {}
        self.rung = False
        """Whether the bell has ended the last `wait`."""
        self.failed: list[tuple[Consumer, PressureError]] = []
        """Whose waiting the server has ended with an error. Whoever looks at it empties it."""

    def runs(self, consumer: Consumer) -> bool:
        return consumer in self._waiting

    def start(self, consumer: Consumer) -> None:
        """Let it wait. Does nothing if it must ask again first (`Consumer.exchange`)."""
        flow = consumer.waiting()
        if flow is None:
            return
        request = next(flow)
        assert isinstance(request, Block)
        try:
            consumer.link.send(request.command)
            number = consumer.link.fileno()
        except Broken:
            _result(flow, Disconnected())
            return
        except BaseException as exc:
            _result(flow, exc)
            raise
        patience = time.monotonic() + request.seconds + BLOCK_MARGIN
        self._runners[number] = _Runner(consumer, flow, number, patience)
        self._waiting.add(consumer)
        self._poll.register(number, select.POLLIN)

    def wait(self, seconds: float) -> list[tuple[Consumer, bytes | None]]:
        """Wait until something has come, or the time of one of them is over. Returns those that
        wait no longer, and what they have got."""
        now = time.monotonic()
        until = min([runner.patience for runner in self._runners.values()], default=now + seconds)
        ready = self._poll.poll(max(0.0, min(seconds, until - now)) * 1000)
        self.rung = False
        ended = []
        for number, _ in ready:
            if number == self._bell:
                self.rung = True
                with contextlib.suppress(BlockingIOError):
                    os.read(self._bell, 4096)
            else:
                ended.append(self._runners[number])
        now = time.monotonic()
        ended += [one for one in self._runners.values() if one.patience < now and one not in ended]
        return [(runner.consumer, self._finish(runner)) for runner in ended]

    def end(self) -> list[tuple[Consumer, bytes]]:
        """End the waiting of all others. Returns what they have got by then."""
        for runner in self._runners.values():
            self._unblock(runner.consumer)
        found = []
        while self._runners:
            runner = next(iter(self._runners.values()))
            item = self._finish(runner)
            if item is not None:
                found.append((runner.consumer, item))
        return found

    def _unblock(self, consumer: Consumer) -> None:
        handle = consumer.handle
        try:
            # Where several queues are on one server, one connection is enough for all.
            self._controls.setdefault(handle.address.identity, handle).unblock_aside(
                consumer.link.waiter
            )
        except (Broken, PressureError) as exc:
            # The server ends what a closed connection waits for; it is adopted then.
            log.debug("a waiting connection is closed: %s", exc)
            consumer.link.close()

    def _finish(self, runner: _Runner) -> bytes | None:
        """Read the reply, which is there or on its way."""
        del self._runners[runner.number]
        self._waiting.discard(runner.consumer)
        self._poll.unregister(runner.number)
        link = runner.consumer.link
        try:
            reply: Any = link.receive(time.monotonic() + BLOCK_MARGIN)
        except TimeoutError:
            link.close()
            return _result(runner.flow, Disconnected())
        except Broken:
            return _result(runner.flow, Disconnected())
        except Oom:
            # Blocking moves are refused when memory is out, scripts that drain are not: so poll.
            time.sleep(OOM_POLL)
            reply = None
        except PressureError as exc:
            # Others may have got something at the same time.
            self.failed.append((runner.consumer, exc))
            with contextlib.suppress(PressureError):
                _result(runner.flow, exc)
            return None
        except BaseException as exc:
            link.close()
            return _result(runner.flow, exc)
        return _result(runner.flow, None, reply)


def _result(
    flow: Flow[bytes | None], error: BaseException | None, reply: Any = None
) -> bytes | None:
    """Resume a flow that has made its only request, and return its result."""
    try:
        if error is not None:
            flow.throw(error)
        else:
            flow.send(reply)
    except StopIteration as stop:
        item: bytes | None = stop.value
        return item
    raise AssertionError("it asks for more")
