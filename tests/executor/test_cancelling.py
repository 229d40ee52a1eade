"""`cancel` while somebody else takes the same task back: both are told what becomes of it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from pressure.errors import ServerUnavailableError
from pressure.executor import RedisExecutor
from pressure.executor.client.futures import cancel_many
from tests.executor.crews import MODES, PATIENCE, executor
from tests.support.servers import ServerProcess
from tests.support.waiting import eventually


def wait_for(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def nothing() -> None:
    pass


@pytest.fixture(params=MODES)
def busy(request: pytest.FixtureRequest, url: str, queue_name: str) -> Iterator[RedisExecutor]:
    """An executor whose only worker has something to do."""
    with executor(request.param, url, queue_name, 1) as made:
        blocker = made.submit(wait_for, 60.0)
        until = time.monotonic() + PATIENCE
        while not blocker.running() and time.monotonic() < until:
            time.sleep(0.01)
        assert blocker.running()
        yield made
        made.terminate(blocker)


@pytest.mark.parametrize(
    "how",
    [
        lambda ex, future: future.cancel(),
        lambda ex, future: cancel_many([future]),
        lambda ex, future: ex.shutdown(wait=False, cancel_futures=True),
    ],
    ids=["cancel", "cancel_many", "shutdown"],
)
def test_what_another_thread_is_about_to_cancel_is_cancelled(
    busy: RedisExecutor, how: Callable[[RedisExecutor, Future[Any]], object]
) -> None:
    """That thread is held up when it has taken the task back, and nobody knows of it yet."""
    # The first is what `shutdown` leaves to the worker.
    busy.submit(nothing)
    future = busy.submit(nothing)
    recall = busy._engine.dispatcher._recall
    taken, go_on = threading.Event(), threading.Event()
    done = recall._done

    def hold() -> None:
        taken.set()
        assert go_on.wait(PATIENCE)
        done()

    recall._done = hold
    with ThreadPoolExecutor(1) as threads:
        other = threads.submit(how, busy, future)
        try:
            assert taken.wait(PATIENCE)
            recall._done = done
            assert not future.done()
            assert future.cancel() and future.cancelled()
        finally:
            go_on.set()
        assert other.result(PATIENCE) in (True, None)
    assert future.cancelled()


def test_of_two_threads_that_cancel_a_task_none_is_told_that_it_goes_on(
    busy: RedisExecutor,
) -> None:
    futures = [busy.submit(nothing) for _ in range(60)]
    with ThreadPoolExecutor(2) as threads:
        for future in futures:
            start = threading.Barrier(2)

            def cancel(future: Future[Any] = future, start: threading.Barrier = start) -> bool:
                start.wait(PATIENCE)
                return future.cancel()

            said = [threads.submit(cancel) for _ in range(2)]
            assert [one.result(PATIENCE) for one in said] == [True, True]
            assert future.cancelled()


def test_what_an_earlier_withdrawal_took_out_is_not_mistaken_for_the_task(
    busy: RedisExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reply to the first was lost; the second hears of both."""
    first, second = busy.submit(nothing), busy.submit(nothing)
    withdrawer = busy._engine.dispatcher._recall._withdrawer
    assert withdrawer is not None
    run = withdrawer._channel.handle.run
    lost = threading.Event()

    def lose(flow: Any, session: Any, until: float | None = None) -> Any:
        reply = run(flow, session, until)
        if session is withdrawer._session and not lost.is_set():
            lost.set()
            raise ServerUnavailableError("the reply is lost")
        return reply

    monkeypatch.setattr(withdrawer._channel.handle, "run", lose)
    assert not first.cancel() and lost.is_set()
    running = busy._engine.dispatcher.ledger.tasks
    blocker = next(task for task in running.values() if task.running())
    # What can't be withdrawn is not taken for what could.
    blocker._state = "PENDING"
    assert not blocker.cancel()
    blocker._state = "RUNNING"
    assert first.cancelled()
    assert second.cancel()


def test_a_server_that_is_away_is_not_asked_for_each_task(
    make_server: Callable[..., ServerProcess], caplog: pytest.LogCaptureFixture
) -> None:
    """Who cancels many would wait for it as often, and the event loop with it."""
    server = make_server(appendonly=True)
    with RedisExecutor(url=server.url) as ex:
        futures = [ex.submit(nothing) for _ in range(10)]
        client = server.client()
        assert eventually(lambda: client.llen("__pressure__:{default}") == 10)
        client.close()
        server.kill()
        with caplog.at_level(logging.WARNING, "pressure.executor"):
            assert not any([future.cancel() for future in futures])
        said = [record for record in caplog.records if "could not cancel" in record.message]
        assert len(said) <= 1
        server.start()
        assert eventually(lambda: all([future.cancel() for future in futures]), PATIENCE)


def test_many_that_are_cancelled_at_once_are_so_when_the_server_is_back(
    make_server: Callable[..., ServerProcess],
) -> None:
    server = make_server(appendonly=True)
    with RedisExecutor(url=server.url) as ex:
        futures = [ex.submit(nothing) for _ in range(10)]
        client = server.client()
        assert eventually(lambda: client.llen("__pressure__:{default}") == 10)
        client.close()
        server.kill()
        assert eventually(lambda: ex._engine.dispatcher.away_since is not None, PATIENCE)
        cancel_many(futures)
        server.start()
        assert eventually(lambda: all([future.cancelled() for future in futures]), PATIENCE)
