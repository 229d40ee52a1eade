"""What the tests of faults share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults import executing
from tests.faults.kit.traffic import TRAFFIC, ExecutorTraffic, Traffic
from tests.support.account import Account
from tests.support.processes import Child

MakeTraffic = Callable[..., Traffic]


@pytest.fixture
def make_traffic(spawn_child: Callable[..., Child], account: Account) -> MakeTraffic:
    """Makes traffic: `make_traffic(interface, url, **options)`. An executor's has two workers,
    which are reached by the same url unless `workers_at` is another. "tasks" is the same without
    workers."""

    def make(
        interface: str, url: str, name: str = "traffic", *, workers_at: str = "", **options: object
    ) -> Traffic:
        kind: Callable[..., Traffic] = TRAFFIC.get(interface, ExecutorTraffic)
        traffic = kind(url, name, account, **options)
        if interface == "executor":
            child = spawn_child(
                executing.serve, workers_at or url, name, 2, traffic.settings.lease, ""
            )
            child.wait_for("serving")
        return traffic

    return make
