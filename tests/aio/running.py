"""How these tests run coroutines: with a time-out, and with nothing left behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

LIMIT = 45.0


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, which fails instead of hanging, and if a callback or a task failed unseen."""
    complaints: list[dict[str, Any]] = []

    async def guarded() -> T:
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: complaints.append(context)
        )
        async with asyncio.timeout(LIMIT):
            return await main

    result = asyncio.run(guarded())
    assert not complaints, complaints
    return result


async def until(condition: Callable[[], bool], timeout: float = 10.0) -> bool:
    """Whether the condition came true in time, while the loop went on."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.005)
    return True
