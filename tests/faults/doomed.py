"""What the children of the fault tests do."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import pressure
from tests.support.account import Account
from tests.support.child import at, report

WAIT = 20.0


def queue_of(url: str, name: str, lease: float = 15.0) -> pressure.PressureQueue[Any]:
    settings = pressure.Settings(lease=lease, reconnect_timeout=WAIT)
    return pressure.PressureQueue(name, url=url, settings=settings)


def hold_a_lease(url: str, name: str, lease: float) -> None:
    """Take an item on lease, and try to acknowledge it after the point "holding"."""
    q = queue_of(url, name, lease)
    held = q.lease(timeout=WAIT)
    report("took", held.item)
    at("holding")
    try:
        held.ack()
    except pressure.LeaseLostError:
        report("lost")
    else:
        report("acknowledged")


def get_one(url: str, name: str, lease: float) -> None:
    """Get an item, and live on until the point "got" is passed."""
    q = queue_of(url, name, lease)
    report("got", q.get(timeout=WAIT))
    at("got")


def get_and_leave(url: str, name: str) -> None:
    """Get an item and end at once."""
    report("got", queue_of(url, name).get(timeout=WAIT))


def fetch_ahead(url: str, name: str, lease: float) -> None:
    """Iterate until items were fetched ahead."""
    q = queue_of(url, name, lease)
    for item in q:
        report("got", item)
        at("iterating")


def produce(url: str, name: str, books: Account, first: int, count: int) -> None:
    q = queue_of(url, name)
    for number in range(first, first + count):
        books.sent(number)
        q.put(number)
        books.acknowledged(number)
    q.disconnect()


def consume(url: str, name: str, books: Account, lease: float) -> None:
    """Process items on lease until the queue is closed and drained."""
    q = queue_of(url, name, lease)
    report("ready")
    while True:
        try:
            held = q.lease(timeout=WAIT)
        except pressure.QueueClosedError:
            break
        books.touched(held.item)
        with held as item:
            at("working")
            books.delivered(item)
    q.disconnect()


def interrupted_get(url: str, name: str) -> None:
    """Ctrl-C ends a blocked get; the next one gets the right item."""
    q = queue_of(url, name)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    report("blocked")
    try:
        q.get(timeout=WAIT)
    except KeyboardInterrupt:
        report("interrupted")
    report("got", q.get(timeout=WAIT))


def fork_in_mid_get(url: str, name: str) -> None:
    """One thread is blocked in get while another forks; both processes then use the queue."""
    q = queue_of(url, name)
    q.put("before")
    assert q.get() == "before"
    got: list[object] = []
    thread = threading.Thread(target=lambda: got.append(q.get(timeout=WAIT)))
    thread.start()
    time.sleep(0.2)
    pid = os.fork()
    if pid == 0:
        try:
            q.put("from the child")
            report("child", "put")
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    thread.join(WAIT)
    report("parent", got)
    q.put("again")
    report("parent", [q.get(timeout=WAIT)])
