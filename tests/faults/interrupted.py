"""What the children of `test_interrupted.py` do: a signal's handler raises in mid-conversation."""

from __future__ import annotations

import contextlib
import queue
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from types import FrameType
from typing import Any

import pressure
import pressure.multiprocessing as mp
from pressure.executor import RedisExecutor
from pressure.multiprocessing import remote
from tests.faults.executing import WAIT
from tests.faults.kit.traffic import carry
from tests.support.account import Account
from tests.support.child import report

EVERY = 0.002
LEASE = 1.0
ENOUGH = 60
"""Interruptions after which it is over."""
_LIBRARY = ("/redis/", "/pressure/link.py")


class Interrupted(BaseException):
    """As `KeyboardInterrupt`: nobody expects it."""


class Interruptions:
    """While the main thread sends something or waits for a reply, a handler raises. Elsewhere it
    doesn't: what a call has returned must reach its caller's books."""

    def __init__(self) -> None:
        self.count = 0

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        signal.signal(signal.SIGALRM, self._handle)
        signal.setitimer(signal.ITIMER_REAL, EVERY, EVERY)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        within = False
        while frame is not None:
            code = frame.f_code
            if code.co_name in ("disconnect", "close", "__del__", "connect"):
                return
            within = within or any(part in code.co_filename for part in _LIBRARY)
            frame = frame.f_back
        if within:
            self.count += 1
            raise Interrupted


def queue_interrupted(url: str, name: str, books: Account) -> None:
    handle: pressure.PressureQueue[int] = pressure.PressureQueue(
        name, url=url, settings=pressure.Settings(lease=LEASE)
    )
    handle.create()
    _put_and_get(handle.put, lambda: handle.get(timeout=0.01), pressure.QueueEmptyError, books)
    handle.delete()
    handle.disconnect()


def shim_interrupted(url: str, name: str, books: Account) -> None:
    vars(remote)["Settings"] = partial(pressure.Settings, lease=LEASE)
    handle: Any = mp.Queue(1000, name=name, url=url)
    _put_and_get(handle.put, lambda: handle.get(timeout=0.01), queue.Empty, books)
    handle.delete()
    handle.close()


def _put_and_get(
    put: Callable[[int], None],
    get: Callable[[], int],
    empty: type[Exception],
    books: Account,
) -> None:
    interruptions = Interruptions()
    number = 0
    until = time.monotonic() + WAIT

    def receive() -> bool:
        try:
            item = get()
        except empty:
            return False
        books.delivered(item)
        return True

    with interruptions.going_on():
        while interruptions.count < ENOUGH and time.monotonic() < until:
            for _ in range(3):
                number += 1
                books.sent(number)
                # Interrupted, it was put or not.
                with contextlib.suppress(Interrupted):
                    put(number)
                    books.acknowledged(number)
            for _ in range(4):
                with contextlib.suppress(Interrupted):
                    receive()
    # What a command brings that was cut short and is carried out late comes back by its lease.
    missing = until + WAIT
    while books.missing() and time.monotonic() < missing:
        receive()
    report("interruptions", interruptions.count)


def executor_interrupted(url: str, name: str, books: Account) -> None:
    interruptions = Interruptions()
    number = 0
    until = time.monotonic() + WAIT
    outstanding: deque[tuple[int, Future[int]]] = deque()
    with RedisExecutor(url=url, queue=name) as executor:
        assert executor.submit(carry, str(books.directory), -1).result(WAIT) == 1
        with interruptions.going_on():
            while interruptions.count < ENOUGH // 2 and time.monotonic() < until:
                number += 1
                books.sent(number)
                with contextlib.suppress(Interrupted):
                    future = executor.submit(carry, str(books.directory), number)
                    books.acknowledged(number)
                    outstanding.append((number, future))
                while len(outstanding) > 20:
                    _check(*outstanding.popleft())
        for each in outstanding:
            _check(*each)
    books.sent(-1)
    report("interruptions", interruptions.count)


def _check(number: int, future: Future[int]) -> None:
    assert future.result(WAIT) == number * number
