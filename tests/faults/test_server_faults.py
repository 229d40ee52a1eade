"""What befalls the server in mid-traffic, of each interface: nothing is lost, doubled, or stuck."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from pressure import ServerOutOfMemoryError
from tests.faults.conftest import MakeTraffic
from tests.faults.kit import server as faults
from tests.faults.kit.fault import Repeatedly
from tests.faults.kit.server import ServerFault
from tests.faults.kit.traffic import TRAFFIC
from tests.support.servers import ServerProcess
from tests.support.waiting import eventually

MakeServer = Callable[..., ServerProcess]
A_WHILE = 0.2


@pytest.mark.parametrize("interface", TRAFFIC)
def test_the_server_is_killed_and_frozen(
    interface: str, make_server: MakeServer, make_traffic: MakeTraffic
) -> None:
    server = make_server(appendonly=True)
    with make_traffic(interface, server.url) as traffic:
        traffic.flows()
        for fault in (faults.ServerKilled, faults.ServerFrozen):
            with fault(server):
                time.sleep(A_WHILE)
            traffic.flows()
    assert traffic.finish().duplicates == 0


@pytest.mark.parametrize("interface", TRAFFIC)
def test_the_server_turns_its_clients_away(
    interface: str, make_server: MakeServer, make_traffic: MakeTraffic
) -> None:
    server = make_server()
    with make_traffic(interface, server.url) as traffic:
        traffic.flows()
        with Repeatedly(faults.ClientsKilled(server), every=0.05):
            traffic.flows(30)
        for fault in (faults.ClientsPaused, faults.TooManyClients):
            with fault(server):
                time.sleep(A_WHILE)
            traffic.flows()
    assert traffic.finish().duplicates == 0


@pytest.mark.parametrize("interface", TRAFFIC)
def test_the_server_forgets_its_scripts(
    interface: str, make_server: MakeServer, make_traffic: MakeTraffic
) -> None:
    server = make_server()
    flushing = Repeatedly(faults.ScriptsFlushed(server), every=0.0)
    with make_traffic(interface, server.url) as traffic, flushing:
        traffic.flows(100)
    assert flushing.struck > 20
    assert traffic.finish().duplicates == 0


REFUSALS: dict[str, type[ServerFault]] = {
    "MISCONF": faults.DiskReadOnly,
    "NOREPLICAS": faults.TooFewReplicas,
    "READONLY": faults.ReadOnlyReplica,
    "MASTERDOWN": faults.MasterDown,
    "BUSY": faults.Busy,
    "LOADING": faults.Loading,
}


@pytest.mark.parametrize("interface", TRAFFIC)
def test_the_server_refuses_for_a_while(
    interface: str, make_server: MakeServer, make_traffic: MakeTraffic
) -> None:
    server = make_server()
    with make_traffic(interface, server.url) as traffic:
        traffic.flows()
        for fault in REFUSALS.values():
            with fault(server):
                time.sleep(A_WHILE)
            traffic.flows()
    assert traffic.finish().duplicates == 0


@pytest.mark.parametrize("interface", TRAFFIC)
def test_the_server_runs_out_of_memory(
    interface: str, make_server: MakeServer, make_traffic: MakeTraffic
) -> None:
    """Whoever puts is told; what is there is drained; and all goes on when there is memory."""
    server = make_server()
    refusals = (ServerOutOfMemoryError,)
    with make_traffic(interface, server.url, refusals=refusals) as traffic:
        traffic.flows()
        with faults.OutOfMemory(server):
            if interface in ("queue", "asyncio", "shim"):
                assert eventually(lambda: traffic.refused > 1)
            else:
                time.sleep(A_WHILE)
        traffic.flows()
    assert traffic.finish().duplicates == 0
