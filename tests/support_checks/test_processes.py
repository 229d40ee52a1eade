from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from tests.support.processes import Child, at, report, spawn
from tests.support.waiting import eventually

SpawnChild = Callable[..., Child]


def pass_points(times: int) -> None:
    for number in range(times):
        at("before")
        report("passed", number)
    report("end")


def wait_for_ever() -> None:
    report("waiting", {"pid": os.getpid()})
    while True:
        time.sleep(60)


def start_grandchildren() -> None:
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    pids = [subprocess.Popen(sleeper, start_new_session=detached).pid for detached in (False, True)]
    report("grandchildren", pids)
    wait_for_ever()


def fork_and_report() -> None:
    if os.fork() == 0:
        report("from the fork", os.getpid())
        os._exit(0)
    os.wait()


def test_a_child_reports_events_in_order(spawn_child: SpawnChild) -> None:
    child = spawn_child(pass_points, 3)

    assert [child.wait_for("passed") for _ in range(3)] == [0, 1, 2]
    child.wait_for("finished")
    assert child.wait() == 0
    assert child.count("passed") == 3


def test_code_gets_its_arguments(spawn_child: SpawnChild) -> None:
    child = spawn_child(
        "from tests.support.processes import report; report('sum', sum(args))", 1, 2
    )

    assert child.wait_for("sum") == 3


def test_a_child_dies_at_a_point(spawn_child: SpawnChild) -> None:
    child = spawn_child(pass_points, 5, kill_at=["before#3"])

    child.wait_for("at:before#3")

    assert child.wait() == -signal.SIGKILL
    assert child.count("passed") == 2
    assert child.count("finished") == 0


def test_a_child_stops_at_a_point_until_it_is_continued(spawn_child: SpawnChild) -> None:
    child = spawn_child(pass_points, 1, stop_at=["before"])
    child.wait_for("at:before")
    child.wait_stopped()
    assert child.count("passed") == 0

    child.cont()

    child.wait_for("end")
    assert child.wait() == 0


def test_a_child_is_held_at_a_point_until_it_may_go_on(spawn_child: SpawnChild) -> None:
    child = spawn_child(pass_points, 2, hold_at=["before", "before#2"])
    child.wait_for("at:before")
    assert child.count("passed") == 0
    child.go_on("before")
    child.wait_for("at:before#2")
    assert child.count("passed") == 1

    child.go_on("before#2")

    child.wait_for("end")
    assert child.wait() == 0


def test_a_held_child_can_be_killed(spawn_child: SpawnChild) -> None:
    child = spawn_child(pass_points, 1, hold_at=["before"])
    child.wait_for("at:before")

    child.kill()

    assert child.wait() == -signal.SIGKILL


def test_stop_and_continue_from_outside(spawn_child: SpawnChild) -> None:
    child = spawn_child(wait_for_ever)
    child.wait_for("waiting")

    child.stop()
    assert child.running
    child.cont()
    child.terminate()

    assert child.wait() == -signal.SIGTERM


def test_a_failed_child_shows_its_traceback(spawn_child: SpawnChild) -> None:
    child = spawn_child("raise RuntimeError('the reason')")

    with pytest.raises(AssertionError, match=r"(?s)ended without 'never'.*the reason"):
        child.wait_for("never")
    assert child.wait() == 1


def test_waits_are_bounded(spawn_child: SpawnChild) -> None:
    child = spawn_child(wait_for_ever)

    with pytest.raises(AssertionError, match="took over"):
        child.wait_for("never", timeout=0.01)
    with pytest.raises(AssertionError, match="still runs"):
        child.wait(timeout=0.01)


def test_a_fork_of_the_child_reports_too(spawn_child: SpawnChild) -> None:
    child = spawn_child(fork_and_report)

    assert child.wait_for("from the fork") != child.pid
    assert child.wait() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
@pytest.mark.parametrize("killed_before", [False, True])
def test_nothing_outlives_the_block(killed_before: bool) -> None:
    with spawn(start_grandchildren) as child:
        pids = child.wait_for("grandchildren")
        # A process that has just started shows its environment a moment later.
        assert eventually(lambda: set(child.family()) == {child.pid, *pids})
        if killed_before:
            child.kill()
            assert set(child.family()) == set(pids)

    assert child.family() == []


def test_points_mean_nothing_outside_of_a_child() -> None:
    at("anywhere")
    report("anything")


def test_only_functions_of_a_module_can_be_spawned() -> None:
    with pytest.raises(ValueError, match="top level"):
        spawn(lambda: None)
