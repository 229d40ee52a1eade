"""What tests of several kinds of queues have in common."""

from __future__ import annotations

import threading
from typing import Any

__all__ = ["got_by_threads"]

PATIENCE = 20.0


def got_by_threads(made: Any, count: int) -> list[Any]:
    """The first `count` items of a queue, got by four threads at once, in any order."""
    got: list[Any] = []

    def consume() -> None:
        for _ in range(count // 4):
            got.append(made.get(timeout=PATIENCE))

    threads = [threading.Thread(target=consume, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    return got
