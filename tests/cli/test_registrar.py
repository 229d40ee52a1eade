"""What a daemon says of its workers: changes are told early, and not too often."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pressure.address import Address
from pressure.channel import Channel
from pressure.channel.registry import Registry, WorkerRecord
from pressure.executor.notes import Snapshot
from pressure.executor.supervision.registrar import SOON, Registrar
from pressure.settings import Settings

IDLE = Snapshot(
    ready=True,
    retired=False,
    queue=0,
    failed=0,
    looped=0.0,
    task=None,
    client=b"",
    started=0.0,
    done=0,
    kill_at=0.0,
    consumers=(),
    nested=(),
)


@pytest.fixture
def channel(url: str, namespace: str, queue_name: str) -> Iterator[Channel]:
    address, settings = Address.of(url), Settings()
    channel = Channel(queue_name, address, tag=queue_name, prefix=namespace, settings=settings)
    channel.ensure()
    yield channel
    channel.delete()
    channel.disconnect()


def test_changes_are_told_early(channel: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pressure.executor.supervision.registrar.EARLY", 60.0)
    registrar = Registrar([channel], daemon=b"d" * 16)

    def told(snapshot: Snapshot) -> WorkerRecord:
        left = registrar.look([(os.getpid(), time.monotonic(), snapshot)], stopping=False)
        assert 0 <= left <= SOON
        (record,) = Registry(channel.handle).roll()
        return record

    assert told(IDLE).state == "idle"
    busy = replace(IDLE, task=b"t" * 16, started=time.monotonic(), done=1)
    assert told(busy).state == "idle", "it was told something a moment ago"
    monkeypatch.setattr("pressure.executor.supervision.registrar.EARLY", 0.0)
    registrar._early = 0.0
    record = told(busy)
    assert (record.state, record.done) == ("busy", 1)
    assert told(replace(IDLE, done=2)).state == "idle"
