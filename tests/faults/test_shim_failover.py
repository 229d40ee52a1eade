"""The shim's queues behind Sentinel: another server becomes the primary in mid-traffic."""

from __future__ import annotations

import time

import pytest

from tests.faults.kit.traffic import ShimTraffic
from tests.support.account import Account
from tests.support.sentinel import SentinelSetup
from tests.support.servers import Kind


@pytest.mark.slow
def test_a_failover_in_mid_traffic(redis_server_kind: Kind, account: Account) -> None:
    with (
        SentinelSetup(redis_server_kind) as setup,
        ShimTraffic(setup.url, "traffic", account) as traffic,
    ):
        traffic.flows()
        # What replicas have not heard of is lost with a primary: so it dies in a quiet moment.
        traffic.pace = 2.0
        time.sleep(1.0)
        setup.await_replicas()
        setup.primary().kill()
        traffic.pace = 0.002
        traffic.flows()
        for number in range(account.count("sent") + 1000):
            # The new primary may lack an acknowledgement.
            account.touched(number)
        traffic.finish()
