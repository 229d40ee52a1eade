"""Worker processes, clients and servers die, freeze and vanish; futures resolve all the same."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future, wait
from pathlib import Path
from typing import Any

import pytest
import redis

from pressure import blobs, exchanging
from pressure.executor import (
    Options,
    RedisExecutor,
    ResultPayloadError,
    TaskLostError,
    TaskPayloadError,
    WorkerLostError,
)
from pressure.executor.errors import NoWorkersError
from pressure.scripts import SCRIPTS
from pressure.signing import key_id_of
from tests.faults import executing as do
from tests.support.fixtures import keys_left
from tests.support.processes import Child
from tests.support.proxy import FaultyProxy
from tests.support.servers import ServerProcess
from tests.support.waiting import eventually

WAIT = 30.0
LEASE = 1.0
Daemon = Callable[..., Child]


@pytest.fixture
def daemon(spawn_child: Callable[..., Child], url: str, queue_name: str) -> Daemon:
    """Starts a daemon on the test's queue."""

    def start(processes: int = 1, *, lease: float = 15.0, at: str = url, key: str = "") -> Child:
        child = spawn_child(do.serve, at, queue_name, processes, lease, key)
        child.wait_for("serving")
        return child

    return start


@pytest.fixture
def make_executor(url: str, queue_name: str) -> Iterator[Callable[..., RedisExecutor]]:
    made: list[RedisExecutor] = []

    def make(at: str = url, **options: Any) -> RedisExecutor:
        made.append(RedisExecutor(url=at, queue=queue_name, **options))
        return made[-1]

    yield make
    for executor in made:
        executor.shutdown(wait=False, cancel_futures=True)
        executor._engine.wait(5.0)


def freeze(child: Child) -> list[int]:
    """Stop a daemon and all its workers, as a machine does that stands still."""
    pids = child.family()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    return pids


# Workers


def test_a_killed_worker_s_task_runs_elsewhere_at_once(
    daemon: Daemon, make_executor: Callable[..., RedisExecutor], tmp_path: Path
) -> None:
    daemon(2)
    executor = make_executor()
    path = str(tmp_path / "runs")
    others = [executor.submit(do.square, x) for x in range(50)]
    again = executor.submit(do.die_once, path, 42)
    others += [executor.submit(do.square, x) for x in range(50)]
    # Long before a lease of 15 seconds is over.
    assert again.result(10) == 42
    assert [future.result(WAIT) for future in others] == [x * x for x in range(50)] * 2
    assert do.lines(path) == ["run", "run"]


@pytest.mark.parametrize(
    "how, signal_name, code",
    [
        ("kill", "SIGKILL", None),
        ("segfault", "SIGSEGV", None),
        ("exit3", None, 3),
        ("exit0", None, 0),
    ],
)
def test_a_poisonous_task_costs_only_itself(
    daemon: Daemon,
    make_executor: Callable[..., RedisExecutor],
    client: redis.Redis,
    queue_name: str,
    how: str,
    signal_name: str | None,
    code: int | None,
) -> None:
    child = daemon(1)
    executor = make_executor()
    before = [executor.submit(do.square, x) for x in range(20)]
    poison = executor.submit(do.die, how)
    behind = [executor.submit(do.square, x) for x in range(20)]
    with pytest.raises(WorkerLostError) as raised:
        poison.result(WAIT)
    error = raised.value
    assert error.deliveries == 3
    assert len(error.deaths) == 3
    for death in error.deaths:
        assert death["signal"] == signal_name
        assert death["exit_code"] == code
        assert death["host"] and death["pid"] not in (0, os.getpid(), child.pid)
        assert ("in die" if how == "segfault" else "last words") in "\n".join(death["stderr"])
    assert (signal_name or f"exit code {code}") in str(error)
    for future, x in zip(before + behind, [*range(20)] * 2, strict=True):
        assert future.result(WAIT) == x * x
        assert future.info()["deliveries"] == 0
    (letters,) = [key for key in keys_left(client, queue_name) if key.endswith(":dead_letters")]
    assert client.llen(letters) == 1
    # The executor goes on.
    assert executor.submit(do.square, 5).result(WAIT) == 25


def test_at_most_once_is_once(
    daemon: Daemon, make_executor: Callable[..., RedisExecutor], tmp_path: Path
) -> None:
    daemon(2)
    executor = make_executor(options=Options(max_deliveries=1))
    path = str(tmp_path / "runs")
    fine = [executor.submit(do.square, x) for x in range(10)]
    poison = executor.submit(do.die_noted, path, "kill")
    fine += [executor.submit(do.square, x) for x in range(10)]
    with pytest.raises(WorkerLostError) as raised:
        poison.result(WAIT)
    assert raised.value.deliveries == 1
    assert [future.result(WAIT) for future in fine] == [x * x for x in range(10)] * 2
    assert do.lines(path) == ["run"]


def test_what_dies_or_fails_while_it_is_pickled_is_told(
    daemon: Daemon, make_executor: Callable[..., RedisExecutor]
) -> None:
    daemon(2)
    executor = make_executor(options=Options(max_deliveries=2))
    dying: Any = do.DiesWhenUnpickled()
    failing: Any = do.FailsWhenUnpickled()
    dies_at_unpickle = executor.submit(do.square, dying)
    fails_at_unpickle = executor.submit(do.square, failing)
    dies_at_pickle = executor.submit(do.returns, "dies")
    not_readable = executor.submit(do.returns, "fails")
    with pytest.raises(WorkerLostError, match="exit code 7"):
        dies_at_unpickle.result(WAIT)
    with pytest.raises(TaskPayloadError, match="it does not unpickle"):
        fails_at_unpickle.result(WAIT)
    with pytest.raises(WorkerLostError, match="exit code 8"):
        dies_at_pickle.result(WAIT)
    with pytest.raises(ResultPayloadError, match="it does not unpickle"):
        not_readable.result(WAIT)
    assert executor.submit(do.square, 3).result(WAIT) == 9


def test_the_outcome_of_a_machine_that_stood_still_is_dropped(
    daemon: Daemon, make_executor: Callable[..., RedisExecutor], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    frozen = daemon(1, lease=LEASE)
    executor = make_executor()
    future = executor.submit(do.hold, str(gate), "a")
    first = frozen.wait_for("running a")
    pids = freeze(frozen)
    other = daemon(1, lease=LEASE)
    second = other.wait_for("running a")
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    gate.touch()
    assert future.result(WAIT) == f"a {second}"
    assert first != second
    # Both serve on, and the late outcome was nobody's.
    results = {executor.submit(do.pid).result(WAIT) for _ in range(50)}
    assert results
    assert future.result() == f"a {second}"
    assert eventually(lambda: frozen.running and other.running)


def test_at_most_once_holds_on_a_machine_that_stands_still(
    daemon: Daemon, make_executor: Callable[..., RedisExecutor], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    frozen = daemon(1, lease=LEASE)
    executor = make_executor(options=Options(max_deliveries=1))
    future = executor.submit(do.hold, str(gate), "a")
    frozen.wait_for("running a")
    freeze(frozen)
    other = daemon(1, lease=LEASE)
    with pytest.raises(WorkerLostError):
        future.result(WAIT)
    assert other.count("running a") == 0


def test_a_killed_supervisor_leaves_no_process_and_no_task(
    daemon: Daemon, make_executor: Callable[..., RedisExecutor], tmp_path: Path
) -> None:
    path = str(tmp_path / "runs")
    doomed = daemon(2, lease=LEASE)
    executor = make_executor()
    holds = executor.submit(do.hold_the_interpreter, path)
    doomed.wait_for("running")
    sleeps = executor.submit(do.hold, str(tmp_path / "gate"), "sleeper")
    doomed.wait_for("running sleeper")
    doomed.kill()
    assert eventually(lambda: not doomed.family())
    (tmp_path / "gate").touch()
    daemon(2, lease=LEASE)
    assert holds.result(WAIT) == "again"
    assert sleeps.result(WAIT).startswith("sleeper")


def test_a_worker_that_is_stopped_loses_its_task_though_its_supervisor_lives(
    daemon: Daemon, make_executor: Callable[..., RedisExecutor], tmp_path: Path
) -> None:
    path = str(tmp_path / "runs")
    daemon(2, lease=LEASE)
    executor = make_executor()
    assert executor.submit(do.stand_still_once, path).result(WAIT) == "again"
    stopped, other = do.lines(path)
    assert stopped != other
    os.kill(int(stopped), signal.SIGCONT)
    assert eventually(lambda: do.lines(path)[2:] == ["late"])
    # It goes on, and what it says is no longer wanted.
    gate = tmp_path / "gate"
    both = [executor.submit(do.hold, str(gate), name) for name in "ab"]
    assert eventually(lambda: all(future.running() for future in both))
    gate.touch()
    pids = {future.result(WAIT).split()[1] for future in both}
    assert pids == {stopped, other}
    assert executor.stats().done == 3


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_killed_client_leaves_no_worker_process(
    spawn_child: Callable[..., Child], tmp_path: Path, method: str
) -> None:
    client = spawn_child(do.run_locally, method, str(tmp_path / "runs"))
    client.wait_for("running")
    assert len(client.family()) > 2
    client.kill()
    assert eventually(lambda: not client.family())


# Clients


def test_what_a_killed_client_left_behind_vanishes(
    spawn_child: Callable[..., Child],
    daemon: Daemon,
    make_executor: Callable[..., RedisExecutor],
    client: redis.Redis,
    queue_name: str,
    tmp_path: Path,
    url: str,
) -> None:
    path = str(tmp_path / "runs")
    ttl = 2.0
    doomed = spawn_child(do.submit_and_report, url, queue_name, path, 20, ttl)
    doomed.wait_for("submitted")

    def replies() -> list[str]:
        return [key for key in keys_left(client, queue_name) if ":reply:" in key]

    assert any(key.endswith(":store") for key in replies())
    # As long as it lives, so does its reply queue.
    assert not eventually(lambda: not replies(), ttl * 1.5)
    doomed.kill()
    assert eventually(lambda: not replies(), ttl + 5)
    daemon(1)
    # The dead one's tasks are in front of this one.
    assert make_executor().submit(do.square, 4).result(WAIT) == 16
    assert do.lines(path) == []


def test_a_client_killed_right_after_a_result_leaves_nothing(
    spawn_child: Callable[..., Child],
    daemon: Daemon,
    client: redis.Redis,
    queue_name: str,
    url: str,
) -> None:
    daemon(1)
    doomed = spawn_child(do.get_one, url, queue_name, 1.0)
    client_id = doomed.wait_for("got").rpartition(":")[2]
    doomed.kill()
    assert eventually(lambda: not any(client_id in key for key in keys_left(client, queue_name)))


def test_a_client_that_stood_still_for_too_long_sends_everything_again(
    spawn_child: Callable[..., Child],
    daemon: Daemon,
    make_executor: Callable[..., RedisExecutor],
    client: redis.Redis,
    queue_name: str,
    url: str,
) -> None:
    frozen = spawn_child(do.sum_squares, url, queue_name, 50, 1.0)
    frozen.wait_for("submitted")
    frozen.stop()
    assert eventually(lambda: not any(":reply:" in key for key in keys_left(client, queue_name)))
    # Its tasks are taken for a dead client's, and dropped.
    daemon(1)
    assert make_executor().submit(do.square, 4).result(WAIT) == 16
    frozen.cont()
    assert frozen.wait_for("sum") == sum(x * x for x in range(50))
    assert frozen.wait() == 0


# The server


def all_resolve(futures: Sequence[Future[Any]], expected: Sequence[object]) -> None:
    assert not wait(futures, WAIT).not_done
    assert [future.result(0) for future in futures] == expected


def started_and_queued(
    executor: Any, child: Child, gate: Path
) -> tuple[Future[str], list[Future[Any]]]:
    """A task that runs, and twenty that wait in the queue for the only worker."""
    running = executor.submit(do.hold, str(gate), "a")
    child.wait_for("running a")
    waiting = [executor.submit(do.square, x) for x in range(20)]
    ledger = executor._engine.dispatcher.ledger
    assert eventually(lambda: len(ledger.sent) == 21 and not ledger.sending)
    return running, waiting


def test_a_server_that_restarts_with_its_data_costs_nothing(
    fresh_server: ServerProcess,
    daemon: Daemon,
    make_executor: Callable[..., RedisExecutor],
    tmp_path: Path,
) -> None:
    child = daemon(1, at=fresh_server.url, lease=LEASE)
    executor = make_executor(fresh_server.url, options=Options(max_deliveries=1))
    running, waiting = started_and_queued(executor, child, tmp_path / "gate")
    fresh_server.kill()
    fresh_server.start()
    (tmp_path / "gate").touch()
    assert running.result(WAIT).startswith("a ")
    all_resolve(waiting, [x * x for x in range(20)])
    assert child.count("running a") == 1


def test_a_server_that_comes_back_empty_gets_everything_again(
    fresh_server: ServerProcess,
    daemon: Daemon,
    make_executor: Callable[..., RedisExecutor],
    tmp_path: Path,
) -> None:
    child = daemon(1, at=fresh_server.url, lease=LEASE)
    executor = make_executor(fresh_server.url)
    by_value = 5
    running, waiting = started_and_queued(executor, child, tmp_path / "gate")
    padding = "x" * 5000
    stored = executor.submit(lambda: by_value + len(padding))
    once = executor.options(max_deliveries=1).submit(do.square, 3)
    ledger = executor._engine.dispatcher.ledger
    assert eventually(lambda: len(ledger.sent) == 23 and not ledger.sending)
    fresh_server.restart(keep_data=False)
    (tmp_path / "gate").touch()
    assert running.result(WAIT).startswith("a ")
    all_resolve(waiting, [x * x for x in range(20)])
    assert stored.result(WAIT) == 5005
    with pytest.raises(TaskLostError, match="at most once"):
        once.result(WAIT)
    # The same executor goes on.
    assert executor.submit(do.square, 7).result(WAIT) == 49


def test_a_server_that_comes_back_empty_while_a_large_answer_is_fetched(
    fresh_server: ServerProcess,
    daemon: Daemon,
    make_executor: Callable[..., RedisExecutor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    daemon(1, at=fresh_server.url, lease=LEASE)
    executor = make_executor(fresh_server.url)
    assert executor.submit(do.square, 2).result(WAIT) == 4
    download = blobs.download
    restarted = threading.Event()

    def restart_and_download(core: Any, parsed: Any) -> Any:
        if not restarted.is_set():
            restarted.set()
            fresh_server.restart(keep_data=False)
        return (yield from download(core, parsed))

    monkeypatch.setattr(blobs, "download", restart_and_download)
    assert len(executor.submit(bytes, 200_000).result(WAIT)) == 200_000
    assert restarted.is_set()


def test_a_task_queue_that_is_gone_is_noticed(
    daemon: Daemon,
    make_executor: Callable[..., RedisExecutor],
    client: redis.Redis,
    queue_name: str,
    tmp_path: Path,
) -> None:
    child = daemon(1)
    executor = make_executor()
    running, waiting = started_and_queued(executor, child, tmp_path / "gate")
    gone = [key for key in keys_left(client, queue_name) if ":reply:" not in key]
    client.delete(*[key.encode(errors="surrogateescape") for key in gone])
    (tmp_path / "gate").touch()
    assert running.result(WAIT).startswith("a ")
    all_resolve(waiting, [x * x for x in range(20)])


def test_a_failover_that_loses_the_tail_has_that_sent_again(
    daemon: Daemon,
    make_executor: Callable[..., RedisExecutor],
    client: redis.Redis,
    queue_name: str,
    tmp_path: Path,
) -> None:
    child = daemon(1)
    executor = make_executor()
    running, kept = started_and_queued(executor, child, tmp_path / "gate")
    producers = f"__pressure__:{{{queue_name}}}:producers"
    before: Any = client.hgetall(producers)
    tail = [executor.submit(do.square, x) for x in range(100, 105)]
    once = executor.options(max_deliveries=1).submit(do.square, 1)
    ledger = executor._engine.dispatcher.ledger
    assert eventually(lambda: len(ledger.sent) == 27 and not ledger.sending)
    # As if a replica had become the master that had not heard of the last puts.
    client.lpop(f"__pressure__:{{{queue_name}}}", 6)
    client.hset(producers, mapping=before)
    (tmp_path / "gate").touch()
    assert running.result(WAIT).startswith("a ")
    all_resolve([*kept, *tail], [x * x for x in [*range(20), *range(100, 105)]])
    with pytest.raises(TaskLostError):
        once.result(WAIT)


def test_a_server_out_of_reach_for_seconds_costs_nothing(
    proxy: FaultyProxy,
    daemon: Daemon,
    make_executor: Callable[..., RedisExecutor],
    tmp_path: Path,
) -> None:
    child = daemon(1)
    executor = make_executor(proxy.url)
    running, waiting = started_and_queued(executor, child, tmp_path / "gate")
    proxy.refuse()
    proxy.cut()
    (tmp_path / "gate").touch()
    waiting += [executor.submit(do.square, 20)]
    time.sleep(3.0)
    proxy.accept()
    assert running.result(WAIT).startswith("a ")
    all_resolve(waiting, [x * x for x in range(21)])


def test_a_daemon_out_of_reach_for_longer_than_its_lease(
    proxy: FaultyProxy,
    daemon: Daemon,
    make_executor: Callable[..., RedisExecutor],
    tmp_path: Path,
) -> None:
    cut_off = daemon(1, at=proxy.url, lease=LEASE)
    executor = make_executor()
    running, waiting = started_and_queued(executor, cut_off, tmp_path / "gate")
    proxy.refuse()
    proxy.cut()
    other = daemon(1, lease=LEASE)
    other.wait_for("running a")
    (tmp_path / "gate").touch()
    assert running.result(WAIT).startswith("a ")
    all_resolve(waiting, [x * x for x in range(20)])
    proxy.accept()
    other.close()
    # The first one serves on.
    assert executor.submit(do.square, 9).result(WAIT) == 81


def test_scripts_that_are_flushed_all_the_time(
    daemon: Daemon, make_executor: Callable[..., RedisExecutor], client: redis.Redis
) -> None:
    daemon(1)
    executor = make_executor()
    stop = threading.Event()

    def flush() -> None:
        while not stop.wait(0.005):
            client.script_flush()

    thread = threading.Thread(target=flush)
    thread.start()
    try:
        all_resolve(
            [executor.submit(do.square, x) for x in range(300)], [x * x for x in range(300)]
        )
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("command", ["EVALSHA", "BLMOVE"])
def test_lost_replies_lose_nothing(
    proxy: FaultyProxy,
    daemon: Daemon,
    make_executor: Callable[..., RedisExecutor],
    tmp_path: Path,
    command: str,
) -> None:
    daemon(1, at=proxy.url)
    executor = make_executor(proxy.url)
    path = str(tmp_path / "runs")
    for index in range(10):
        proxy.drop_next_reply(command)
        assert executor.submit(do.square, index).result(WAIT) == index * index
    futures = [executor.submit(do.note, path, str(x)) for x in range(100)]
    proxy.drop_next_reply(command)
    all_resolve(futures, [None] * 100)
    assert sorted(map(int, do.lines(path))) == list(range(100))


PUT = SCRIPTS["put"].sha.encode()


def test_a_lone_task_whose_reply_is_lost_is_not_sent_twice(
    proxy: FaultyProxy,
    daemon: Daemon,
    make_executor: Callable[..., RedisExecutor],
    tmp_path: Path,
) -> None:
    """The first of a number of tasks is sent by the thread that submits it, the others by another
    thread, which has to find out about the first before."""
    child = daemon(1)
    executor = make_executor(proxy.url)
    ledger = executor._engine.dispatcher.ledger
    for number in range(5):
        # While the only worker is busy, what is sent stays in the queue.
        gate = tmp_path / f"gate-{number}"
        busy = executor.submit(do.hold, str(gate), "busy")
        child.wait_for("running busy")
        path = str(tmp_path / str(number))
        fault = proxy.drop_next_reply(lambda words: words[1:2] == (PUT,))
        futures = [executor.submit(do.note, path, str(x)) for x in range(20)]
        assert eventually(lambda: len(ledger.sent) == 21 and not ledger.sending, WAIT)
        assert fault.struck
        gate.touch()
        all_resolve(futures, [None] * 20)
        assert busy.result(WAIT).startswith("busy ")
        assert sorted(map(int, do.lines(path))) == list(range(20))


def test_a_cancel_whose_reply_is_lost_leaves_no_future_pending(
    proxy: FaultyProxy, make_executor: Callable[..., RedisExecutor]
) -> None:
    executor = make_executor(proxy.url)
    future = executor.submit(do.square, 1)
    ledger = executor._engine.dispatcher.ledger
    assert eventually(lambda: bool(ledger.sent) and not ledger.sending)
    done: list[bool] = []
    proxy.stall()
    thread = threading.Thread(target=lambda: done.append(future.cancel()))
    thread.start()
    thread.join(WAIT)
    proxy.resume()
    assert not thread.is_alive()
    # It was taken out of the queue without our hearing of it, or was still there to be.
    assert done == [True] or eventually(future.cancelled, WAIT) or future.cancel()
    assert future.cancelled()


# No workers, and no good ones


def test_without_workers_there_is_a_warning(
    daemon: Daemon,
    make_executor: Callable[..., RedisExecutor],
    caplog: pytest.LogCaptureFixture,
) -> None:
    executor = make_executor()
    with caplog.at_level(logging.WARNING, "pressure.executor"):
        future = executor.submit(do.square, 6)
        assert eventually(lambda: "no worker serves" in caplog.text, WAIT)
    assert not future.done()
    daemon(1)
    assert future.result(WAIT) == 36


def test_without_workers_there_may_be_an_error(
    daemon: Daemon, make_executor: Callable[..., RedisExecutor], tmp_path: Path
) -> None:
    executor = make_executor(no_workers_timeout=0.5)
    path = str(tmp_path / "runs")
    futures = [executor.submit(do.note, path, "run") for _ in range(5)]
    for future in futures:
        with pytest.raises(NoWorkersError, match="pressure-worker"):
            future.result(WAIT)
    daemon(1)
    # What failed is not run after all.
    assert executor.submit(do.square, 6).result(WAIT) == 36
    assert do.lines(path) == []


@pytest.mark.parametrize("sent", ["at first", "later", "one by one"])
def test_that_there_are_no_workers_is_an_error_in_time(
    make_executor: Callable[..., RedisExecutor], sent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Who only looks when the wait for an answer ends by itself looks too late.
    monkeypatch.setattr(exchanging, "LONG_SLICE", 4 * WAIT)
    executor = make_executor(no_workers_timeout=0.5)
    if sent != "at first":
        # The listener has waited for a while when there is something to wait for.
        executor._engine.start()
        time.sleep(0.3)
    over = threading.Event()

    def trickle() -> None:
        while not over.wait(0.02):
            executor.submit(do.square, 0)

    trickling = threading.Thread(target=trickle, daemon=True)
    try:
        for number in (1, 50):
            begun = time.monotonic()
            futures = [executor.submit(do.square, x) for x in range(number)]
            if sent == "one by one" and not trickling.is_alive():
                trickling.start()
            for future in futures:
                assert isinstance(future.exception(WAIT), NoWorkersError)
            if sent != "one by one":
                assert time.monotonic() - begun >= 0.5
    finally:
        over.set()
        if trickling.is_alive():
            trickling.join(WAIT)


@pytest.mark.parametrize(("ours", "theirs"), [("ours", "theirs"), ("ours", ""), ("", "theirs")])
def test_an_answer_that_is_signed_with_another_key_is_an_error(
    daemon: Daemon,
    make_executor: Callable[..., RedisExecutor],
    caplog: pytest.LogCaptureFixture,
    ours: str,
    theirs: str,
) -> None:
    """It says what is wrong: to the workers the task, and to the client the answer."""
    daemon(1, key=theirs)
    executor = make_executor(key=ours or None)
    with caplog.at_level(logging.ERROR, "pressure.executor"):
        future = executor.submit(do.square, 6)
        with pytest.raises(ResultPayloadError, match="another key than this program") as caught:
            future.result(WAIT)
    said = str(caught.value)
    assert "PRESSURE_KEY" in said and "pressure doctor" in said
    assert "Whether the task ran is not known" in said
    if ours and theirs:
        for key in (ours, theirs):
            assert key_id_of(key.encode()).hex() in said
    (logged,) = [record.getMessage() for record in caplog.records]
    assert logged.count(future.task_id) == 1 and "another key" in logged


def test_no_more_threads_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    executor = RedisExecutor(1)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            executor.submit(do.square, 2)
    assert not any(process.is_alive() for process in executor._engine.processes.values())
    executor.shutdown()


def test_an_initializer_that_fails_fails_the_futures() -> None:
    with RedisExecutor(1, initializer=do.fail, initargs=("no",)) as executor:
        future = executor.submit(do.square, 2)
        with pytest.raises(BrokenExecutor, match="initializer"):
            future.result(WAIT)
        with pytest.raises(BrokenExecutor, match="initializer"):
            executor.submit(do.square, 2)


def test_workers_that_cannot_be_started_fail_the_futures() -> None:
    # It can't be sent to a process that is not forked.
    spawn = multiprocessing.get_context("spawn")
    executor = RedisExecutor(1, mp_context=spawn, initializer=lambda: None)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        executor.submit(do.square, 2)
    with pytest.raises((AttributeError, pickle.PicklingError, BrokenExecutor)):
        executor.submit(do.square, 2)
    executor.shutdown()
