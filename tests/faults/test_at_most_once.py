"""A task that may run at most once, whose worker dies when it has run and before that is known."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from pressure.executor import RedisExecutor, WorkerLostError
from pressure.executor.worker import worker

WAIT = 30.0


def die_before_it_is_recorded(path: str) -> int:
    """Leave a trace, end well, and have this worker die on its way to say so."""
    with open(path, "a") as file:
        file.write("run\n")
    vars(worker)["settle"] = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    return 1


def test_a_task_that_has_run_is_not_run_again(tmp_path: Path) -> None:
    path = tmp_path / "runs"
    with RedisExecutor(1) as executor:
        future = executor.options(max_deliveries=1).submit(die_before_it_is_recorded, str(path))
        with pytest.raises(WorkerLostError) as raised:
            future.result(WAIT)
        assert raised.value.deliveries == 1
        # The next worker begins with what is there.
        assert executor.submit(pow, 2, 3).result(WAIT) == 8
    assert path.read_text() == "run\n"
