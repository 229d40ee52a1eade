"""Drops the tasks that wait in a queue, so that their futures hear of it."""

from __future__ import annotations

import time

from pressure.backlog import Waiting, newest_waiting
from pressure.channel import Channel
from pressure.errors import PressureError
from pressure.executor.errors import TaskLostError
from pressure.executor.outcomes import pack_exception
from pressure.executor.records import pack_answer

__all__ = ["end_waiting_tasks"]

BATCH = 200


def end_waiting_tasks(channel: Channel, limit: int) -> int:
    """Drop up to `limit` tasks that nobody has taken, the newest first; returns how many there
    were. Their futures get a `TaskLostError`. (One that a worker takes in the same moment runs for
    nothing.)

    The future is told before its task is dropped, so nobody waits for ever if this is interrupted.
    Raises `PressureError` if the answers could not be signed as the tasks are.
    """
    error = TaskLostError(f"the task was dropped: somebody has purged the queue {channel.name!r}")
    kind, payload = pack_exception(error)
    now = time.time()
    body = pack_answer(kind, payload, worker=b"nobody", deliveries=0, started=now, finished=now)
    dropped = 0
    while dropped < limit:
        waiting = newest_waiting(channel, min(BATCH, limit - dropped))
        for task in waiting:
            _check_key(channel, task)
            if task.client_id:
                channel.notify(task.client_id, task.id, body)
        withdrawn = sum(channel.withdraw([task.id for task in waiting])) if waiting else 0
        if not withdrawn:
            break
        dropped += withdrawn
    return dropped


def _check_key(channel: Channel, task: Waiting) -> None:
    if task.client_id and task.signed != bool(channel.core.settings.signing_keys):
        how = "signed" if task.signed else "not signed"
        remedy = "give their key" if task.signed else "give none"
        raise PressureError(
            f"the tasks in queue {channel.name!r} are {how}, and so must be what their clients are "
            f"told: {remedy} (--key-file, PRESSURE_KEY)"
        )
