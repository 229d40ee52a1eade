"""How much a worker claims, and how it notes that."""

from __future__ import annotations

import os

import pytest

from pressure.executor.notes import MOST_CLAIMED, Notes
from pressure.executor.worker.claims import BATCH_SECONDS, next_count


@pytest.mark.parametrize("share", [0.0, 0.3, 0.49, 0.5, 0.6, 0.99, 1.0, 1.5, 40.0])
@pytest.mark.parametrize("ran", [1, 100, MOST_CLAIMED])
def test_never_more_is_claimed_than_can_be_noted(share: float, ran: int) -> None:
    count = MOST_CLAIMED
    for _ in range(3):
        count = next_count(count, min(ran, count), share * BATCH_SECONDS + 1e-9)
        assert 1 <= count <= MOST_CLAIMED


def test_claims_of_short_tasks_grow_though_many_share_them() -> None:
    assert next_count(8, 7, 0.001) == 16
    assert next_count(8, 7, BATCH_SECONDS * 0.9) == 8
    assert next_count(8, 1, 0.001) == 8


def test_what_is_noted_of_a_claim_overwrites_nothing_else() -> None:
    file, notes = Notes.create()
    file.close()
    consumer = os.urandom(16)
    notes.consumer(consumer)
    tasks = [os.urandom(16) for _ in range(MOST_CLAIMED + 500)]
    notes.claimed(tasks)
    assert notes.read().consumers == (consumer,)
    assert notes.behind(tasks[0]) == tasks[1:MOST_CLAIMED]
    notes.close()
