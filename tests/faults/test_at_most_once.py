"""Tasks that may run at most once, where it is not known whether they did."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pressure import Settings, current_executor
from pressure.executor import RedisExecutor, TaskLostError, WorkerLostError
from pressure.executor.worker import worker
from tests.faults import executing as do
from tests.support.processes import Child
from tests.support.servers import ServerProcess
from tests.support.waiting import eventually

WAIT = 30.0


def die_before_it_is_recorded(path: str) -> int:
    """Leave a trace, end well, and have this worker die on its way to say so."""
    with open(path, "a") as file:
        file.write("run\n")
    vars(worker)["settle"] = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    return 1


def test_a_task_that_has_run_is_not_run_again(tmp_path: Path) -> None:
    path = tmp_path / "runs"
    with RedisExecutor(1) as executor:
        future = executor.options(max_deliveries=1).submit(die_before_it_is_recorded, str(path))
        with pytest.raises(WorkerLostError) as raised:
            future.result(WAIT)
        assert raised.value.deliveries == 1
        # The next worker begins with what is there.
        assert executor.submit(pow, 2, 3).result(WAIT) == 8
    assert path.read_text() == "run\n"


@pytest.fixture
def forgetful() -> Iterator[ServerProcess]:
    """It keeps what it has when a test says `save`, and nothing else."""
    with ServerProcess() as server:
        yield server


def roll_back(server: ServerProcess) -> None:
    """It ends, and comes back as it was when it saved."""
    server.kill()
    server.start()


@pytest.fixture
def executor(forgetful: ServerProcess) -> Iterator[RedisExecutor]:
    settings = Settings(reconnect_timeout=WAIT)
    with RedisExecutor(url=forgetful.url, queue="once", settings=settings) as executor:
        yield executor


Spawn = Callable[..., Child]
LARGE = bytes(200_000)


def sent(executor: RedisExecutor) -> bool:
    ledger = executor._engine.dispatcher.ledger
    return eventually(lambda: ledger.sent == {*ledger.tasks} and not ledger.sending, WAIT)


@pytest.mark.parametrize("large", [b"", LARGE], ids=["small", "large"])
def test_what_was_begun_before_a_server_lost_the_end_of_its_data(
    forgetful: ServerProcess,
    executor: RedisExecutor,
    spawn_child: Spawn,
    tmp_path: Path,
    large: bytes,
) -> None:
    """The server has the task in the queue again, as if nobody had claimed it."""
    notes, go = str(tmp_path / "notes"), str(tmp_path / "go")
    once = executor.options(max_deliveries=1)
    begun = once.submit(do.hold_noted, go, notes, large)
    assert sent(executor)
    forgetful.client().save()
    spawn_child(do.serve, forgetful.url, "once", 1, 15.0).wait_for("serving")
    assert eventually(lambda: do.lines(notes) == ["run"], WAIT)
    roll_back(forgetful)
    spawn_child(do.serve, forgetful.url, "once", 1, 15.0).wait_for("serving")
    with pytest.raises(TaskLostError, match="another server"):
        begun.result(WAIT)
    Path(go).touch()
    # What is put from now on is in no doubt.
    assert once.submit(do.square, 3).result(WAIT) == 9
    assert executor.submit(do.square, 4).result(WAIT) == 16
    assert do.lines(notes) == ["run"]
    assert executor.stats().failed == 1


def test_what_waits_while_a_server_is_restarted(
    forgetful: ServerProcess, executor: RedisExecutor, spawn_child: Spawn
) -> None:
    """Nobody can know that it was not begun. Others run."""
    risky = [executor.options(max_deliveries=1).submit(do.square, x) for x in range(5)]
    usual = [executor.submit(do.square, x) for x in range(5)]
    assert sent(executor)
    forgetful.restart()
    spawn_child(do.serve, forgetful.url, "once", 1, 15.0).wait_for("serving")
    assert [future.result(WAIT) for future in usual] == [0, 1, 4, 9, 16]
    assert {type(future.exception(WAIT)) for future in risky} == {TaskLostError}


def test_it_is_not_taken_back_as_if_it_had_not_begun(
    forgetful: ServerProcess,
    executor: RedisExecutor,
    spawn_child: Spawn,
    tmp_path: Path,
) -> None:
    notes, go = str(tmp_path / "notes"), str(tmp_path / "go")
    begun = executor.options(max_deliveries=1).submit(do.hold_noted, go, notes)
    assert sent(executor)
    forgetful.client().save()
    serving = spawn_child(do.serve, forgetful.url, "once", 1, 15.0)
    assert eventually(lambda: do.lines(notes) == ["run"], WAIT)
    serving.kill()
    roll_back(forgetful)
    # It is not known here that it runs: the server has lost that, too.
    begun._state = "PENDING"
    assert not begun.cancel()
    with pytest.raises(TaskLostError):
        begun.result(WAIT)
    assert do.lines(notes) == ["run"]


@pytest.mark.parametrize("large", [b"", bytes(30_000), LARGE, bytes(2_000_000)], ids=len)
def test_what_is_submitted_after_a_restart_is_in_no_doubt(
    forgetful: ServerProcess, executor: RedisExecutor, spawn_child: Spawn, large: bytes
) -> None:
    """Also by a client that has been idle, and hasn't heard of it."""
    spawn_child(do.serve, forgetful.url, "once", 1, 15.0).wait_for("serving")
    once = executor.options(max_deliveries=1)
    for _ in range(2):
        assert once.submit(len, large).result(WAIT) == len(large)
        assert sent(executor)
        forgetful.client().save()
        roll_back(forgetful)
    assert once.submit(len, large).result(WAIT) == len(large)


def test_what_waits_in_a_queue_that_was_made_anew_can_be_cancelled(
    forgetful: ServerProcess, executor: RedisExecutor
) -> None:
    once = executor.options(max_deliveries=1)
    usual = []
    for _ in range(5):
        usual.append(executor.submit(do.square, 2))
        assert sent(executor)
    lost = [once.submit(do.square, x) for x in range(5)]
    assert sent(executor)
    forgetful.client().flushall()
    assert {type(future.exception(WAIT)) for future in lost} == {TaskLostError}
    waiting = once.submit(do.square, 3)
    assert sent(executor)
    assert [future.cancel() for future in [*usual, waiting]] == [True] * 6


def run_child(queue_url: str, path: str) -> str:
    """Wait for a child that another server has the queue of, all of a sudden."""
    child = current_executor().options(max_deliveries=1).submit(do.note, path, "run")
    error = child.exception(WAIT)
    return type(error).__name__


def test_where_it_can_not_be_known_it_runs(
    forgetful: ServerProcess, executor: RedisExecutor, spawn_child: Spawn, tmp_path: Path
) -> None:
    """Its parent runs it itself, on the one worker that there is."""
    spawn_child(do.serve, forgetful.url, "once", 1, 15.0).wait_for("serving")
    notes = str(tmp_path / "notes")
    assert executor.submit(run_child, forgetful.url, notes).result(WAIT) == "NoneType"
    assert do.lines(notes) == ["run"]
