"""The thread that keeps a process's promises, without a server."""

from __future__ import annotations

import threading
import time

from pressure import keeper

WAIT = 20.0


class OwingAgain:
    """A handle whose next call ends just as the thread has found that nothing is owed."""

    def __init__(self, paid: threading.Event) -> None:
        self._paid = paid
        self._looked = False

    def maintain(self, now: float) -> float:
        if self._looked:
            self._paid.set()
        else:
            self._looked = True
            keeper.wake(time.monotonic(), self)
        return float("inf")

    def disconnect(self) -> None:
        pass

    def after_fork(self) -> None:
        pass


def test_who_owes_something_lives_until_it_is_paid() -> None:
    paid = threading.Event()
    handle = OwingAgain(paid)
    keeper.keep(handle, "a server of its own")
    keeper.wake(time.monotonic(), handle)
    del handle
    assert paid.wait(WAIT)
