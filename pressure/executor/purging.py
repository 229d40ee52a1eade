"""Drops the tasks that wait in a queue, so that their futures hear of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pressure.channel import Channel
from pressure.channel.backlog import Waiting, newest_waiting
from pressure.errors import PressureError
from pressure.executor.errors import TaskLostError
from pressure.executor.outcomes import pack_exception
from pressure.executor.records import pack_answer
from pressure.signing import key_id_of

__all__ = ["end_waiting_tasks"]

BATCH = 200


def end_waiting_tasks(channel: Channel, limit: int) -> int:
    """Drop up to `limit` tasks that nobody has taken, the newest first; returns how many there
    were. Their futures get a `TaskLostError`. (One that a worker takes in the same moment runs for
    nothing.)

    The future is told before its task is dropped, so nobody waits for ever if this is interrupted.
    What it is told is signed with the key that has signed the task. Raises `PressureError`
    if that is not there; then nothing was dropped, unless such tasks came meanwhile.
    """
    signers = _signers(channel)
    try:
        for skip in range(0, limit, BATCH):
            _check_keys(channel, signers, newest_waiting(channel, min(BATCH, limit - skip), skip))
        return _end(channel, signers, limit)
    finally:
        for signer in signers.values():
            if signer is not channel:
                signer.disconnect()


def _signers(channel: Channel) -> dict[bytes, Channel]:
    """What answers are sent through, by the id of the key that signs them (empty: none does)."""
    settings = channel.core.settings
    if not settings.signing_keys:
        return {b"": channel}
    first, *others = settings.signing_keys
    address, tag, prefix = channel.handle.address, channel.tag, channel.prefix
    return {
        key_id_of(key): Channel(
            channel.name,
            address,
            tag=tag,
            prefix=prefix,
            settings=replace(settings, signing_keys=(key,)),
        )
        for key in others
    } | {key_id_of(first): channel}


def _end(channel: Channel, signers: Mapping[bytes, Channel], limit: int) -> int:
    error = TaskLostError(f"the task was dropped: somebody has purged the queue {channel.name!r}")
    kind, payload = pack_exception(error)
    now = time.time()
    body = pack_answer(kind, payload, worker=b"nobody", deliveries=0, started=now, finished=now)
    dropped = 0
    while dropped < limit:
        waiting = newest_waiting(channel, min(BATCH, limit - dropped))
        _check_keys(channel, signers, waiting)
        for task in waiting:
            if task.client_id:
                signers[task.key_id].notify(task.client_id, task.id, body)
        withdrawn = sum(channel.withdraw([task.id for task in waiting])) if waiting else 0
        if not withdrawn:
            break
        dropped += withdrawn
    return dropped


def _check_keys(
    channel: Channel, signers: Mapping[bytes, Channel], waiting: Sequence[Waiting]
) -> None:
    for task in waiting:
        if not task.client_id or task.key_id in signers:
            continue
        how = f"signed with key {task.key_id.hex()}" if task.key_id else "not signed"
        remedy = "give their key" if task.key_id else "give none"
        raise PressureError(
            f"the tasks in queue {channel.name!r} are {how}, and so must be what their clients are "
            f"told: {remedy} (--key-file, PRESSURE_KEY)"
        )
