"""Running daemons, and an executor that they work for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pressure.executor import RedisExecutor
from tests.executor.programs import Program, program


@pytest.fixture
def start() -> Iterator[Callable[..., Program]]:
    """Starts `pressure-worker`s with these arguments, which are killed in the end."""
    with contextlib.ExitStack() as stack:

        def start_one(*arguments: str, **options: Any) -> Program:
            return stack.enter_context(program(*arguments, **options))

        yield start_one


@pytest.fixture
def serve(start: Callable[..., Program], url: str, queue_name: str) -> Callable[..., Program]:
    """Starts one for the test's queue, and waits until it serves that."""

    def serve_queue(*arguments: str, **options: Any) -> Program:
        running = start(url, "--queue", queue_name, *arguments, **options)
        assert running.says("processes serve queue"), running.output
        return running

    return serve_queue


@pytest.fixture
def executor(url: str, queue_name: str) -> Iterator[RedisExecutor]:
    """A client of the daemons."""
    executor = RedisExecutor(url=url, queue=queue_name)
    yield executor
    executor.shutdown(wait=False, cancel_futures=True)
