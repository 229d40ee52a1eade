"""What a supervisor of worker processes does in which order."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from pressure.address import Address
from pressure.channel import Channel
from pressure.executor import InitializerError, RedisExecutor
from pressure.executor.errors import NoWorkersError
from pressure.executor.post import Post
from pressure.executor.supervision import clerk, crew
from pressure.settings import Settings
from tests.faults import executing
from tests.support.waiting import eventually

WAIT = 40.0


def test_tasks_are_given_back_before_a_successor_is_forked(
    url: str, queue_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the fork and the new process hold up those who could run them."""
    # However busy the machine is.
    monkeypatch.setattr(crew, "HEAD_START", WAIT)
    monkeypatch.setattr(clerk, "UNANSWERED", WAIT)
    address, settings = Address.of(url), Settings()
    channel = Channel(queue_name, address, tag=queue_name, prefix="__pressure__", settings=settings)
    sizes: list[int] = []
    forked = threading.Event()
    notify = channel.notify

    def slowly(*args: Any) -> None:
        """The supervisor, if it doesn't wait, is faster than this."""
        forked.wait(0.5)
        notify(*args)

    monkeypatch.setattr(channel, "notify", slowly)

    def post(notes: Any, stderr: Any) -> Post:
        """Called right before a process is forked."""
        sizes.append(channel.size())
        if len(sizes) > 1:
            forked.set()
        return Post(
            address=address,
            queues=(queue_name,),
            prefix=channel.prefix,
            settings=settings,
            notes=notes,
            max_tasks=None,
            stderr=stderr,
        )

    with RedisExecutor(url=url, queue=queue_name) as executor:
        runs = tmp_path / "runs"
        future = executor.submit(executing.hang_once, str(runs))
        made = crew.Crew(1, [channel], post, context=multiprocessing.get_context("fork"))
        made.open()
        made.start()
        try:

            def started() -> bool:
                made.step(0.05)
                return runs.exists() and bool(executing.lines(str(runs)))

            assert eventually(started, WAIT)
            victim = int(executing.lines(str(runs))[0])
            os.kill(victim, signal.SIGKILL)

            def replaced() -> bool:
                made.step(0.05)
                return len(sizes) == 2

            assert eventually(replaced, WAIT)

            def run_again() -> bool:
                made.step(0.05)
                return future.done()

            assert eventually(run_again, WAIT)
        finally:
            made.stop(0.0)
            executor.shutdown(wait=False, cancel_futures=True)
    # The task is in the queue when its worker's successor is made.
    assert sizes[1] == 1
    assert future.result(WAIT) > 0
    channel.delete()
    channel.disconnect()


def test_workers_that_all_die_at_the_start_break_the_executor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(crew, "FIRST_PAUSE", 0.001)
    with RedisExecutor(2, initializer=os._exit, initargs=(3,)) as executor:
        future = executor.submit(abs, -1)
        with pytest.raises(InitializerError, match="exit code 3"):
            future.result(WAIT)
        with pytest.raises(InitializerError):
            executor.submit(abs, -1)


def test_processes_that_can_never_be_started_break_the_executor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The current directory is gone, say, and they are not forked."""
    monkeypatch.setattr(crew, "FIRST_PAUSE", 0.001)

    def start(self: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(crew.Crew, "_start_one", start)
    executor = RedisExecutor(2)
    try:
        with pytest.raises(NoWorkersError, match=r"could be started.*No such file"):
            executor.submit(abs, -1).result(WAIT)
    finally:
        executor.kill_workers()


def test_processes_that_cannot_be_started_for_now_are_awaited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(crew, "FIRST_PAUSE", 0.001)
    start, tries = crew.Crew._start_one, []

    def scarce(self: crew.Crew) -> None:
        tries.append(1)
        if len(tries) <= crew.STILLBORN + 2:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        start(self)

    monkeypatch.setattr(crew.Crew, "_start_one", scarce)
    with RedisExecutor(1) as executor:
        assert executor.submit(abs, -1).result(WAIT) == 1
