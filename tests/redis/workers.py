"""What the children of the queue's tests do."""

from __future__ import annotations

import os
from typing import Any

import pressure
from tests.support.child import report


def produce(url: str, name: str, first: int, count: int) -> None:
    with pressure.PressureQueue[int](name, url=url) as q:
        for number in range(first, first + count):
            q.put(number)


def consume(url: str, name: str) -> None:
    with pressure.PressureQueue[int](name, url=url) as q:
        report("got", list(q))


def fork_and_use(url: str, name: str) -> None:
    """Use a handle, fork, and use it in both processes."""
    q: pressure.PressureQueue[Any] = pressure.PressureQueue(name, url=url)
    q.put("warm")
    assert q.get() == "warm"
    mine = [id for session in q._core.sessions for id in (session.producer, session.consumer)]
    q.put("from the parent")
    read_end, write_end = os.pipe()
    if os.fork() == 0:
        try:
            q.put("from the child")
            (session,) = q._core.sessions
            os.write(write_end, session.producer + session.consumer)
        finally:
            os._exit(0)
    os.wait()
    q.put("parent again")
    others = os.read(read_end, 100)
    theirs = [others[:16], others[16:]]
    used = [mine[0], mine[3]] if len(mine) == 4 else mine
    report("ids", [id.hex() for id in [*used, *theirs]])
    q.disconnect()
