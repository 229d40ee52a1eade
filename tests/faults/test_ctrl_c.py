"""Ctrl-C where a lock is taken or given back: none is held afterwards, and nobody hangs."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

import pressure.multiprocessing as mp
from pressure import keeper
from pressure.multiprocessing.results import AsyncResult, IMapIterator
from pressure.multiprocessing.staff import Staff, _working

PATIENCE = 20.0


class CutShortWhenTaken:
    """A lock of which Ctrl-C comes between its `acquire` and what the caller does next."""

    def __init__(self, lock: Any) -> None:
        self.lock = lock
        self.struck = False

    def acquire(self, *args: Any, **options: Any) -> bool:
        taken: bool = self.lock.acquire(*args, **options)
        if taken and not self.struck:
            self.struck = True
            raise KeyboardInterrupt
        return taken

    def __enter__(self) -> bool:
        taken: bool = self.lock.__enter__()
        return taken

    def __exit__(self, *details: object) -> None:
        self.lock.__exit__(*details)

    def release(self) -> None:
        self.lock.release()

    def _is_owned(self) -> bool:
        owned: bool = self.lock._is_owned()
        return owned


class CtrlCInConditions:
    """Raises `KeyboardInterrupt` wherever this thread begins a condition's `with`, or is about to
    leave it: the lock is its own then."""

    def __init__(self) -> None:
        self.struck = 0

    def __enter__(self) -> CtrlCInConditions:
        sys.setprofile(self._look)
        return self

    def __exit__(self, *details: object) -> None:
        sys.setprofile(None)

    def _look(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        # After `__enter__` has called the lock's, or before `__exit__` has.
        moment = {"__enter__": "return", "__exit__": "call"}.get(code.co_name)
        if code.co_filename == threading.__file__ and event == moment:
            owner = frame.f_locals.get("self")
            if isinstance(owner, threading.Condition):
                self.struck += 1
                sys.setprofile(None)
                raise KeyboardInterrupt


def is_free(lock: Any) -> bool:
    """Whether another thread can have a lock."""
    said: list[bool] = []

    def look() -> None:
        said.append(lock.acquire(timeout=1.0))
        if said[0]:
            lock.release()

    looking = threading.Thread(target=look)
    looking.start()
    looking.join()
    return said[0]


@pytest.fixture
def made(url: str) -> Iterator[Any]:
    made: Any = mp.Queue(url=url)
    made.put(0)
    assert made.get(timeout=PATIENCE) == 0
    yield made
    made.close()
    made.join_thread()
    made.delete()


def test_as_put_has_just_taken_the_lock(made: Any) -> None:
    producer = made._producer
    lock = producer._sending
    producer._sending = fault = CutShortWhenTaken(lock)
    producer._interval = 0.0
    with pytest.raises(KeyboardInterrupt):
        made.put(1)
    assert fault.struck
    assert is_free(lock)
    made.put(2)
    assert [made.get(timeout=PATIENCE) for _ in range(2)] == [1, 2]


@pytest.mark.parametrize("how", ["ask", "suspended"])
def test_as_get_has_just_taken_the_lock(how: str, made: Any) -> None:
    prefetch = made._remote.handle.prefetch
    lock = prefetch._lock
    prefetch._lock = fault = CutShortWhenTaken(lock)
    with pytest.raises(KeyboardInterrupt):
        if how == "ask":
            prefetch.ask(100, in_order=True)
        else:
            made._remote.handle.give_back_ahead()
    assert fault.struck
    assert is_free(lock)


def test_another_threads_lock_is_left_to_it(made: Any) -> None:
    producer, prefetch = made._producer, made._remote.handle.prefetch
    for lock in (producer._sending, prefetch._lock):
        taken, go_on = threading.Event(), threading.Event()

        def hold(lock: Any = lock, taken: Any = taken, go_on: Any = go_on) -> None:
            with lock:
                taken.set()
                assert go_on.wait(PATIENCE)

        holding = threading.Thread(target=hold)
        holding.start()
        assert taken.wait(PATIENCE)
        if lock is producer._sending:
            made.put(1)
        else:
            prefetch.ask(100, in_order=True)
            assert not prefetch.under_way
        assert not is_free(lock)
        go_on.set()
        holding.join()
    assert made.get(timeout=PATIENCE) == 1


def wake_feeder(made: Any) -> Any:
    made._producer._wake_feeder()
    return made._producer._work


def keep(made: Any) -> Any:
    kept = keeper._of[made._remote.handle]
    kept.keep(made._remote.handle)
    return kept.condition


def wake(made: Any) -> Any:
    kept = keeper._of[made._remote.handle]
    kept.wake(0.0, made._remote.handle)
    return kept.condition


def begin_job(_: Any) -> Any:
    staff = Staff(None, local=True)  # type: ignore[arg-type]
    # It has nothing to end with the process.
    _working.discard(staff)
    staff.watch(AsyncResult(None, staff.forget))
    return staff._condition


def next_result(_: Any) -> Any:
    results: IMapIterator[Any] = IMapIterator(None, lambda job: None, ahead=10)
    results.put(0, (True, [1]))
    assert results.next(PATIENCE) == 1
    return results._condition


def wait_for_result(_: Any) -> Any:
    result: AsyncResult[Any] = AsyncResult(None, lambda job: None)
    result.wait(0.001)
    return result._lock


@pytest.mark.parametrize("call", [wake_feeder, keep, wake, begin_job, next_result, wait_for_result])
def test_at_a_condition(call: Callable[[Any], Any], made: Any) -> None:
    """User threads don't go through a condition's own `with`, which Ctrl-C can cut short."""
    with contextlib.suppress(KeyboardInterrupt), CtrlCInConditions() as ctrl_c:
        lock = call(made)
    assert not ctrl_c.struck
    assert is_free(lock)


class UsedFromWithin:
    """In the midst of a put, the handler of a signal uses the queue."""

    def __init__(self, use: Callable[[], object]) -> None:
        self.use = use
        self.raised: list[BaseException] = []

    def strike(self, number: int, frame: FrameType | None) -> None:
        try:
            self.use()
        except RuntimeError as exc:
            self.raised.append(exc)


@pytest.fixture
def on_signal() -> Iterator[Callable[[UsedFromWithin], None]]:
    before = signal.getsignal(signal.SIGUSR1)
    yield lambda used: void(signal.signal(signal.SIGUSR1, used.strike))
    signal.signal(signal.SIGUSR1, before)


def void(_: object) -> None:
    pass


def in_mid_send(made: Any, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal comes as the next send of this thread, not of the feeder, takes this step."""
    producer = made._producer
    original = getattr(producer, step)

    def strike(*args: Any) -> Any:
        if threading.current_thread() is threading.main_thread():
            monkeypatch.setattr(producer, step, original)
            signal.raise_signal(signal.SIGUSR1)
        return original(*args)

    monkeypatch.setattr(producer, step, strike)


def test_a_put_from_within_a_put_is_sent_after_it(
    made: Any,
    on_signal: Callable[[UsedFromWithin], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used = UsedFromWithin(lambda: made.put(2))
    on_signal(used)
    in_mid_send(made, "_begin", monkeypatch)
    made._producer._interval = 0.0
    made.put(1)
    assert [made.get(timeout=PATIENCE) for _ in range(2)] == [1, 2]
    assert not used.raised


@pytest.mark.parametrize("how", ["put", "qsize", "settle"])
def test_what_would_wait_for_its_own_put_is_refused(
    how: str,
    url: str,
    on_signal: Callable[[UsedFromWithin], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: Any = mp.JoinableQueue(url=url)
    made.put(0)
    uses = {"put": lambda: made.put(2), "qsize": made.qsize, "settle": made._producer.settle}
    used = UsedFromWithin(uses[how])
    on_signal(used)
    in_mid_send(made, "_complete", monkeypatch)
    made.put(1)
    assert len(used.raised) == 1
    assert [made.get(timeout=PATIENCE) for _ in range(2)] == [0, 1]
    made.close()
    made.delete()


STUCK = """
import sys, threading
import pressure.multiprocessing as mp
from pressure.multiprocessing import feeding

feeding.GRACE = 0.5
made = mp.Queue(url=sys.argv[1])
made.put(0)
made._remote.core.settings = made._remote.core.settings.__class__(reconnect_timeout=0.5)
taken = threading.Event()

def hold():
    with made._producer._sending:
        taken.set()
        threading.Event().wait()

threading.Thread(target=hold, daemon=True).start()
taken.wait()
made.put(1)
print("ending", flush=True)
"""


def test_a_feeder_that_stands_still_does_not_hold_up_the_exit(url: str) -> None:
    command = [sys.executable, "-c", STUCK, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout == "ending\n"
    assert "items are perhaps lost" in done.stderr
