"""Batches of what an iterable gives, for `put_many` on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from typing import Any

from pressure.pace import QUICK, Batch, Pace

__all__ = ["batches"]


async def batches(
    pace: Pace, iterable: Iterable[Any] | AsyncIterable[Any], serialize: Callable[[Any], bytes]
) -> AsyncIterator[tuple[list[bytes], Exception | None]]:
    """As `Pace.batches`, of a plain or an asynchronous iterable.

    When the latter makes one wait, what it gave before is not held back.
    """
    if not isinstance(iterable, AsyncIterable):
        for some in pace.batches(iterable, serialize):
            yield some
        return
    batch = Batch()
    iterator = aiter(iterable)
    while True:
        coming = asyncio.ensure_future(_next(iterator))
        try:
            if batch.bodies:
                await asyncio.wait({coming}, timeout=QUICK)
                if not coming.done():
                    yield batch.take(), None
            body = serialize(await coming)
        except StopAsyncIteration:
            if batch.bodies:
                yield batch.bodies, None
            return
        except Exception as exc:
            yield batch.bodies, exc
            return
        finally:
            coming.cancel()
        if batch.add(body):
            yield batch.take(), None


async def _next(iterator: AsyncIterator[Any]) -> Any:
    return await anext(iterator)
