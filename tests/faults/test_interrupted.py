"""Signals whose handlers raise while a reply is being read: the next reply is the right one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import pressure
from pressure import flows, recovering
from pressure.address import Address
from pressure.commands import Command
from pressure.link import Link
from tests.faults import executing, interrupted
from tests.support.account import Account
from tests.support.processes import Child


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
    link.send(Command(("ECHO", "first")))
    assert link.execute(Command(("ECHO", "second"))) == b"second"
    link.send_all([Command(("ECHO", "third")), Command(("ECHO", "fourth"))])
    assert link.receive() == b"third"
    assert link.execute(Command(("ECHO", "fifth"))) == b"fifth"
    link.close()


def test_an_adoption_that_was_cut_short_is_found(url: str, queue_name: str) -> None:
    """At once, and not when a lease is over."""
    q: pressure.PressureQueue[int] = pressure.PressureQueue(queue_name, url=url)
    q.create()
    q.put(1)
    handle = q._handle
    session = handle.acquire()
    for flow in (flows.take(q._core, session, 1, 0.0), recovering.adopt(q._core, session)):
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
