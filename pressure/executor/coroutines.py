"""Tasks that are coroutine functions: each runs to its end in an event loop of its own."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Coroutine
from types import CoroutineType
from typing import Any

__all__ = ["CoroutineType", "completed"]


def completed(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end, as `asyncio.run`: what it leaves running is cancelled.

    In a task that runs inside of another one's event loop (since that waits for it) it gets a
    thread, since loops can't be nested.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    outcome: list[Any] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(asyncio.run(coroutine))
        except BaseException as exc:
            failure.append(exc)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,))
    thread.start()
    thread.join()
    if failure:
        raise failure.pop()
    return outcome.pop()
