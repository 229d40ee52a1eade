"""Signals whose handlers raise while a reply is being read: the next reply is the right one."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pressure
import pressure.link
import pressure.multiprocessing as mp
from pressure import recovering, taking
from pressure.address import Address
from pressure.channel.producing import Producer
from pressure.commands import Command
from pressure.executor import RedisExecutor
from pressure.executor.client.ledger import Ledger
from pressure.link import Link
from pressure.wire import wired
from tests.faults import executing, interrupted
from tests.support.account import Account
from tests.support.processes import Child
from tests.support.waiting import eventually

PATIENCE = 20.0


@pytest.mark.parametrize("interface", ["queue", "shim", "executor"])
def test_signals_in_mid_reply(
    interface: str,
    url: str,
    queue_name: str,
    account: Account,
    spawn_child: Callable[..., Child],
) -> None:
    if interface == "executor":
        spawn_child(executing.serve, url, queue_name, 1, 15.0).wait_for("serving")
    main = {
        "queue": interrupted.queue_interrupted,
        "shim": interrupted.shim_interrupted,
        "executor": interrupted.executor_interrupted,
    }[interface]
    child = spawn_child(main, url, queue_name, account)
    assert child.wait_for("interruptions", 40.0) > 0
    assert child.wait() == 0
    assert account.check(at_least=10).duplicates == 0


def test_a_reply_that_nobody_has_read_is_not_taken_for_the_next_one(url: str) -> None:
    """As when a second signal comes while the connection is being given up for the first."""
    link = Link(Address.of(url))
    link.send(Command(("PING", "first")))
    assert link.execute(Command(("PING", "second"))) == b"second"
    link.send_all([Command(("PING", "third")), Command(("ECHO", "fourth"))])
    assert link.receive() == b"third"
    assert link.execute(Command(("PING", "fifth"))) == b"fifth"
    link.close()


def test_a_connection_leaves_nothing_to_the_garbage_collector(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the midst of which Python drops a Ctrl-C, in the first `__del__` that it calls."""
    made: list[weakref.ref[Any]] = []

    def watched(connection: Any) -> Any:
        made.extend((weakref.ref(connection), weakref.ref(connection._parser)))
        return wired(connection)

    monkeypatch.setattr(pressure.link, "wired", watched)
    gc.disable()
    try:
        link = Link(Address.of(url))
        assert link.execute(Command(("PING", "first"))) == b"first"
        link.close()
        del link
        assert [one() for one in made] == [None, None]
    finally:
        gc.enable()


class CutShortAtItem:
    """A serializer under which Ctrl-C comes while the `at`-th item is read."""

    def __init__(self, at: int) -> None:
        self.at = at

    def dumps(self, obj: int) -> bytes:
        return b"%d" % obj

    def loads(self, body: bytes) -> int:
        self.at -= 1
        if self.at == 0:
            raise KeyboardInterrupt
        return int(body)


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("at", [1, 2, 5])
def test_get_many_cut_short_loses_no_item(at: int, before: int, url: str, queue_name: str) -> None:
    q: pressure.PressureQueue[int] = pressure.PressureQueue(
        queue_name, url=url, codec=CutShortAtItem(before + at)
    )
    q.create()
    q.put_many(range(8))
    got = [q.get() for _ in range(before)]
    with pytest.raises(KeyboardInterrupt):
        q.get_many(6)
    while len(got) < 8:
        got += q.get_many(8, timeout=20.0)
    assert sorted(got) == list(range(8))
    q.delete()
    q.disconnect()


def test_an_adoption_that_was_cut_short_is_found(url: str, queue_name: str) -> None:
    """At once, and not when a lease is over."""
    q: pressure.PressureQueue[int] = pressure.PressureQueue(queue_name, url=url)
    q.create()
    q.put(1)
    handle = q._handle
    session = handle.acquire()
    for flow in (taking.take(q._core, session, 1, 0.0), recovering.adopt(q._core, session)):
        # Carried out, but the caller doesn't hear of it.
        request = next(flow)
        assert isinstance(request, Command)
        session.link.execute(request)
        flow.close()
    session.stale = True
    handle.release(session)
    assert q.get(timeout=5.0) == 1
    q.delete()
    q.disconnect()


class CutShortOnce:
    """Called in place of something, it is interrupted the first time."""

    def __init__(self, original: Callable[..., object], *, after: bool) -> None:
        self.original, self.after, self.done = original, after, False

    def __call__(self, *args: object) -> object:
        if self.done:
            return self.original(*args)
        self.done = True
        if self.after:
            self.original(*args)
        raise KeyboardInterrupt


@pytest.mark.parametrize("part, after", [("_pool_of", False), ("keep_up", True)])
@pytest.mark.parametrize("how", ["get", "lease", "shim", "shim waits"])
def test_a_get_that_is_cut_short_at_its_very_end_loses_no_item(
    how: str, part: str, after: bool, url: str, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The item is there, and the session that took it is just being returned."""
    q: pressure.PressureQueue[int] = pressure.PressureQueue(queue_name, url=url)
    q.create()
    shim: mp.Queue[int] = mp.Queue(name=queue_name, url=url)
    remote = shim._remote
    q.put(1)
    takes: dict[str, Callable[[], object]] = {"get": q.get, "lease": q.lease}
    take = takes.get(how, shim.get)
    handle = q._handle if how in ("get", "lease") else remote.handle
    if how == "shim waits":
        for _ in range(2):
            # The second one waits as the third will.
            assert shim.get() == 1
            q.put(1)
            remote._expects_to_wait = True
    handle.flush_idle()
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(handle, part, CutShortOnce(getattr(handle, part), after=after))
        take()
    assert (q.get if how in ("get", "lease") else shim.get)(timeout=10.0) == 1
    shim.close()
    q.delete()
    q.disconnect()


def mark(path: str) -> int:
    with open(path, "a") as file:
        file.write("ran\n")
    time.sleep(0.1)
    return 1


@pytest.mark.parametrize("step", ["add_early", "begin", "conclude"])
def test_a_submit_that_is_cut_short_leaves_nothing_undone(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C as a step of sending a lone task returns: what was sent runs once, nobody waits."""
    owner: Any = Ledger if step == "add_early" else Producer
    original = getattr(owner, step)
    armed = False

    def interrupted_step(*args: Any, **options: Any) -> Any:
        nonlocal armed
        result = original(*args, **options)
        if armed and result and threading.current_thread() is threading.main_thread():
            armed = False
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(owner, step, interrupted_step)
    path = str(tmp_path / "runs")
    with RedisExecutor(2) as executor:
        once = executor.options(max_deliveries=1)
        assert executor.submit(pow, 2, 3).result(PATIENCE) == 8
        dispatcher = executor._engine.dispatcher
        ledger, link = dispatcher.ledger, dispatcher._sender.producer._session.link
        for _ in range(4):
            assert eventually(lambda: ledger.idle and not ledger.tasks, PATIENCE)
            if step == "conclude":
                first = once.submit(mark, path)
                assert link.wait(time.monotonic() + PATIENCE)
                armed = True
                with contextlib.suppress(KeyboardInterrupt):
                    executor.submit(pow, 2, 4)
                armed = False
                assert first.result(PATIENCE) == 1
            else:
                armed = True
                with contextlib.suppress(KeyboardInterrupt):
                    once.submit(mark, path)
                armed = False
        assert executor.submit(pow, 2, 5).result(PATIENCE) == 32
        assert eventually(lambda: not ledger.tasks, PATIENCE)
    assert len(Path(path).read_text().split()) <= 4
