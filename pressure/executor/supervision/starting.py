"""How a worker process is started, so that whatever happens none is left that nobody knows."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from typing import Any

from pressure.executor.notes import Notes
from pressure.executor.post import Post
from pressure.executor.supervision.logs import Sink
from pressure.executor.supervision.member import Member
from pressure.executor.worker.heirs import HANDLED

__all__ = ["start_worker"]


def start_worker(
    context: Any,
    target: Callable[[Post], None],
    post: Callable[[Any, Any], Post],
    sink: Sink,
    register: Callable[[Member], None],
    *,
    supervisor: bytes,
    measured: bool,
) -> None:
    """Start a process of this context that runs `target` with what `post` makes of the file of its
    notes and of its stderr. `register` is told of it, also if this is cut short."""
    _start_helpers(context.get_start_method())
    # The child unblocks them when it has handlers of its own.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    try:
        file, notes = Notes.create()
        notes.supervisor = supervisor
        notes.measures.wanted = measured
        read, write = os.pipe()
        # In this form it can be given to a process in whichever way that is started.
        writer = Connection(write, readable=False)
        process = member = None
        try:
            process = context.Process(target=target, args=(post(file, writer),))
            process.start()
            member = Member(process, notes, time.monotonic(), read, sink)
            register(member)
        except BaseException:
            if process is not None and process.pid is not None:
                # It was Ctrl-C: blocked here, but perhaps not in another thread.
                register(member or Member(process, notes, time.monotonic(), read, sink))
            else:
                os.close(read)
                notes.close()
            raise
        finally:
            writer.close()
            file.close()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _start_helpers(method: str) -> None:
    """Have the processes that `multiprocessing` starts with the first one of its own: they live
    for as long as the program, and would have the signals blocked that are now."""
    if method != "fork":
        resource_tracker.ensure_running()
    if method == "forkserver":
        forkserver.ensure_running()
