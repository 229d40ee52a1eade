"""What programs expect of a pool: of the standard library's, and so of ours."""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import multiprocessing
import multiprocessing.pool
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ProcessPoolExecutor
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
import pytest
import redis

import pressure.multiprocessing
from pressure.executor import InitializerError, WorkerLostError
from pressure.multiprocessing.pool import AHEAD
from pressure.server import shared_local_server
from tests.executor.crews import daemon
from tests.support.fixtures import keys_left
from tests.support.processes import Child, report

WAIT = 30.0
"""Seconds that no wait in here may take: a guard against hangs."""

remote: Any = vars(multiprocessing.pool)

MakePool = Callable[..., Any]


def _pools(cls: Any) -> Iterator[MakePool]:
    made = []

    def make(*args: Any, **kwargs: Any) -> Any:
        made.append(cls(*args, **kwargs))
        return made[-1]

    yield make
    for pool in made:
        pool.terminate()
        pool.join()


@pytest.fixture(params=["stdlib", "ours"])
def make_pool(request: pytest.FixtureRequest) -> Iterator[MakePool]:
    """Makes pools of either kind, which end with the test."""
    stdlib = request.param == "stdlib"
    yield from _pools(multiprocessing.Pool if stdlib else pressure.multiprocessing.Pool)


@pytest.fixture
def make_ours() -> Iterator[MakePool]:
    yield from _pools(pressure.multiprocessing.Pool)


def square(x: int) -> int:
    return x * x


def doubled(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    array *= 2
    return array


def grown(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Only an array with data of its own can be resized."""
    array.resize((len(array) + 1,), refcheck=False)
    return array


def readonly_ones(size: int) -> np.ndarray[Any, Any]:
    array = np.ones(size)
    array.setflags(write=False)
    return array


def pid_of(_: object) -> int:
    return os.getpid()


def fail(x: object) -> NoReturn:
    raise KeyError(x)  # the line itself


def fail_at(bad: int, x: int) -> int:
    if x == bad:
        raise KeyError(x)
    return x


def block(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(10 * WAIT)


def unpicklable() -> object:
    return lambda: None


class Stubborn(Exception):
    """Can be pickled, and not be made again."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(one)


def raise_stubborn() -> NoReturn:
    raise Stubborn(1, 2)


_setting = "unset"


def set_setting(value: str) -> None:
    global _setting
    _setting = value


def get_setting() -> str:
    return _setting


def touch(path: str) -> None:
    time.sleep(0.2)
    Path(path).touch()


def tell(connection: Connection, text: str) -> None:
    connection.send(text)
    connection.close()


def broken_iterable(length: int) -> Iterator[int]:
    yield from range(length)
    raise LookupError("the iterable")


def wait_for_file(path: Path) -> str:
    until = time.monotonic() + WAIT
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < until, f"{path} does not come"
        time.sleep(0.01)
    return path.read_text()


def test_apply(make_pool: MakePool) -> None:
    pool = make_pool(2)
    assert pool.apply(square, (3,)) == 9
    assert pool.apply(int, ("11",), {"base": 2}) == 3
    assert pool.apply_async(square, [4]).get(WAIT) == 16


@pytest.mark.parametrize("size", [10, 100_000])
def test_arrays_are_writable(make_pool: MakePool, size: int) -> None:
    pool = make_pool(1)
    for result in (pool.apply(doubled, (np.ones(size),)), *pool.map(doubled, [np.ones(size)] * 2)):
        assert doubled(result)[-1] == 4.0


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_readonly_arrays_arrive_writable(make_pool: MakePool, size: int) -> None:
    pool = make_pool(1)
    array = readonly_ones(size)
    for result in (pool.apply(doubled, (array,)), *pool.map(doubled, [array] * 2)):
        assert result[-1] == 2.0
    for result in (pool.apply(readonly_ones, (size,)), *pool.imap(readonly_ones, [size])):
        assert doubled(result)[-1] == 2.0


def test_small_arrays_own_their_data(make_pool: MakePool) -> None:
    pool = make_pool(1)
    for result in (pool.apply(grown, (np.ones(3),)), *pool.map(grown, [np.ones(3)] * 2)):
        assert list(grown(result)) == [1.0, 1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("size", [10, 100_000])
def test_arrays_are_writable_beside_what_goes_by_value(make_ours: MakePool, size: int) -> None:
    assert make_ours(1).apply(lambda array: doubled(array)[-1], (np.ones(size),)) == 2.0


@pytest.mark.parametrize("chunksize", [None, 1, 7, 1000])
def test_maps_keep_the_order(make_pool: MakePool, chunksize: int | None) -> None:
    pool = make_pool(2)
    squares = [x * x for x in range(100)]
    assert pool.map(square, range(100), chunksize) == squares
    assert pool.map(square, iter(range(100)), chunksize) == squares
    assert pool.starmap(pow, zip(range(100), itertools.repeat(2)), chunksize) == squares
    assert list(pool.imap(square, range(100), chunksize or 1)) == squares
    assert sorted(pool.imap_unordered(square, range(100), chunksize or 1)) == squares


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_processes_are_called_after_the_pool(method: str) -> None:
    for module in (multiprocessing, pressure.multiprocessing):
        with cast(Any, module.get_context(method)).Pool(1) as pool:
            name = pool.apply(process_name)
            assert re.fullmatch(r"(Fork|Spawn|ForkServer)PoolWorker-[\d:]+", name)
            assert [process.name for process in pool._pool] == [name]


def process_name() -> str:
    return multiprocessing.current_process().name


def test_nothing_to_do(make_pool: MakePool) -> None:
    pool = make_pool(1)
    assert pool.map(square, []) == []
    assert pool.starmap_async(pow, [], chunksize=3).get(WAIT) == []
    assert list(pool.imap(square, [])) == []


def test_an_error_carries_the_remote_traceback(make_pool: MakePool) -> None:
    with pytest.raises(KeyError, match="7") as caught:
        make_pool(1).apply(fail, (7,))
    cause: Any = caught.value.__cause__
    assert type(cause) is remote["RemoteTraceback"]
    assert "raise KeyError(x)  # the line itself" in cause.tb


def test_map_raises_when_all_chunks_are_done(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(2)
    result = pool.map_async(functools.partial(fail_or_touch, str(tmp_path)), range(5), chunksize=1)
    with pytest.raises(KeyError):
        result.get(WAIT)
    assert len(list(tmp_path.iterdir())) == 4
    assert not result.successful()


def fail_or_touch(directory: str, x: int) -> None:
    if not x:
        raise KeyError(x)
    touch(f"{directory}/{x}")


def test_unpicklable_results_and_arguments(make_pool: MakePool) -> None:
    pool = make_pool(1)
    with pytest.raises(remote["MaybeEncodingError"]) as caught:
        pool.apply(unpicklable)
    assert "lambda" in caught.value.value
    with pytest.raises(TypeError):
        pool.map(square, [threading.Lock()])
    assert pool.apply(square, (2,)) == 4


def test_callbacks_come_before_the_result(make_pool: MakePool) -> None:
    pool = make_pool(1)
    called: list[Any] = []

    def call_back(value: Any) -> None:
        time.sleep(0.1)
        called.append(value)

    pool.apply_async(square, (2,), callback=call_back, error_callback=fail).wait(WAIT)
    assert called == [4]
    pool.map_async(square, range(3), callback=call_back).wait(WAIT)
    assert called == [4, [0, 1, 4]]
    result = pool.apply_async(fail, (1,), callback=fail, error_callback=call_back)
    result.wait(WAIT)
    assert isinstance(called[2], KeyError)
    assert result.ready() and not result.successful()


def test_a_callback_may_submit(make_pool: MakePool) -> None:
    pool = make_pool(1)
    second: list[Any] = []
    pool.apply_async(
        square, (2,), callback=lambda value: second.append(pool.apply_async(square, (value,)))
    ).wait(WAIT)
    assert second[0].get(WAIT) == 16


def test_a_result_that_is_not_there(make_pool: MakePool, tmp_path: Path) -> None:
    result = make_pool(1).apply_async(block, (str(tmp_path / "pid"),))
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(0.01)
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()


def test_imap_next_has_a_timeout(make_pool: MakePool, tmp_path: Path) -> None:
    results = make_pool(1).imap(block, [str(tmp_path / "pid")])
    with pytest.raises(multiprocessing.TimeoutError):
        results.next(0.01)


@pytest.mark.parametrize("chunksize", [1, 4])
def test_an_error_of_the_iterable_comes_in_its_place(make_pool: MakePool, chunksize: int) -> None:
    pool = make_pool(2)
    results = pool.imap(square, broken_iterable(9), chunksize)
    whole = 9 // chunksize * chunksize
    assert list(itertools.islice(results, whole)) == [x * x for x in range(whole)]
    with pytest.raises(LookupError):
        next(results)
    with pytest.raises(StopIteration):
        next(results)
    with pytest.raises(LookupError) as caught:
        pool.map(square, broken_iterable(3))
    assert caught.value.__cause__ is None
    assert pool.apply(square, (2,)) == 4


def test_imap_goes_on_after_an_error(make_pool: MakePool) -> None:
    results = make_pool(2).imap(functools.partial(fail_at, 1), range(4))
    assert next(results) == 0
    with pytest.raises(KeyError):
        next(results)
    assert list(results) == [2, 3]


def test_wrong_arguments(make_pool: MakePool) -> None:
    for processes in (0, -1):
        with pytest.raises(ValueError, match="at least 1"):
            make_pool(processes)
    for value in (0, -1, 0.5, "12"):
        with pytest.raises(ValueError, match="maxtasksperchild"):
            make_pool(1, maxtasksperchild=value)
    with pytest.raises(TypeError, match="callable"):
        make_pool(1, initializer=1)
    pool = make_pool(1)
    with pytest.raises(ValueError, match="Chunksize"):
        pool.imap(square, [1], 0)
    with pytest.raises(NotImplementedError):
        pickle.dumps(pool)
    with pytest.raises(ValueError, match="still running"):
        pool.join()


def test_close_lets_everything_finish(make_pool: MakePool) -> None:
    pool = make_pool(2)
    results = [pool.apply_async(square, (x,)) for x in range(50)]
    lazily = pool.imap(square, iter(range(50)), 3)
    pool.close()
    with pytest.raises(ValueError, match="not running"):
        pool.apply_async(square, (1,))
    with pytest.raises(ValueError, match="not running"):
        pool.__enter__()
    pool.join()
    assert [result.get(0) for result in results] == [x * x for x in range(50)]
    assert list(lazily) == [x * x for x in range(50)]


def test_the_context_manager_terminates(make_pool: MakePool, tmp_path: Path) -> None:
    with make_pool(2) as pool:
        processes = list(pool._pool)
        assert len(processes) == 2
        pool.map_async(block, [str(tmp_path / "pid")] * 1000, chunksize=1)
        wait_for_file(tmp_path / "pid")
    pool.join()
    assert not any(process.is_alive() for process in processes)
    with pytest.raises(ValueError, match="not running"):
        pool.map(square, [1])


def test_tasks_see_what_the_initializer_has_set(make_pool: MakePool) -> None:
    pool = make_pool(2, set_setting, ("set",))
    assert {pool.apply(get_setting) for _ in range(10)} == {"set"}
    assert _setting == "unset"


def test_the_initializer_runs_even_if_nothing_else_does(
    make_pool: MakePool, tmp_path: Path
) -> None:
    pool = make_pool(1, touch, (str(tmp_path / "touched"),))
    pool.close()
    pool.join()
    assert (tmp_path / "touched").exists()


class Teller:
    """A callable with a connection."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def __call__(self, text: str) -> None:
        self.connection.send(text)


def test_a_connection_in_a_callable_is_handed_over_once(make_ours: MakePool) -> None:
    pool = make_ours(1)
    reader, writer = multiprocessing.Pipe(duplex=False)
    with reader:
        with writer:
            pool.map(Teller(writer), ["hello"])
        assert reader.recv() == "hello"
        # Nobody has it open still.
        assert reader.poll(WAIT)
        with pytest.raises(EOFError):
            reader.recv()


def test_all_arguments_by_position() -> None:
    context = multiprocessing.get_context("fork")
    for cls in (remote["Pool"], pressure.multiprocessing.Pool):
        for initargs in ((), None):
            with cls(1, None, initargs, None, context) as pool:
                assert pool.apply(square, (3,)) == 9
        with pytest.raises(TypeError):
            cls(cast(Any, 1.5))


def test_processes_are_replaced_after_maxtasksperchild(make_pool: MakePool) -> None:
    pool = make_pool(1, maxtasksperchild=2)
    pids = [pool.apply(pid_of, (0,)) for _ in range(6)]
    assert pids[::2] == pids[1::2]
    assert len(set(pids)) == 3


def test_a_connection_can_be_an_argument(make_pool: MakePool) -> None:
    reader, writer = multiprocessing.Pipe(duplex=False)
    with reader, writer:
        make_pool(1).apply(tell, (writer, "hello"))
        assert wait([reader], WAIT)
        assert reader.recv() == "hello"


def test_a_forgotten_pool_warns_and_ends(make_pool: MakePool) -> None:
    kind = type(make_pool(1))
    pool = kind(2)
    assert pool.apply(square, (2,)) == 4
    processes = list(pool._pool)
    until = time.monotonic() + WAIT
    said = ""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        del pool
        while "unclosed running multiprocessing pool" not in said:
            assert time.monotonic() < until
            time.sleep(0.01)
            gc.collect()
            # What is recorded refers to the pool, and is not all there is: redis-py 5 has a warning
            # for each connection that could not be made.
            while warned:
                said += str(warned.pop().message)
    gc.collect()
    while any(process.is_alive() for process in processes):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_pending_result_keeps_its_pool_alive(make_pool: MakePool) -> None:
    kind = type(make_pool(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        pool = kind(1)
        gone = weakref.ref(pool)
        result = pool.apply_async(square, (3,))
        del pool
        gc.collect()
        assert result.get(WAIT) == 9
        until = time.monotonic() + WAIT
        # The thread that has brought the result lets go of the pool a moment later.
        while gone() is not None:
            assert time.monotonic() < until
            time.sleep(0.01)
            gc.collect()


def test_ours_survives_the_death_of_a_worker(make_ours: MakePool, tmp_path: Path) -> None:
    pool = make_ours(2)
    results = pool.map_async(square, range(1000), chunksize=1)
    assert pool.apply(die_once, (str(tmp_path / "died"),)) == "survived"
    assert results.get(WAIT) == [x * x for x in range(1000)]
    with pytest.raises(WorkerLostError):
        pool.apply(die)
    assert len(pool._pool) == 2 or pool.apply(square, (2,)) == 4


def die_once(path: str) -> str:
    with contextlib.suppress(FileExistsError), open(path, "x"):
        die()
    return "survived"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_ours_leaves_no_result_waiting(make_ours: MakePool, tmp_path: Path) -> None:
    pool = make_ours(1)
    called: list[Any] = []
    one = pool.apply_async(block, (str(tmp_path / "pid"),), error_callback=called.append)
    many = pool.map_async(square, range(10), error_callback=called.append)
    lazily = pool.imap(square, itertools.count())
    wait_for_file(tmp_path / "pid")
    pool.terminate()
    for result in (one, many):
        with pytest.raises(CancelledError):
            result.get(WAIT)
    with pytest.raises(CancelledError):
        lazily.next(WAIT)
    assert called == []


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_a_context_makes_ours(method: str) -> None:
    context = pressure.multiprocessing.get_context(method)
    with context.Pool(1) as pool:
        assert isinstance(pool, pressure.multiprocessing.Pool)
        assert len(pool._pool) == 1
        assert type(pool._pool[0]) is context.Process
        assert pool.apply(int, ("3",)) == 3


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_the_standard_librarys_pools_take_a_context_of_ours(
    method: str, spawn_child: Callable[..., Child]
) -> None:
    child = spawn_child(use_standard_pools, method)
    assert child.wait_for("executor") == 3
    assert child.wait_for("executor of the module") == 3
    assert child.wait_for("pool") == 3
    assert child.wait() == 0


def use_standard_pools(method: str) -> None:
    context = pressure.multiprocessing.get_context(method)
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        report("executor", executor.submit(int, "3").result(WAIT))
    module: Any = pressure.multiprocessing
    with ProcessPoolExecutor(1, mp_context=module) as executor:
        report("executor of the module", executor.submit(int, "3").result(WAIT))
    with remote["Pool"](1, context=context) as pool:
        report("pool", pool.apply_async(int, ("3",)).get(WAIT))


def test_ours_takes_functions_by_value(make_ours: MakePool) -> None:
    offset = 3
    pool = make_ours(1)
    assert pool.map(lambda x: x + offset, range(3)) == [3, 4, 5]


def test_ours_says_that_an_exception_can_not_be_made_again(make_ours: MakePool) -> None:
    pool = make_ours(1)
    with pytest.raises(remote["MaybeEncodingError"], match="Stubborn") as caught:
        pool.apply(raise_stubborn)
    assert "raise_stubborn" in str(caught.value.__cause__)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_ours_is_broken_by_its_initializer(make_ours: MakePool) -> None:
    pool = make_ours(1, fail, ("no",))
    with pytest.raises(InitializerError):
        pool.apply_async(square, (2,)).get(WAIT)
    with pytest.raises(InitializerError):
        pool.map_async(square, range(10)).get(WAIT)


def test_ours_reads_an_endless_iterable_only_so_far(make_ours: MakePool, tmp_path: Path) -> None:
    read = itertools.count()
    pool = make_ours(1)
    pool.apply_async(block, (str(tmp_path / "pid"),))
    wait_for_file(tmp_path / "pid")
    results = pool.imap(square, read)
    with pytest.raises(multiprocessing.TimeoutError):
        results.next(0.5)
    assert next(read) <= AHEAD + 1


def test_ours_has_workers_that_may_have_children(make_ours: MakePool) -> None:
    assert make_ours(1).apply(have_child) == 4


def have_child() -> int:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return int(pool.apply(square, (2,)))


def test_ours_has_workers_whose_children_can_be_terminated(make_ours: MakePool) -> None:
    assert make_ours(1).apply(terminate_child) == -signal.SIGTERM


def terminate_child() -> int | None:
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(10 * WAIT,))
    process.start()
    process.terminate()
    process.join(WAIT)
    code = process.exitcode
    process.kill()
    return code


def test_ours_says_in_a_forked_child_that_it_is_the_parents(make_ours: MakePool) -> None:
    pool = make_ours(1)
    assert pool.apply(square, (2,)) == 4
    process = multiprocessing.get_context("fork").Process(target=use_in_child, args=(pool,))
    process.start()
    process.join(WAIT)
    assert process.exitcode == 0
    assert pool.apply(square, (3,)) == 9


def use_in_child(pool: Any) -> None:
    with pytest.raises(ValueError, match="not running"):
        pool.map(square, [1])


@pytest.mark.parametrize("ending", ["", "pool.close()", "pool.terminate()"])
def test_ours_does_not_hold_up_the_interpreters_exit(ending: str) -> None:
    script = f"""if 1:
        import time
        from pressure.multiprocessing import Pool
        pool = Pool(2)
        print(pool.map(abs, range(3)), flush=True)
        pool.map_async(time.sleep, [{10 * WAIT}] * 100, chunksize=1)
        {ending}
    """
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=WAIT, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[0, 1, 2]\n", "")


def test_ours_serves_threads_that_outlive_the_main_thread() -> None:
    script = f"""if 1:
        import threading, time
        from pressure.multiprocessing import Pool
        def work():
            threading.main_thread().join()
            print(pool.map(abs, range(3)), flush=True)
            pool.map_async(time.sleep, [{10 * WAIT}] * 100, chunksize=1)
        pool = Pool(2)
        threading.Thread(target=work).start()
    """
    # The end of what the processes can write to, and so of them, is waited for, too.
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=WAIT, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[0, 1, 2]\n", "")


def test_ours_ends_with_a_process_of_multiprocessing() -> None:
    url = shared_local_server()
    reader, writer = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=leave_pool, args=(writer,))
    process.start()
    writer.close()
    with reader:
        queue = reader.recv()
        # Its workers have inherited the pipe, and end with it.
        assert reader.poll(WAIT)
        with pytest.raises(EOFError):
            reader.recv()
    process.join(WAIT)
    assert process.exitcode == 0
    with redis.Redis.from_url(url) as client:
        assert not keys_left(client, queue)


def leave_pool(writer: Connection) -> None:
    pool: Any = pressure.multiprocessing.Pool(2)
    pool.map_async(time.sleep, [10 * WAIT] * 100, chunksize=1)
    writer.send(pool._staff.executor._engine._channel.name)


def test_ours_in_a_script_sees_the_scripts_globals(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from pressure.multiprocessing import Pool\n"
        "def init(value):\n"
        "    global shared\n"
        "    shared = value\n"
        "def add(x):\n"
        "    return shared + x\n"
        "if __name__ == '__main__':\n"
        "    with Pool(1, init, (5,)) as pool:\n"
        "        print(pool.map(add, range(3)))\n"
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=WAIT, check=False
    )
    assert (done.stdout, done.stderr) == ("[5, 6, 7]\n", "")


@pytest.fixture
def remote_pool(url: str, queue_name: str) -> Iterator[Any]:
    """A pool whose work two processes of a daemon do."""
    with daemon(url, queue_name, 2):
        pool = pressure.multiprocessing.Pool(2, url=url, queue=queue_name)
        yield pool
        pool.terminate()
        pool.join()


@pytest.mark.parametrize("size", [10, 100_000])
def test_arrays_to_and_from_daemons_are_writable(remote_pool: Any, size: int) -> None:
    array = np.ones(size)
    for result in (remote_pool.apply(doubled, (array,)), *remote_pool.map(doubled, [array] * 2)):
        assert doubled(result)[-1] == 4.0


def test_daemons_do_the_work(remote_pool: Any) -> None:
    offset = 1
    assert remote_pool._pool == []
    assert remote_pool.map(lambda x: x + offset, range(100)) == list(range(1, 101))
    assert list(remote_pool.imap(square, range(100))) == [x * x for x in range(100)]
    assert os.getpid() not in remote_pool.map(pid_of, range(10))
    with pytest.raises(KeyError) as caught:
        remote_pool.apply(fail, (1,))
    assert type(caught.value.__cause__) is remote["RemoteTraceback"]
    with pytest.raises(remote["MaybeEncodingError"]):
        remote_pool.apply(threading.Lock)
    remote_pool.close()
    remote_pool.join()


def test_daemons_are_told_to_terminate(remote_pool: Any, tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{number}") for number in range(100)]
    remote_pool.map_async(block_and_tell, paths, chunksize=1)
    wait_for_file(tmp_path / "0")
    remote_pool.terminate()
    remote_pool.join()
    wait_for_file(tmp_path / "0-ended")
    begun = len(list(tmp_path.glob("*[0-9]")))
    assert begun <= 2 + 2, "what waited was begun, too"


def block_and_tell(path: str) -> None:
    try:
        block(path)
    finally:
        Path(f"{path}-ended").write_text("now")


def test_what_is_for_local_processes_is_refused_with_a_url(url: str) -> None:
    with pytest.raises(ValueError, match="local"):
        pressure.multiprocessing.Pool(initializer=set_setting, initargs=("x",), url=url)
    with pytest.raises(ValueError, match="local"):
        pressure.multiprocessing.Pool(maxtasksperchild=1, url=url)
