"""A daemon one of whose queues has a key that something else has written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from pressure.executor import RedisExecutor
from pressure.executor.cli import main
from pressure.keys import Keys
from tests.contract import executing as do
from tests.executor.programs import Program
from tests.support.waiting import eventually

WAIT = 30.0
PREFIX = "__pressure__"
ASIDE = "can't be served"
AGAIN = "is served again"


def spoil(client: redis.Redis, key: bytes) -> bytes:
    """Nobody's tasks are waiting, so nothing else is lost. Returns what was there."""
    before = client.dump(key)
    with client.pipeline() as pipe:
        pipe.delete(key)
        pipe.hset(key, "field", "value")
        pipe.execute()
    return before or b""


def keys_of(queue: str) -> Keys:
    return Keys(PREFIX, queue, hash_tag=queue)


def check(name: str, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    with pytest.raises(SystemExit) as ended:
        main(["--check", "--name", name])
    return ended.value.code, capsys.readouterr().out


@pytest.mark.parametrize("attribute", ["base", "generation", "leases"])
def test_the_other_queues_are_served(
    start: Callable[..., Program],
    url: str,
    queue_name: str,
    client: redis.Redis,
    capsys: pytest.CaptureFixture[str],
    attribute: str,
) -> None:
    names = bad, _ = f"{queue_name}-bad", f"{queue_name}-good"
    queues = [word for name in names for word in ("--queue", name)]
    program = start(url, *queues, "--processes", "2", "--lease", "3", "--name", bad)
    key = getattr(keys_of(bad), attribute)
    executors = [RedisExecutor(url=url, queue=name) for name in names]
    try:
        for executor in executors:
            assert executor.submit(do.square, 2).result(WAIT) == 4
        assert eventually(lambda: client.llen(keys_of(bad).base) == 0)
        before = spoil(client, key)
        assert program.says(ASIDE), program.output
        workers = program.children()
        for number in range(30):
            assert executors[1].submit(do.square, number).result(WAIT) == number * number
        assert eventually(lambda: "WRONGTYPE" in check(bad, capsys)[1])
        code, said = check(bad, capsys)
        assert code == 0 and repr(bad) in said and "away" not in said, said
        client.delete(key)
        if before:
            client.restore(key, 0, before)
        assert program.says(AGAIN), program.output
        if attribute != "leases":
            assert executors[0].submit(do.square, 3).result(WAIT) == 9
        assert program.children() == workers
    finally:
        for executor in executors:
            executor.shutdown(wait=False, cancel_futures=True)
    program.process.terminate()
    assert program.wait() == 0, program.output
    assert "died" not in program.output and "is away" not in program.output
    assert program.output.count(ASIDE) == 1
    assert f"queue {bad!r} {ASIDE}" in program.output


def test_what_was_run_is_answered_later(
    start: Callable[..., Program], url: str, queue_name: str, client: redis.Redis, tmp_path: Path
) -> None:
    """The queue is broken while a task runs: its answer waits, and the task doesn't run again."""
    names = bad, good = f"{queue_name}-bad", f"{queue_name}-good"
    queues = [word for name in names for word in ("--queue", name)]
    program = start(url, *queues, "--processes", "1", "--lease", "60")
    with RedisExecutor(url=url, queue=bad) as one, RedisExecutor(url=url, queue=good) as other:
        future = one.submit(do.hold, str(tmp_path), "runs")
        assert eventually((tmp_path / "runs").exists, WAIT)
        key = keys_of(bad).leases
        before = spoil(client, key)
        (tmp_path / "go").touch()
        assert program.says(ASIDE), program.output
        (tmp_path / "runs").unlink()
        assert other.submit(do.square, 3).result(WAIT) == 9
        client.restore(key, 0, before, replace=True)
        assert future.result(WAIT) == "runs"
    assert not (tmp_path / "runs").exists()
    assert "died" not in program.output, program.output


def test_a_single_queue_is_waited_for(
    start: Callable[..., Program],
    url: str,
    queue_name: str,
    client: redis.Redis,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ("--queue", queue_name, "--processes", "2", "--lease", "3", "--name", queue_name)
    program = start(url, *arguments)
    key = keys_of(queue_name).generation
    with RedisExecutor(url=url, queue=queue_name) as executor:
        assert executor.submit(do.square, 2).result(WAIT) == 4
        before = spoil(client, key)
        assert program.says(ASIDE), program.output
        assert eventually(lambda: "WRONGTYPE" in check(queue_name, capsys)[1])
        client.restore(key, 0, before, replace=True)
        assert program.says(AGAIN), program.output
        assert executor.submit(do.square, 3).result(WAIT) == 9
    assert "died" not in program.output, program.output
    assert program.output.count(ASIDE) == 1


def test_a_daemon_starts_beside_a_broken_queue(
    start: Callable[..., Program], url: str, queue_name: str, client: redis.Redis
) -> None:
    names = bad, good = f"{queue_name}-bad", f"{queue_name}-good"
    queues = [word for name in names for word in ("--queue", name)]
    key = keys_of(bad).bound
    spoil(client, key)
    program = start(url, *queues, "--processes", "1")
    with RedisExecutor(url=url, queue=good) as executor:
        assert executor.submit(do.square, 3).result(WAIT) == 9
    assert program.says(ASIDE), program.output
    client.delete(key)
    assert program.says(AGAIN), program.output
    with RedisExecutor(url=url, queue=bad) as executor:
        assert executor.submit(do.square, 3).result(WAIT) == 9
    assert "died" not in program.output, program.output


def test_a_daemon_refuses_to_start_for_broken_queues_alone(
    start: Callable[..., Program], url: str, queue_name: str, client: redis.Redis
) -> None:
    spoil(client, keys_of(queue_name).bound)
    program = start(url, "--queue", queue_name)
    assert program.wait() == 1
    assert "WRONGTYPE" in program.output and "Traceback" not in program.output
