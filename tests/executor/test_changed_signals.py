"""Tasks and initializers that change how their process takes signals."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pressure.executor import RedisExecutor, TaskTimeoutError, interrupts
from tests.contract import executing as do
from tests.executor.crews import ended
from tests.executor.programs import Program
from tests.support.waiting import eventually

WAIT = 40.0

# What runs in workers


def _nothing(*_: object) -> None: ...


def ignore(number: int) -> None:
    signal.signal(number, signal.SIG_IGN)


def handle(number: int) -> None:
    signal.signal(number, _nothing)


def default(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)


def block(number: int) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [number])


def handle_in_a_loop(*numbers: int) -> None:
    """As asyncio's servers do; it leaves the handler of the system's behind."""

    async def serve() -> None:
        for number in numbers:
            asyncio.get_running_loop().add_signal_handler(number, _nothing)
        await asyncio.sleep(0)

    asyncio.run(serve())


def handle_and_hold(number: int, directory: str, name: str) -> str:
    handle(number)
    return do.hold(directory, name)


def handler_of(number: int) -> str:
    return repr(signal.getsignal(number))


def sleep(seconds: float) -> None:
    time.sleep(seconds)


CHANGES = [ignore, handle, default, block, handle_in_a_loop]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("where", ["task", "initializer"])
def test_an_executor_ends_whatever_was_done_to_sigterm(
    change: Callable[[int], None], where: str
) -> None:
    if where == "task":
        ex = RedisExecutor(1)
        ex.submit(change, signal.SIGTERM).result(WAIT)
    else:
        ex = RedisExecutor(1, initializer=change, initargs=(signal.SIGTERM,))
    try:
        assert ex.submit(do.square, 3).result(WAIT) == 9
        ex.shutdown(wait=False)
        assert ended(ex)
    finally:
        ex.kill_workers()


def test_who_does_not_hear_the_signal_stops_after_its_task(
    serve: Callable[..., Program], executor: RedisExecutor, tmp_path: Path
) -> None:
    program = serve("--processes", "1")
    runs = executor.submit(handle_and_hold, signal.SIGTERM, str(tmp_path), "runs")
    assert eventually((tmp_path / "runs").exists, WAIT)
    (before,) = program.children()
    program.process.send_signal(signal.SIGHUP)
    assert program.says("are replaced")
    (tmp_path / "go").touch()
    assert runs.result(WAIT) == "runs"
    assert eventually(lambda: program.children() not in ([before], []), WAIT)
    assert executor.submit(do.pid).result(WAIT) != before
    program.process.terminate()
    assert program.wait() == 0
    assert "died" not in program.output


def test_a_program_of_asyncio_does_not_make_the_next_task_mortal(
    serve: Callable[..., Program], executor: RedisExecutor, tmp_path: Path
) -> None:
    program = serve("--processes", "1")
    executor.submit(handle_in_a_loop, signal.SIGTERM, signal.SIGHUP, signal.SIGINT).result(WAIT)
    runs = executor.options(max_deliveries=1).submit(do.hold, str(tmp_path), "runs")
    assert eventually((tmp_path / "runs").exists, WAIT)
    (worker,) = program.children()
    os.kill(worker, signal.SIGINT)
    os.kill(worker, signal.SIGHUP)
    program.process.send_signal(signal.SIGHUP)
    assert program.says("are replaced")
    (tmp_path / "go").touch()
    assert runs.result(WAIT) == "runs"
    assert "died" not in program.output


@pytest.mark.parametrize("change", CHANGES)
def test_a_timeout_is_gentle_whatever_was_done_to_its_signal(
    change: Callable[[int], None],
) -> None:
    with RedisExecutor(1) as ex:
        worker = ex.submit(do.pid).result(WAIT)
        ex.submit(change, interrupts.SIGNAL).result(WAIT)
        with pytest.raises(TaskTimeoutError):
            ex.options(timeout=0.1, grace=WAIT).submit(sleep, WAIT * 2).result(WAIT)
        assert ex.submit(do.pid).result(WAIT) == worker


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, interrupts.SIGNAL])
def test_the_next_task_finds_what_the_first_found(number: int) -> None:
    """Also if both are claimed at once."""
    with RedisExecutor(1) as ex:
        before = ex.submit(handler_of, number).result(WAIT)
        futures = [ex.submit(f, number) for _ in range(100) for f in (handle, handler_of)]
        assert {future.result(WAIT) for future in futures[1::2]} == {before}


def test_what_the_initializer_makes_of_ctrl_c_stays() -> None:
    with RedisExecutor(1, initializer=ignore, initargs=(signal.SIGINT,)) as ex:
        before = ex.submit(handler_of, signal.SIGINT).result(WAIT)
        ex.submit(handle, signal.SIGINT).result(WAIT)
        assert before == ex.submit(handler_of, signal.SIGINT).result(WAIT)
        assert "SIG_IGN" in before
