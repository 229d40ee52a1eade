"""What the network does to the traffic of each interface: nothing is lost, doubled, or stuck."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import pressure.multiprocessing as mp
from pressure import address, flows, link
from pressure.aio import link as aio_link
from tests.faults.conftest import MakeTraffic
from tests.faults.kit import network
from tests.faults.kit.fault import Repeatedly
from tests.faults.kit.traffic import TRAFFIC
from tests.support.account import Account
from tests.support.proxy import FaultyProxy
from tests.support.servers import ServerProcess


@pytest.mark.parametrize("interface", TRAFFIC)
def test_replies_are_lost(
    interface: str, proxy: FaultyProxy, url: str, queue_name: str, make_traffic: MakeTraffic
) -> None:
    with make_traffic(interface, proxy.url, queue_name, direct=url) as traffic:
        traffic.flows()
        for fault in (network.ReplyLost(proxy), network.RequestLost(proxy)):
            with Repeatedly(fault):
                traffic.flows(100)
    assert traffic.finish().duplicates == 0


@pytest.mark.parametrize("interface", TRAFFIC)
def test_connections_end(
    interface: str, proxy: FaultyProxy, url: str, queue_name: str, make_traffic: MakeTraffic
) -> None:
    with make_traffic(interface, proxy.url, queue_name, direct=url) as traffic:
        traffic.flows()
        with Repeatedly(network.ConnectionsCut(proxy), every=0.05):
            traffic.flows(50)
        with network.OutOfReach(proxy):
            time.sleep(0.5)
        traffic.flows()
    assert traffic.finish().duplicates == 0


@pytest.mark.parametrize("interface", TRAFFIC)
def test_connections_are_reset(
    interface: str,
    make_server: Callable[..., ServerProcess],
    make_traffic: MakeTraffic,
) -> None:
    server = make_server(unix=False)
    with (
        FaultyProxy(server.url) as proxy,
        make_traffic(interface, proxy.url, direct=server.url) as traffic,
    ):
        with network.Slow(proxy, 0.005):
            traffic.flows()
        with Repeatedly(network.ConnectionsCut(proxy, reset=True), every=0.05):
            traffic.flows(30)
        with network.Stalled(proxy):
            time.sleep(0.2)
        traffic.flows()
        assert traffic.finish().duplicates == 0


@pytest.mark.parametrize("interface", TRAFFIC)
def test_connections_swallow_everything(
    interface: str,
    proxy: FaultyProxy,
    url: str,
    queue_name: str,
    make_traffic: MakeTraffic,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody is told: our side finds out by its time-outs, and the server not at all."""
    # Not the usual 5 s.
    monkeypatch.setattr(address, "SOCKET_TIMEOUT", 1.0)
    monkeypatch.setattr(aio_link, "SOCKET_TIMEOUT", 1.0)
    monkeypatch.setattr(flows, "SLICE", 0.5)
    for module in (link, aio_link):
        monkeypatch.setattr(module, "BLOCK_MARGIN", 0.5)
    with make_traffic(interface, proxy.url, queue_name, direct=url, workers_at=url) as traffic:
        traffic.flows()
        with network.Partition(proxy):
            time.sleep(0.2)
        traffic.flows()
    assert traffic.finish().duplicates == 0


def test_a_quick_producer_loses_its_server(
    proxy: FaultyProxy, url: str, queue_name: str, account: Account
) -> None:
    """What the shim has buffered, in places that are reserved, and what it puts meanwhile."""
    direct: Any = mp.Queue(100_000, name=queue_name, url=url)
    made: Any = mp.Queue(100_000, name=queue_name, url=proxy.url)
    out_of_reach = network.OutOfReach(proxy)
    ends = threading.Timer(1.5, out_of_reach.heal)
    with out_of_reach:
        out_of_reach.heal()
        for number in range(3000):
            account.sent(number)
            if number == 1500:
                out_of_reach.strike()
                ends.start()
            made.put(number)
            account.acknowledged(number)
    ends.join()
    made.close()
    made.join_thread()
    for _ in range(direct.qsize()):
        account.delivered(direct.get(timeout=20))
    assert account.check(at_least=3000).duplicates == 0
    direct.delete()
    direct.close()
