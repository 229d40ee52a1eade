"""One suite, run on `ProcessPoolExecutor` and on `RedisExecutor` in both of its modes."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import gc
import itertools
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pressure.executor import RedisExecutor
from tests.contract import executing as do
from tests.executor.crews import daemon
from tests.support.servers import ServerProcess
from tests.support.waiting import eventually

WAIT = 20.0
WORKERS = 2
KINDS = ("stdlib", "local", "daemon")
Make = Callable[[], Executor]


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def make(kind: str, server: ServerProcess) -> Iterator[Make]:
    """Makes executors of the kind, each with two workers."""
    made: list[Executor] = []
    with contextlib.ExitStack() as stack:
        if kind == "daemon":
            stack.enter_context(daemon(server.url, "contract", WORKERS))

        def make_one() -> Executor:
            if kind == "stdlib":
                made.append(ProcessPoolExecutor(WORKERS))
            elif kind == "local":
                made.append(RedisExecutor(WORKERS))
            else:
                made.append(RedisExecutor(url=server.url, queue="contract"))
            return made[-1]

        yield make_one
        for executor in made:
            executor.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def executor(make: Make) -> Executor:
    """One for all tests that leave it as it was."""
    return make()


@contextlib.contextmanager
def both_held(executor: Executor, directory: Path) -> Iterator[list[Future[str]]]:
    """Both workers run something until the end of the block."""
    held = [executor.submit(do.hold, str(directory), name) for name in "ab"]
    assert eventually(lambda: all((directory / name).exists() for name in "ab"))
    try:
        yield held
    finally:
        (directory / "go").touch()
    assert [future.result(WAIT) for future in held] == ["a", "b"]


# submit


def test_arguments_arrive_and_no_keyword_is_reserved(executor: Executor) -> None:
    assert executor.submit(do.square, 7).result(WAIT) == 49
    future = executor.submit(do.capture, 1, self=2, fn=3, args=4, kwargs=5, options=6, timeout=7)
    expected = {"self": 2, "fn": 3, "args": 4, "kwargs": 5, "options": 6, "timeout": 7}
    assert future.result(WAIT) == ((1,), expected)
    with pytest.raises(TypeError):
        executor.submit(fn=do.capture)  # type: ignore[call-arg]


def test_futures_are_real(executor: Executor) -> None:
    future = executor.submit(do.square, 3)
    assert isinstance(future, Future)
    assert concurrent.futures.wait([future], WAIT).done == {future}
    assert future.done() and not future.running() and not future.cancelled()
    assert not future.cancel()
    seen: list[Any] = []
    future.add_done_callback(seen.append)
    assert seen == [future]


def test_an_error_comes_with_its_type_and_its_traceback(executor: Executor) -> None:
    future = executor.submit(do.fail, KeyError, "this")
    error = future.exception(WAIT)
    assert type(error) is KeyError and error.args == ("this",)
    assert "the line of the error" in str(error.__cause__)
    other = executor.submit(do.fail, KeyError, "this").exception(WAIT)
    assert other is not error
    leaves = executor.submit(do.fail, SystemExit, 3)
    with pytest.raises(SystemExit):
        leaves.result(WAIT)
    assert executor.submit(do.square, 2).result(WAIT) == 4


def test_a_falsy_error_is_an_error(executor: Executor, kind: str) -> None:
    if kind == "stdlib":
        pytest.skip("since Python 3.14")
    falsy = executor.submit(do.falsy)
    with pytest.raises(do.FalsyError):
        falsy.result(WAIT)


def test_what_cannot_be_pickled_is_the_future_s_error(executor: Executor) -> None:
    argument = executor.submit(do.square, do.Unpicklable())  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError, match="not to be pickled"):
        argument.result(WAIT)
    error = argument.exception()
    assert error is not None
    assert type(error.__cause__).__name__ == "_RemoteTraceback" and error.__context__ is None
    assert "Traceback" in str(error.__cause__) and "in __reduce__" in str(error.__cause__)
    lock = executor.submit(do.square, threading.Lock())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="pickle"):
        lock.result(WAIT)
    error = lock.exception()
    assert error is not None
    assert "cannot pickle" in str(error.__cause__) and error.__context__ is None
    assert executor.submit(do.square, 2).result(WAIT) == 4


def test_large_arguments_and_results(executor: Executor) -> None:
    size = 3_000_000
    assert executor.submit(do.length, b"x" * size).result(WAIT) == size
    assert executor.submit(do.blob, size).result(WAIT) == b"x" * size


def test_callbacks_may_submit(executor: Executor) -> None:
    results: list[Any] = []
    done = threading.Event()

    def again(future: Future[Any]) -> None:
        results.append(future.result())
        if len(results) < 5:
            executor.submit(do.square, len(results)).add_done_callback(again)
        else:
            done.set()

    executor.submit(do.square, 0).add_done_callback(again)
    assert done.wait(WAIT)
    assert results == [0, 1, 4, 9, 16]


def test_a_callback_that_fails_harms_nobody(executor: Executor) -> None:
    def fail(future: Future[Any]) -> None:
        raise ValueError("out of a callback")

    first = executor.submit(do.slowly, 1)
    first.add_done_callback(fail)
    assert first.result(WAIT) == 1
    assert executor.submit(do.square, 2).result(WAIT) == 4


def test_many_threads_may_submit(executor: Executor) -> None:
    results: dict[int, int] = {}

    def run(base: int) -> None:
        futures = {x: executor.submit(do.square, x) for x in range(base, base + 50)}
        results.update((x, future.result(WAIT)) for x, future in futures.items())

    threads = [threading.Thread(target=run, args=(100 * n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert len(results) == 400
    assert all(value == x * x for x, value in results.items())


def test_running_and_cancel(executor: Executor, kind: str, tmp_path: Path) -> None:
    with both_held(executor, tmp_path) as held:
        assert eventually(lambda: all(future.running() for future in held))
        assert not any(future.cancel() for future in held)
        # The standard library's workers fetch a few tasks ahead, which then count as running.
        waiting = [executor.submit(do.mark, str(tmp_path), f"ran{n}") for n in range(20)]
        assert eventually(lambda: waiting[-1].cancel())
        assert waiting[-1].cancelled() and waiting[-1].cancel()
        with pytest.raises(CancelledError):
            waiting[-1].result(0)
        if kind != "stdlib":
            # There, one is only told when a worker would have begun it.
            assert concurrent.futures.wait([waiting[-1]], 0).done == {waiting[-1]}
        cancelled = [n for n, future in enumerate(waiting) if future.cancel()]
        assert len(cancelled) >= 10
    concurrent.futures.wait(waiting, WAIT)
    assert not any((tmp_path / f"ran{n}").exists() for n in cancelled)
    others = set(range(20)) - set(cancelled)
    assert all((tmp_path / f"ran{n}").exists() for n in others)


def test_both_workers_work(executor: Executor, tmp_path: Path) -> None:
    with both_held(executor, tmp_path):
        pass
    assert (
        len({future.result(WAIT) for future in [executor.submit(do.pid) for _ in range(40)]}) == 2
    )


# map


def test_map_is_ordered(executor: Executor) -> None:
    assert list(executor.map(do.square, range(50))) == [x * x for x in range(50)]
    assert list(executor.map(pow, [2, 3], [4, 5, 6])) == [16, 243]
    for chunksize in (1, 7, 50, 1000):
        found = list(executor.map(do.square, range(50), chunksize=chunksize))
        assert found == [x * x for x in range(50)]
    assert list(executor.map(do.square, [])) == []
    with pytest.raises(ValueError, match="chunksize"):
        executor.map(do.square, [1], chunksize=0)


def test_map_raises_at_the_place_of_the_error(executor: Executor) -> None:
    results = executor.map(divmod, [1, 1, 1], [2, 0, 1])
    assert next(results) == (0, 1)
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_map_has_a_timeout(executor: Executor, tmp_path: Path) -> None:
    results = executor.map(do.hold, [str(tmp_path)], ["slow"], timeout=0.2)
    with pytest.raises(TimeoutError):
        next(results)
    (tmp_path / "go").touch()


def test_map_keeps_no_result(executor: Executor) -> None:
    for result in executor.map(do.capture, range(10)):
        # A dict can't be referred to weakly, so count instead.
        gc.collect()
        assert len(gc.get_referrers(result[1])) <= 2


def run_of_a_dropped_map(executor: Executor, directory: Path) -> int:
    """Leave a map of 60 calls after the first result, let all go on, and count who did."""
    task = functools.partial(do.hold_after, "m0", str(directory))
    results = executor.map(task, [f"m{n}" for n in range(60)])
    next(results)
    results.close()  # type: ignore[attr-defined]
    (directory / "go").touch()
    concurrent.futures.wait([executor.submit(do.slowly, x) for x in range(4)], WAIT)
    return len(list(directory.glob("m*")))


def test_a_map_that_is_dropped_cancels_the_rest(executor: Executor, tmp_path: Path) -> None:
    assert run_of_a_dropped_map(executor, tmp_path) < 30


@pytest.mark.parametrize("attempt", range(10))
def test_a_dropped_map_also_cancels_what_a_worker_holds(
    executor: Executor, tmp_path: Path, attempt: int
) -> None:
    """Workers that had short tasks take many at once, in some of the attempts all of these."""
    concurrent.futures.wait([executor.submit(do.square, x) for x in range(400)], WAIT)
    assert run_of_a_dropped_map(executor, tmp_path) < 10


@pytest.mark.parametrize("chunksize", [1, 2])
def test_a_map_can_be_closed_and_keeps_no_result(executor: Executor, chunksize: int) -> None:
    results = executor.map(do.Kept, range(4), chunksize=chunksize)
    first = weakref.ref(next(results))
    # The thread that has set it may be on its way out of that still.
    assert eventually(lambda: first() is None)
    results.close()  # type: ignore[attr-defined]
    assert list(results) == []


# asyncio


def test_asyncio_can_use_it(executor: Executor) -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(executor, do.square, x) for x in range(20)]
        return await asyncio.wait_for(asyncio.gather(*calls), WAIT)

    assert asyncio.run(main()) == [x * x for x in range(20)]


@pytest.mark.parametrize("size", [0, 2000, 50_000])
def test_no_task_sees_what_another_did_to_a_callable(make: Make, size: int) -> None:
    executor = make()
    book = do.Logbook(size)
    assert list(executor.map(book, range(4))) == [[x] for x in range(4)]
    assert list(executor.map(book.__call__, range(4))) == [[x] for x in range(4)]
    partial = functools.partial(do.Logbook.__call__, book)
    assert [executor.submit(partial, x).result(WAIT) for x in range(4)] == [[x] for x in range(4)]
    assert book.lines == []


def test_what_a_call_has_twice_is_one_object(make: Make) -> None:
    executor = make()
    book = do.Logbook(100)
    assert executor.submit(book.has, book.lines).result(WAIT)
    assert executor.submit(functools.partial(do.are_one, book), book).result(WAIT)
    large = bytearray(2 * 1024 * 1024)
    for _ in range(4):
        assert executor.submit(do.are_one, large, second=large).result(WAIT)


def test_the_programs_that_tasks_start_heed_ctrl_c(make: Make) -> None:
    assert make().submit(do.interrupt_a_program).result(WAIT) == -signal.SIGINT


# The end


def test_shutdown_waits_and_is_final(make: Make) -> None:
    executor = make()
    with executor:
        futures = [executor.submit(do.slowly, x) for x in range(6)]
    assert all(future.done() for future in futures)
    assert [future.result() for future in futures] == list(range(6))
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(do.square, 1)
    executor.shutdown()


def test_a_callback_may_shut_down_but_not_wait(make: Make, tmp_path: Path) -> None:
    executor = make()
    future = executor.submit(do.hold, str(tmp_path), "held")
    errors: list[BaseException] = []
    called = threading.Event()

    def shut_down(future: Future[str]) -> None:
        try:
            executor.shutdown(wait=True)
        except RuntimeError as exc:
            errors.append(exc)
        called.set()

    future.add_done_callback(shut_down)
    (tmp_path / "go").touch()
    assert called.wait(WAIT)
    assert "cannot join" in str(errors[0])
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(do.square, 1)


def test_shutdown_without_waiting_finishes_the_work(make: Make) -> None:
    executor = make()
    futures = [executor.submit(do.slowly, x) for x in range(10)]
    executor.shutdown(wait=False)
    with pytest.raises(RuntimeError):
        executor.submit(do.square, 1)
    assert [future.result(WAIT) for future in futures] == list(range(10))


def test_shutdown_may_cancel(make: Make) -> None:
    executor = make()
    executor.submit(do.square, 1).result(WAIT)
    futures = [executor.submit(do.slowly, x) for x in range(60)]
    executor.shutdown(cancel_futures=True)
    assert all(future.done() for future in futures)
    cancelled = [future.cancelled() for future in futures]
    assert sum(cancelled) > 30
    assert [f.result() for f in futures if not f.cancelled()] == [
        x for x, gone in enumerate(cancelled) if not gone
    ]


def test_an_executor_that_is_dropped_finishes_its_work(make: Make, kind: str) -> None:
    if kind == "stdlib":
        executor: Executor | None = ProcessPoolExecutor(WORKERS)
    elif kind == "local":
        executor = RedisExecutor(WORKERS)
    else:
        pytest.skip("`make` keeps them; the local one shows it")
    assert executor is not None
    gone = weakref.ref(executor)
    futures = [executor.submit(do.slowly, x) for x in range(10)]
    executor = None
    gc.collect()
    assert gone() is None
    assert [future.result(WAIT) for future in futures] == list(range(10))


def test_an_unused_executor_ends_at_once(make: Make) -> None:
    began = time.monotonic()
    with make():
        pass
    assert time.monotonic() - began < 5


def test_the_submitted_objects_are_released(executor: Executor) -> None:
    thing: Any = type("Local", (do.Unpicklable,), {"__reduce__": lambda self: (int, ())})()
    gone = weakref.ref(thing)
    future = executor.submit(do.square, thing)
    del thing
    assert future.result(WAIT) == 0
    assert eventually(lambda: (gc.collect(), gone() is None)[1])


def test_endless_input_with_a_buffer(executor: Executor, kind: str) -> None:
    if kind == "stdlib" and not hasattr(concurrent.futures, "interpreter"):
        pytest.skip("since Python 3.14")
    drawn = itertools.count()
    results = executor.map(do.square, drawn, buffersize=5)  # type: ignore[call-arg]
    assert list(itertools.islice(results, 20)) == [x * x for x in range(20)]
    assert next(drawn) <= 26
    results.close()  # type: ignore[attr-defined]
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="buffersize"):
            executor.map(do.square, [1], buffersize=wrong)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="buffersize"):
        executor.map(do.square, [1], buffersize=1.5)  # type: ignore[call-arg]
