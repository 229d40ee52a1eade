"""The garbage collector runs wherever it likes, also with a lock of ours held: nobody hangs."""

from __future__ import annotations

import functools
import gc
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from pressure import PressureQueue
from pressure.executor import RedisExecutor, TaskFuture
from pressure.executor.client.answers import start
from tests.contract import executing as do
from tests.support.waiting import eventually

WAIT = 20.0


def collect(made: list[object], lock: AbstractContextManager[object]) -> None:
    """Have the only reference to what is in the list vanish by the collector, under the lock."""

    def work() -> None:
        with lock:
            cycle = [made.pop()]
            cycle.append(cycle)
            del cycle
            gc.collect()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(WAIT)
    assert not thread.is_alive(), "hung"


@pytest.mark.parametrize("lock", ["ledger", "withdrawer"])
def test_a_map_is_left_halfway(tmp_path: Path, lock: str) -> None:
    with RedisExecutor(1) as executor:
        dispatcher = executor._engine.dispatcher
        task = functools.partial(do.hold_after, "first", str(tmp_path))
        results = executor.map(task, ["first", "second", *"abcdefgh"])
        next(results)
        made: list[object] = [results]
        del results
        withdrawer = dispatcher._recall._withdrawer
        assert withdrawer is not None
        collect(made, withdrawer._lock if lock == "withdrawer" else dispatcher.ledger.lock)
        assert eventually(lambda: executor.stats().cancelled == 8)
        (tmp_path / "go").touch()


def test_an_executor_is_dropped() -> None:
    executor = RedisExecutor(1)
    assert executor.submit(do.square, 3).result(WAIT) == 9
    engine = executor._engine
    made: list[object] = [executor]
    del executor
    collect(made, engine.dispatcher.ledger.lock)
    assert engine.thread is not None
    engine.thread.join(WAIT)
    assert not engine.thread.is_alive()


def test_a_loop_over_a_queue_is_left(queue_name: str, url: str) -> None:
    with PressureQueue[int](queue_name, url=url) as q:
        q.create()
        q.put_many(range(10))
        items = iter(q)
        assert next(items) == 0
        made: list[object] = [items]
        del items
        collect(made, q._handle._lock)
        with PressureQueue[int](queue_name, url=url) as other:
            assert [other.get(timeout=WAIT) for _ in range(9)] == list(range(1, 10))
        q.delete()


def test_the_ledger_s_lock_is_not_held_while_a_future_s_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The collector may want the ledger's in a thread that holds the future's."""
    held: list[bool] = []

    def look(future: TaskFuture[Any]) -> None:
        held.append(ledger.lock._is_owned())  # type: ignore[attr-defined]
        start(future)

    monkeypatch.setattr("pressure.executor.client.dispatcher.start", look)
    with RedisExecutor(1) as executor:
        ledger = executor._engine.dispatcher.ledger
        executor.submit(time.sleep, 0.3).result(WAIT)
    assert held == [False]
