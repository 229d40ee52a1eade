"""What a worker says became of a task: an answer for its client, and whether it is buried."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from pressure.channel import Delivery, Verdict
from pressure.core import reason
from pressure.executor.payloads import Packed
from pressure.executor.records import Kind, pack_answer

__all__ = ["not_to_run", "refused", "verdict"]

# Quicker than the class itself, for what is made for each task.
_verdict: Callable[[tuple[Any, ...]], Verdict] = partial(tuple.__new__, Verdict)


def verdict(
    delivery: Delivery,
    kind: Kind,
    payload: bytes | Packed,
    worker: bytes,
    started: float = 0.0,
    output: bytes = b"",
) -> Verdict:
    """The outcome of a task that the worker of this name has run since `started`."""
    body = pack_answer(
        kind,
        payload,
        worker=worker,
        deliveries=delivery.deliveries,
        started=started,
        finished=time.time(),
        output=output,
    )
    return _verdict((delivery, body, ""))


def refused(delivery: Delivery, why: str, worker: bytes) -> Verdict:
    """For a task that cannot be read; it goes to the dead letters."""
    answered = verdict(delivery, Kind.UNREADABLE, why.encode(), worker)
    if not delivery.client_id:
        answered = answered._replace(answer=None)
    kind = "signature" if delivery.refused else "unreadable"
    return answered._replace(dead_letter=reason(kind, why))


def not_to_run(delivery: Delivery, here: bytes, worker: bytes) -> Verdict | None:
    """For a task that must not be run; None for all others. `here` is where it was claimed."""
    if delivery.error:
        return refused(delivery, delivery.error, worker)
    if 0 < delivery.max_deliveries <= delivery.deliveries:
        return _lost(delivery, worker)
    if delivery.is_elsewhere(here):
        return _doubtful(delivery, worker)
    return None


def _doubtful(delivery: Delivery, worker: bytes) -> Verdict:
    """For a task that may run at most once, and may have been begun at a server whose data is not
    all here; it is buried, too."""
    answered = verdict(delivery, Kind.DOUBTFUL, b"", worker)
    why = "it may have been begun before the server was another, or lost what it knew of that"
    return answered._replace(dead_letter=reason("doubtful", why))


def _lost(delivery: Delivery, worker: bytes) -> Verdict:
    """For a task whose workers died as often as it may be delivered; it is buried, too."""
    answered = verdict(delivery, Kind.LOST, b"", worker)
    why = f"{delivery.deliveries} workers died while they ran it"
    return answered._replace(dead_letter=reason("worker_lost", why))
