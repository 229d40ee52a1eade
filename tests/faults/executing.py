"""What workers and clients do in the fault tests of the executor."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from pressure.address import Address
from pressure.executor import RedisExecutor
from pressure.executor.supervision.supervisor import Plan, Supervisor
from pressure.settings import Settings
from tests.support.child import report

WAIT = 20.0


def serve(url: str, queue: str, processes: int, lease: float, key: str = "") -> None:
    """A daemon."""
    settings = Settings(
        lease=lease,
        reconnect_timeout=60.0,
        signing_keys=(key.encode(),) if key else (),
    )
    plan = Plan(Address.of(url), (queue,), "__pressure__", processes, settings, grace=5.0)
    report("serving")
    Supervisor(plan).run()


# Tasks


def note(path: str, line: str) -> None:
    with open(path, "a") as file:
        file.write(f"{line}\n")


def lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if os.path.exists(path) else []


def square(x: int) -> int:
    return x * x


def pid() -> int:
    return os.getpid()


def die(how: str) -> None:
    """End the worker process."""
    print("last words", file=sys.stderr, flush=True)
    if how == "segfault":
        ctypes.string_at(0)
    elif how.startswith("exit"):
        os._exit(int(how[4:]))
    else:
        os.kill(os.getpid(), signal.SIGKILL)


def die_noted(path: str, how: str) -> None:
    note(path, "run")
    die(how)


def die_once(path: str, result: int) -> int:
    """End the worker process, but for the second time."""
    note(path, "run")
    if len(lines(path)) == 1:
        die("kill")
    return result


def hold_noted(path: str, notes: str, _: bytes = b"") -> str:
    """Note that it runs, and wait until the file is there."""
    note(notes, "run")
    return hold(path, "noted")


def hold(path: str, name: str) -> str:
    """Report that it runs, and wait until the file is there."""
    report(f"running {name}", os.getpid())
    deadline = time.monotonic() + WAIT
    while not os.path.exists(path) and time.monotonic() < deadline:
        time.sleep(0.01)
    return f"{name} {os.getpid()}"


def hang_once(path: str) -> float:
    """Hang, but for the second time say when it was begun (monotonic)."""
    began = time.monotonic()
    note(path, str(os.getpid()))
    if len(lines(path)) == 1:
        time.sleep(2 * WAIT)
    return began


def stand_still_once(path: str) -> str:
    """Stop the worker process; the second time return at once."""
    note(path, str(os.getpid()))
    if len(lines(path)) > 1:
        return "again"
    os.kill(os.getpid(), signal.SIGSTOP)
    note(path, "late")
    return "late"


def hold_the_interpreter(path: str) -> str:
    """Run in C for ever, holding the interpreter lock; the second time return at once."""
    note(path, "run")
    if len(lines(path)) > 1:
        return "again"
    report("running", os.getpid())
    return str(sum(range(10**15)))


class DiesWhenUnpickled:
    def __reduce__(self) -> Any:
        return die, ("exit7",)


class FailsWhenUnpickled:
    def __reduce__(self) -> Any:
        return fail, ("it does not unpickle",)


class DiesWhenPickled:
    def __getstate__(self) -> Any:
        die("exit8")


def fail(text: str) -> None:
    raise ValueError(text)


def returns(kind: str) -> Any:
    return {"dies": DiesWhenPickled, "fails": FailsWhenUnpickled}[kind]()


# Clients


def submit_and_report(url: str, queue: str, path: str, count: int, ttl: float) -> None:
    """Submit tasks that note themselves, and one large function; then wait."""
    large = "x" * 5000
    with RedisExecutor(url=url, queue=queue, settings=Settings(ttl=ttl, lease=1.0)) as executor:
        for index in range(count):
            executor.submit(note, path, str(index))
        executor.submit(lambda: large)
        deadline = time.monotonic() + WAIT
        while executor._engine.dispatcher.ledger.sending and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        report("submitted")
        time.sleep(WAIT)


def get_one(url: str, queue: str, ttl: float) -> None:
    """Get a result, whose acknowledgement then waits for company; report the reply queue's name."""
    with RedisExecutor(url=url, queue=queue, settings=Settings(ttl=ttl)) as executor:
        executor.submit(square, 3).result(WAIT)
        executor.submit(square, 4).result(WAIT)
        report("got", executor._engine.dispatcher._reply.name)
        time.sleep(WAIT)


def sum_squares(url: str, queue: str, count: int, ttl: float) -> None:
    """Submit tasks, and report the sum of their results."""
    settings = Settings(ttl=ttl, reconnect_timeout=WAIT)
    with RedisExecutor(url=url, queue=queue, settings=settings) as executor:
        futures = [executor.submit(square, x) for x in range(count)]
        ledger = executor._engine.dispatcher.ledger
        deadline = time.monotonic() + WAIT
        while (len(ledger.sent) < count or ledger.sending) and time.monotonic() < deadline:
            time.sleep(0.01)
        report("submitted")
        report("sum", sum(future.result(WAIT) for future in futures))


def run_locally(method: str, path: str) -> None:
    """Have local workers run something that never ends."""
    import multiprocessing

    context = multiprocessing.get_context(method)
    executor = RedisExecutor(2, mp_context=context)
    executor.submit(hold_the_interpreter, path)
    executor.submit(time.sleep, WAIT)
    deadline = time.monotonic() + WAIT
    while not lines(path) and time.monotonic() < deadline:
        time.sleep(0.01)
    report("running")
    time.sleep(WAIT)
