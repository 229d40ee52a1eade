"""Long tasks and large clients don't hold up the others. The limits only guard against a hang."""

from __future__ import annotations

import multiprocessing
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import wait
from typing import Any

import pytest

from pressure import PressureQueue, ServerUnavailableError, Settings
from pressure.channel import Channel
from pressure.executor import RedisExecutor, TaskTerminatedError
from pressure.executor.notes import MOST_CLAIMED
from pressure.executor.worker.one_queue import OneQueue
from tests.executor.crews import MODES, PATIENCE, daemon, executor
from tests.support.waiting import eventually


def nothing() -> None:
    pass


def hold_the_interpreter(size: int) -> bool:
    return re.match(r"(a+)+$", "a" * size + "b") is None


@pytest.mark.parametrize("mode", MODES)
def test_a_long_task_amid_short_ones(mode: str, url: str, queue_name: str) -> None:
    with executor(mode, url, queue_name, 2) as ex:
        wait([ex.submit(nothing) for _ in range(200)], PATIENCE)
        before = [ex.submit(nothing) for _ in range(1000)]
        long = ex.submit(time.sleep, PATIENCE)
        after = [ex.submit(nothing) for _ in range(1000)]
        done, not_done = wait(before + after, PATIENCE / 2)
        assert not not_done
        assert len(done) == 2000
        assert not long.done()
        assert ex.terminate(long)


@pytest.mark.parametrize("mode", MODES)
def test_several_long_tasks_amid_short_ones(mode: str, url: str, queue_name: str) -> None:
    """One worker of two is left for the short ones, however the long ones fall."""
    with executor(mode, url, queue_name, 3) as ex:
        futures = []
        long = []
        for number in range(600):
            futures.append(ex.submit(nothing))
            if number in (100, 400):
                long.append(ex.submit(time.sleep, PATIENCE))
        _, not_done = wait(futures, PATIENCE / 2)
        assert not not_done
        for future in long:
            assert not future.done()
            assert ex.terminate(future)


@pytest.mark.parametrize("mode", MODES)
def test_a_task_that_holds_the_interpreter_amid_short_ones(
    mode: str, url: str, queue_name: str
) -> None:
    """Its worker can't even give back what it has claimed. Only what this had finished already has
    to wait for it: one batch at most."""
    with executor(mode, url, queue_name, 2) as ex:
        wait([ex.submit(nothing) for _ in range(500)], PATIENCE)
        strict = ex.options(grace=0.1)
        before = [ex.submit(nothing) for _ in range(1000)]
        long = strict.submit(hold_the_interpreter, 64)
        after = [ex.submit(nothing) for _ in range(1000)]

        def left() -> int:
            return sum(not future.done() for future in before + after)

        assert eventually(lambda: left() < MOST_CLAIMED, PATIENCE / 2), left()
        assert not long.done()
        assert strict.terminate(long)
        assert eventually(lambda: left() == 0, PATIENCE), left()
        assert isinstance(long.exception(PATIENCE), TaskTerminatedError)


@pytest.mark.parametrize("step", ["notify", "give_back"])
def test_a_worker_loses_the_interpreter_as_it_says_that_a_task_runs_long(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For good: a task may do anything. Then its supervisor does it."""
    me = os.getpid()
    owner: Any = Channel if step == "notify" else OneQueue
    original = getattr(owner, step)

    def stuck(*args: object) -> None:
        if os.getpid() != me:
            threading.Event().wait()
        original(*args)

    monkeypatch.setattr(owner, step, stuck)
    with RedisExecutor(2, mp_context=multiprocessing.get_context("fork")) as ex:
        wait([ex.submit(nothing) for _ in range(500)], PATIENCE)
        before = [ex.submit(nothing) for _ in range(500)]
        long = ex.options(grace=0.1).submit(time.sleep, 60)
        after = [ex.submit(nothing) for _ in range(500)]
        _, not_done = wait(after, PATIENCE / 2)
        assert len(not_done) == 0
        assert eventually(long.running, PATIENCE / 2)
        assert ex.options(grace=0.1).terminate(long)
        assert isinstance(long.exception(PATIENCE), TaskTerminatedError)
        assert not wait(before, PATIENCE).not_done


def test_what_could_not_be_given_back_while_a_task_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is away as a long task ends: all that was claimed with it is seen to later."""
    me = os.getpid()
    give_back = OneQueue.give_back

    def give_back_late(self: OneQueue, ids: Sequence[bytes]) -> None:
        if os.getpid() != me and threading.current_thread() is not threading.main_thread():
            # The task ends meanwhile, and the main thread waits for the lock.
            time.sleep(0.5)
            raise ServerUnavailableError("on purpose")
        give_back(self, ids)

    monkeypatch.setattr(OneQueue, "give_back", give_back_late)
    with RedisExecutor(1, mp_context=multiprocessing.get_context("fork")) as ex:
        # In some rounds the last of them are claimed along with the long one.
        for _ in range(5):
            futures = [ex.submit(nothing) for _ in range(1000)]
            futures.append(ex.submit(time.sleep, 0.1))
            futures += [ex.submit(nothing) for _ in range(40)]
            assert not wait(futures, PATIENCE / 2).not_done


def test_a_small_client_beside_a_large_one(url: str, queue_name: str) -> None:
    with (
        daemon(url, queue_name, 2),
        RedisExecutor(url=url, queue=queue_name) as large,
        RedisExecutor(url=url, queue=queue_name) as small,
    ):
        small.submit(nothing).result(PATIENCE)
        many = [large.submit(nothing) for _ in range(30_000)]
        many[0].result(PATIENCE)
        for _ in range(3):
            small.submit(nothing).result(PATIENCE)
        assert not many[-1].done(), "the large one was done before the small one's turn came"
        _, not_done = wait(many, PATIENCE)
        assert not not_done


def test_two_large_clients_make_progress_together(url: str, queue_name: str) -> None:
    with (
        daemon(url, queue_name, 2),
        RedisExecutor(url=url, queue=queue_name) as one,
        RedisExecutor(url=url, queue=queue_name) as other,
    ):
        finished: dict[str, float] = {}

        def run(name: str, ex: RedisExecutor) -> None:
            wait([ex.submit(nothing) for _ in range(5000)], PATIENCE)
            finished[name] = time.monotonic()

        threads = [
            threading.Thread(target=run, args=arguments)
            for arguments in (("one", one), ("other", other))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert set(finished) == {"one", "other"}


def pid_after(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def test_tasks_that_take_some_time_after_quick_ones(url: str, queue_name: str) -> None:
    """A worker that has learned to claim many at once shares them all the same, though none of them
    runs for long."""
    queue: PressureQueue[bytes] = PressureQueue(
        queue_name, url=url, settings=Settings(hash_tag=queue_name)
    )
    with executor("daemon", url, queue_name, 2) as ex:
        wait([ex.submit(nothing) for _ in range(3000)], PATIENCE)
        queue.pause()
        futures = [ex.submit(pid_after, 0.015) for _ in range(MOST_CLAIMED)]
        assert eventually(lambda: queue.qsize() == MOST_CLAIMED, PATIENCE)
        queue.resume()
        pids = Counter(future.result(PATIENCE) for future in futures)
    queue.disconnect()
    assert len(pids) == 2
    assert min(pids.values()) >= 20
