"""The condition that Ctrl-C can't leave locked."""

from __future__ import annotations

import gc
import sys
import threading
from typing import Any

import pytest

from pressure.condition import Condition


def calls(condition: threading.Condition) -> list[str]:
    """The functions written in Python, in which a signal handler may run, that `with` calls."""
    seen: list[str] = []

    def note(frame: Any, event: str, _: Any) -> None:
        if event == "call":
            seen.append(frame.f_code.co_name)

    # Which calls functions of its own, in any place.
    gc.disable()
    sys.setprofile(note)
    try:
        with condition:
            pass
    finally:
        sys.setprofile(None)
        gc.enable()
    return seen


@pytest.mark.parametrize("lock", [threading.Lock, threading.RLock])
def test_with_calls_nothing_that_can_be_interrupted(lock: Any) -> None:
    assert calls(threading.Condition(lock())) == ["__enter__", "__exit__"]
    assert calls(Condition(lock())) == []


def test_it_works_as_a_condition() -> None:
    condition = Condition()
    woken = threading.Event()

    def wait() -> None:
        with condition:
            woken.set()
            assert condition.wait(10)

    thread = threading.Thread(target=wait)
    thread.start()
    assert woken.wait(10)
    with condition:
        condition.notify_all()
    thread.join(10)
    assert not thread.is_alive()
    with pytest.raises(RuntimeError):
        condition.notify()
