"""The soak's short form. `python -m tests.soak` runs it for longer, with everything it has."""

from __future__ import annotations

import pytest

from tests.soak.soaking import soak
from tests.soak.troubles import TROUBLES
from tests.support.servers import Kind

CAST = (
    *("producer", "batch-producer", "consumer", "iterator", "leaser", "asyncio"),
    *("mp-producer", "mp-consumer", "worker", "executor"),
)
# Half-open connections are noticed after seconds only.
SLOW = ("connections swallowed",)


@pytest.mark.timeout(300)
def test_nothing_is_lost_doubled_hung_or_left_behind(redis_server_kind: Kind) -> None:
    outcome = soak(
        redis_server_kind,
        seed=7,
        seconds=4.0,
        lease=3.0,
        ttl=5.0,
        every=0.15,
        patient=False,
        cast=CAST,
        troubles=tuple(trouble for trouble in TROUBLES if trouble.name not in SLOW),
    )
    assert outcome.sound, f"{outcome.table()}\n{outcome.problems()}"
    assert outcome.verdict.acknowledged > 50, outcome.table()
    assert outcome.verdict.results > 50, outcome.table()
    assert len(outcome.faults) >= 5, outcome.table()
