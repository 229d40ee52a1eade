"""Ctrl-C at each place where Python runs signal handlers: nothing is lost, doubled or stuck."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from functools import partial
from types import FrameType, ModuleType
from typing import Any

import pytest

import pressure.multiprocessing as mp
from pressure import (
    PressureQueue,
    RedisExecutor,
    core,
    encoding,
    flows,
    handle,
    items,
    pace,
    putting,
    session,
    sessions,
    taker,
)
from pressure.channel import producing
from pressure.executor.client import ledger, recall
from pressure.link import Link
from pressure.multiprocessing import feeding, outgoing, producer, results, staff
from pressure.protocol import Command
from pressure.session import in_doubt
from tests.support.waiting import eventually

PATIENCE = 20.0


class CtrlCAt:
    """Raises `KeyboardInterrupt` in this thread at the n-th place in some modules where Python may
    run a signal's handler: on the way into a function, or after a call of one in C."""

    def __init__(self, number: int, *modules: ModuleType) -> None:
        self._left = number
        self._files = {module.__file__ for module in modules}
        self.struck = ""

    def __enter__(self) -> CtrlCAt:
        sys.setprofile(self._look)
        return self

    def __exit__(self, *details: object) -> None:
        sys.setprofile(None)

    def _look(self, frame: FrameType, event: str, argument: object) -> None:
        if frame.f_code.co_filename in self._files and event in ("call", "c_return"):
            self._left -= 1
            if not self._left:
                sys.setprofile(None)
                self.struck = f"{event} {frame.f_code.co_qualname} {frame.f_lineno} {argument}"
                raise KeyboardInterrupt


def use(q: PressureQueue[int], operation: str, items: Iterator[int], got: list[int]) -> None:
    if operation == "get":
        got.append(q.get(timeout=PATIENCE))
    elif operation == "get ahead":
        got.append(next(items))
    elif operation == "lease":
        with q.lease(timeout=PATIENCE) as number:
            pass
        got.append(number)
    elif operation == "put":
        q.put(-1)
    else:
        q.task_done()


@pytest.mark.parametrize("operation", ["get", "get ahead", "lease", "put", "task_done"])
def test_a_session_is_lost_nowhere(operation: str, url: str, queue_name: str) -> None:
    """Wherever in the handle Ctrl-C comes: what a lost one holds would be seen by nobody, for as
    long as the process lives."""
    items = 200
    q: PressureQueue[int] = PressureQueue(queue_name, url=url)
    q.create()
    q.put_many(range(items))
    got: list[int] = []
    for place in range(1, items):
        # There is something to look after, too.
        got.append(q.get(timeout=PATIENCE))
        each = iter(q)
        with contextlib.suppress(KeyboardInterrupt), CtrlCAt(place, handle, sessions) as ctrl_c:
            use(q, operation, each, got)
        kept = q._handle

        def all_are_there(kept: Any = kept) -> bool:
            there = [*kept._consumers, *kept._others]
            return not kept._borrowed and len(there) == len(q._core.sessions)

        assert eventually(all_are_there, PATIENCE), ctrl_c.struck
        if not ctrl_c.struck:
            break
    assert place > 5
    assert not ctrl_c.struck, "there were more places than items"
    assert eventually(lambda: not any(s.pending or s.stale for s in q._core.sessions), PATIENCE)
    q.close()
    rest = [number for number in q if number >= 0]
    # What an interrupted get took, and did not return, is there; nothing else is. (A lease may have
    # been acknowledged when it was interrupted.)
    assert len({*got, *rest}) == len(got + rest)
    assert operation == "lease" or len(got + rest) == items
    q.delete()
    q.disconnect()


@pytest.mark.parametrize("module", [core, encoding, items, pace, putting, session, taker])
def test_batches_are_there_once(module: ModuleType, url: str, queue_name: str) -> None:
    """Wherever in `get_many` or `put_many` Ctrl-C comes: nothing is lost or doubled of what was to
    be got, and what was put is the beginning of what was to be."""
    q: PressureQueue[int] = PressureQueue(queue_name, url=url, key=b"k" * 32)
    q.create()
    whole: set[int] = set()
    got: list[int] = []
    number = 0
    for place in range(1, 3000):
        q.put_many([number, number + 1, number + 2])
        whole.update(range(number, number + 3))
        number += 3
        with contextlib.suppress(KeyboardInterrupt), CtrlCAt(place, module) as ctrl_c:
            got += q.get_many(3, timeout=PATIENCE)
            q.put_many([*range(number, number + 7)])
        number += 7
        if not ctrl_c.struck:
            break
    assert not ctrl_c.struck, "there were more places"
    q.close()
    rest = [*q]
    got += rest
    assert len(got) == len({*got})
    assert {*got} >= whole
    for first in range(3, number, 10):
        there = [one for one in range(first, first + 7) if one in {*rest, *got}]
        assert there == [*range(first, first + len(there))]
    assert not q.stats().dead_letters
    q.delete()
    q.disconnect()


@pytest.mark.parametrize("bound", [0, 300])
@pytest.mark.parametrize("module", [flows, putting, outgoing, producer, feeding])
def test_what_a_loop_has_put_is_there_once(module: ModuleType, bound: int, url: str) -> None:
    """Wherever in a put Ctrl-C comes: it sends what was put before, and hears what became of it."""
    q: Any = mp.Queue(bound, url=url)
    got: list[int] = []
    number = -1
    cut_short: set[int] = set()
    for place in range(1, 2000):
        with contextlib.suppress(KeyboardInterrupt), CtrlCAt(place, module) as ctrl_c:
            for _ in range(20):
                number += 1
                q.put(number, timeout=PATIENCE)
        if not ctrl_c.struck:
            break
        # Its own item may be there or not.
        cut_short.add(number)
        if place % 5 == 0:
            # Until it is known what has become of the last send, it counts twice.
            q._producer.settle()
            got += [q.get(timeout=PATIENCE) for _ in range(q.qsize())]
    q.put(-1, timeout=PATIENCE)
    got += iter(partial(q.get, timeout=PATIENCE), -1)
    assert not ctrl_c.struck, "there were more places"
    assert len(got) == len({*got})
    assert {*range(number + 1)} - {*got} <= cut_short
    q.close()
    q.join_thread()
    q.delete()


@pytest.mark.parametrize("module", [staff, results])
def test_a_pool_ends_after_an_interrupted_imap(module: ModuleType) -> None:
    pools = []
    for place in range(1, 500):
        pool = mp.Pool(1)
        # What Python finalizes in the midst of it is another matter.
        pools.append(pool)
        with contextlib.suppress(KeyboardInterrupt), CtrlCAt(place, module) as ctrl_c:
            assert list(pool.imap(abs, range(3))) == [0, 1, 2]
        pool.close()
        joining = threading.Thread(target=pool.join, daemon=True)
        joining.start()
        joining.join(PATIENCE)
        assert not joining.is_alive(), ctrl_c.struck
        if not ctrl_c.struck:
            break
    assert not ctrl_c.struck, "there were more places"


@pytest.mark.parametrize("module", [ledger, recall, producing])
def test_a_task_is_lost_nowhere(module: ModuleType) -> None:
    """Wherever in its cancelling Ctrl-C comes: each future ends."""
    with RedisExecutor(1) as executor:
        futures: list[Future[Any]] = []
        for place in range(1, 500):
            futures += [executor.submit(time.sleep, 0.01) for _ in range(3)]
            with contextlib.suppress(KeyboardInterrupt), CtrlCAt(place, module) as ctrl_c:
                futures[-1].cancel()
            if not ctrl_c.struck:
                break
        assert not ctrl_c.struck, "there were more places"
        assert not wait(futures, PATIENCE).not_done


def test_a_large_item_for_which_there_is_no_room(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the same send had put before counts as put, though the last request was another."""
    q: Any = mp.Queue(100, url=url)
    for number in range(100):
        q.put(number, timeout=PATIENCE)
    execute = Link.execute

    def interrupted(link: Link, command: Command, *more: Any) -> Any:
        reply = execute(link, command, *more)
        if command.words[0] == "HDEL":
            # Its parts were stored before it was refused.
            monkeypatch.undo()
            raise KeyboardInterrupt
        return reply

    monkeypatch.setattr(Link, "execute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        q.put(b"x" * 300_000, timeout=0.1)
    got = [q.get(timeout=PATIENCE) for _ in range(100)]
    assert got == list(range(100))
    q._producer.settle()
    # It may be there, too.
    assert q.qsize() <= 1
    q.close()
    q.join_thread()
    q.delete()


def test_a_handler_that_cancels_in_the_midst_of_a_cancel() -> None:
    struck: list[str] = []
    with RedisExecutor(1) as executor:
        futures = [executor.submit(time.sleep, 0.5 if number == 0 else 0) for number in range(200)]
        assert eventually(futures[0].running, PATIENCE)
        assert eventually(lambda: executor._engine.dispatcher.ledger.idle, PATIENCE)

        def look(frame: FrameType, event: str, argument: object) -> None:
            if frame.f_code is producing.Withdrawer._settle.__code__ and event == "call":
                sys.setprofile(None)
                struck.append(event)
                futures[-2].cancel()

        sys.setprofile(look)
        futures[-1].cancel()
        sys.setprofile(None)
        assert struck
        assert not wait(futures, PATIENCE).not_done


def test_a_handler_that_flushes_as_a_session_is_lent(
    url: str, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    q: PressureQueue[int] = PressureQueue(queue_name, url=url)
    q.create()
    q.put_many(range(10))
    got = [q.get(timeout=PATIENCE)]
    choose = in_doubt

    def flushing(sessions: Any) -> int:
        at = choose(sessions)
        monkeypatch.undo()
        got.append(q.get(timeout=PATIENCE))
        q.task_done()
        return at

    monkeypatch.setattr("pressure.sessions.in_doubt", flushing)
    got.append(q.get(timeout=PATIENCE))
    kept = q._handle
    sessions = [*kept._consumers, *kept._others]
    assert len(sessions) == len({*sessions}) == len(q._core.sessions)
    assert sorted(got + q.get_many(10, timeout=PATIENCE)) == list(range(10))
    q.delete()
    q.disconnect()
