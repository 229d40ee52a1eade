"""A server comes back without the end of what it had accepted.

So does a replica that had not heard of all when it was promoted. Here a single server does, whose
log is cut off at an earlier point: that can be done without luck.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import pressure
from pressure.executor import TaskLostError
from tests.faults import executing as do
from tests.support.processes import Child
from tests.support.servers import ServerProcess
from tests.support.waiting import eventually

WAIT = 30.0


class Log:
    """The append-only file of a server, and how long it was at a point."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._length = 0

    @property
    def _path(self) -> Path:
        (path,) = (self._server.directory / "appendonlydir").glob("*.incr.aof")
        return path

    def mark(self) -> None:
        self._length = self._path.stat().st_size

    def forget_what_followed(self) -> None:
        """Kill the server, and start it with what the log held at the mark."""
        self._server.kill()
        with self._path.open("r+b") as file:
            file.truncate(self._length)
        self._server.start()


@pytest.fixture
def log(fresh_server: ServerProcess) -> Log:
    return Log(fresh_server)


def all_sent(executor: pressure.RedisExecutor, count: int) -> bool:
    ledger = executor._engine.dispatcher.ledger
    return eventually(lambda: len(ledger.sent) == count and not ledger.sending, WAIT)


def test_an_executor_sends_again_what_was_lost_before_it_goes_on(
    fresh_server: ServerProcess, log: Log, spawn_child: Callable[..., Child]
) -> None:
    """It would not notice once the server has accepted something newer."""
    settings = pressure.Settings(reconnect_timeout=WAIT)
    with pressure.RedisExecutor(url=fresh_server.url, queue="tail", settings=settings) as executor:
        futures = [executor.submit(do.square, x) for x in range(10)]
        assert all_sent(executor, 10)
        log.mark()
        futures += [executor.submit(do.square, x) for x in range(10, 20)]
        risky = executor.options(max_deliveries=1).submit(do.square, 1)
        assert all_sent(executor, 21)
        log.forget_what_followed()
        futures += [executor.submit(do.square, x) for x in range(20, 30)]
        spawn_child(do.serve, fresh_server.url, "tail", 1, 15.0).wait_for("serving")
        assert [future.result(WAIT) for future in futures] == [x * x for x in range(30)]
        with pytest.raises(TaskLostError):
            risky.result(WAIT)


def test_an_item_whose_acknowledgement_was_lost_comes_again(
    fresh_server: ServerProcess, log: Log
) -> None:
    """It must not stay in the list of a consumer that lives and takes it for done."""
    settings = pressure.Settings(reconnect_timeout=WAIT)
    with pressure.PressureQueue[int]("tail", url=fresh_server.url, settings=settings) as q:
        q.create()
        q.put_many([1, 2])
        held = q.lease(timeout=WAIT)
        assert held.item == 1
        log.mark()
        held.ack()
        log.forget_what_followed()
        for session in q._core.sessions:
            # Nothing was under way that could have failed: it just connects again.
            session.link.close()
        assert sorted(q.get(timeout=WAIT) for _ in range(2)) == [1, 2]
        q.delete()
