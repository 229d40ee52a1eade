"""Large answers travel beside the reply queue, and are stored there as soon as they are made."""

from __future__ import annotations

import time
from collections.abc import Callable

from pressure.channel import Channel, Verdict
from pressure.content import Content
from pressure.errors import QueueError, ServerOutOfMemoryError
from pressure.executor.outcomes import broken, say
from pressure.executor.worker.verdicts import verdict
from pressure.retry import Backoff

__all__ = ["seal"]

PATIENCE = 10.0
"""For how long (seconds) an answer is kept for which the server has no memory: others drain it."""
HURRIED = 2.0
"""The same for a worker that was told to stop."""


def seal(
    channel: Channel,
    outcome: Verdict,
    worker: bytes,
    started: float,
    *,
    stopping: Callable[[], bool],
) -> Verdict:
    """Store the answer, and return an outcome that refers to it; or one that says why it can't
    travel. Arguments as for `verdict`."""
    delivery, answer, _ = outcome
    assert isinstance(answer, bytes | Content)
    backoff = Backoff(PATIENCE)
    until: float | None = None
    while True:
        try:
            sealed = channel.seal(delivery.client_id, delivery.id, answer)
            return outcome._replace(answer=sealed)
        except ServerOutOfMemoryError as exc:
            if until is None and stopping():
                until = time.monotonic() + HURRIED
            delay = backoff.delay(until)
            why = say(exc)
        except QueueError as exc:
            delay, why = None, say(exc)
        if delay is None:
            kind, payload = broken(f"the result, {len(answer):,} bytes, cannot travel: {why}")
            return verdict(delivery, kind, payload, worker, started)
        time.sleep(delay)
