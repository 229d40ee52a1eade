"""Consumers that will be killed or frozen, one for each kind of queue."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import Any

import pressure
import pressure.aio
import pressure.multiprocessing as mp
from pressure import Settings
from pressure.multiprocessing import remote
from tests.faults.kit.traffic import PATIENCE
from tests.support.child import at, report

LEASE = 1.0
SETTINGS = Settings(lease=LEASE, reconnect_timeout=PATIENCE)


def queue(url: str, name: str) -> None:
    """Get items and hold leases by turns; a lost lease is reported."""
    q: pressure.PressureQueue[int] = pressure.PressureQueue(name, url=url, settings=SETTINGS)
    report("ready")
    while True:
        with contextlib.suppress(pressure.LeaseLostError), q.lease() as item:
            report("got", item)
            at("holding")


def asynchronous(url: str, name: str) -> None:
    async def main() -> None:
        made: pressure.aio.PressureQueue[int] = pressure.aio.PressureQueue(
            name, url=url, settings=SETTINGS
        )
        async with made as q:
            report("ready")
            while True:
                with contextlib.suppress(pressure.LeaseLostError):
                    async with q.lease() as item:
                        report("got", item)
                        at("holding")

    asyncio.run(main())


def shim(url: str, name: str) -> None:
    """Items are fetched ahead; there are no leases to be lost by the caller."""
    vars(remote)["Settings"] = partial(Settings, lease=LEASE)
    made: Any = mp.Queue(name=name, url=url)
    report("ready")
    while True:
        report("got", made.get())
        at("holding")
