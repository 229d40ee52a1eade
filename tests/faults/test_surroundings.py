"""A process that is out of file descriptors, has a wrong clock, or forks, in mid-traffic."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults import executing, surrounded
from tests.faults.kit.traffic import TRAFFIC
from tests.support.account import Account
from tests.support.processes import Child
from tests.support.proxy import FaultyProxy

Spawn = Callable[..., Child]


@pytest.mark.parametrize("interface", TRAFFIC)
def test_clocks_are_ten_minutes_off(
    interface: str, url: str, queue_name: str, account: Account, spawn_child: Spawn
) -> None:
    """One side is in the future, and an executor's workers are in the past besides."""
    if interface == "executor":
        spawn_child(surrounded.serve_in_the_past, url, queue_name, surrounded.LEASE).wait_for(
            "serving"
        )
    child = spawn_child(surrounded.with_a_wrong_clock, interface, url, queue_name, account)
    assert child.wait_for("duplicates", 60) == 0
    assert child.wait() == 0


@pytest.mark.parametrize("interface", TRAFFIC)
def test_no_descriptors_are_left(
    interface: str,
    url: str,
    proxy: FaultyProxy,
    queue_name: str,
    account: Account,
    spawn_child: Spawn,
) -> None:
    if interface == "executor":
        spawn_child(executing.serve, url, queue_name, 1, 15.0).wait_for("serving")
    child = spawn_child(
        surrounded.without_descriptors,
        *(interface, proxy.url, url, queue_name, account),
        hold_at=["cut"],
    )
    child.wait_for("exhausted")
    proxy.cut()
    child.go_on("cut")
    assert child.wait_for("duplicates", 60) == 0
    assert child.wait() == 0


@pytest.mark.parametrize("interface", TRAFFIC)
def test_a_process_forks(
    interface: str, url: str, queue_name: str, account: Account, spawn_child: Spawn
) -> None:
    if interface == "executor":
        spawn_child(executing.serve, url, queue_name, 1, 15.0).wait_for("serving")
    child = spawn_child(surrounded.forking, interface, url, queue_name, account)
    assert child.wait_for("duplicates", 60) == 0
    assert child.wait() == 0
    assert child.count("failed") == 0
