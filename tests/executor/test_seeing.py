"""What can be seen of tasks: ids, who ran them, counts, progress, output."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pressure.executor import ExecutorStats, RedisExecutor
from pressure.executor.worker.capture import MOST_OUTPUT, Captured
from tests.executor.crews import MODES, PATIENCE, executor
from tests.support.servers import ServerProcess

# What runs in workers


def speak(words: str) -> int:
    print(words)
    print("aside", file=sys.stderr)
    logging.getLogger("tests.speak").warning("logged %s", words)
    logging.getLogger("tests.speak").debug("not enabled")
    return os.getpid()


def speak_and_fail() -> None:
    print("before")
    raise ValueError("failed")


async def speak_soon() -> None:
    print("soon")


def speak_a_lot(size: int) -> None:
    print("begin")
    for _ in range(size // 1000):
        print("x" * 999)
    print("end")


def write_bytes() -> None:
    sys.stdout.buffer.write(b"caf\xc3\xa9 \xff\n")
    sys.stdout.flush()
    assert not sys.stdout.isatty()


def speak_from_a_thread() -> None:
    thread = threading.Thread(target=print, args=("in a thread",))
    thread.start()
    thread.join()


def large_and_loud() -> bytes:
    print("loud")
    return b"x" * 1_000_000


def wait_for(path: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not Path(path).exists() and time.monotonic() < deadline:
        time.sleep(0.01)


def fail() -> None:
    raise ValueError


@pytest.fixture(scope="module", params=MODES)
def ex(request: pytest.FixtureRequest, server: ServerProcess) -> Iterator[RedisExecutor]:
    name = f"seeing-{os.urandom(6).hex()}"
    with executor(request.param, server.url, name, 1) as made:
        made.submit(len, "").result(PATIENCE)
        yield made


def test_ids_and_info(ex: RedisExecutor) -> None:
    before = time.time()
    futures = [ex.submit(os.getpid) for _ in range(3)]
    assert len({future.task_id for future in futures}) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", future.task_id) for future in futures)
    pid = futures[-1].result(PATIENCE)
    info = futures[-1].info()
    assert info["worker"] == f"{socket.gethostname()}:{pid}"
    assert before - 1 <= info["started"] <= info["finished"] <= time.time() + 1
    assert info["deliveries"] == 0


def test_stats(server: ServerProcess, queue_name: str, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with executor("daemon", server.url, queue_name, 1) as ex:
        assert dataclasses.is_dataclass(ex.stats())
        running = ex.submit(wait_for, str(gate))
        failing = ex.submit(fail)
        rest = [ex.submit(len, "abc") for _ in range(8)]
        bad = ex.submit(repr, threading.Lock())
        assert bad.exception(PATIENCE) is not None
        deadline = time.monotonic() + PATIENCE
        while not running.running():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert rest.pop().cancel()
        seen = ex.stats()
        assert (seen.pending + seen.queued, seen.running) == (8, 1)
        assert (seen.done, seen.failed, seen.cancelled) == (0, 1, 1)
        assert seen.queue_depth is not None and seen.queue_depth <= 8
        gate.touch()
        assert failing.exception(PATIENCE) is not None
        assert [future.result(PATIENCE) for future in rest] == [3] * 7
        deadline = time.monotonic() + PATIENCE
        while ex.stats().done < 8:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert ex.options(retries=1).stats() == ExecutorStats(
            pending=0,
            queued=0,
            running=0,
            done=8,
            failed=2,
            cancelled=1,
            workers=frozenset([running.info()["worker"]]),
            queue_depth=0,
        )


# Progress


def test_progress(ex: RedisExecutor, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(ex.map(len, ["a", "bc"] * 5, progress=True)) == [1, 2] * 5
    assert "10/10" in capsys.readouterr().err
    assert list(ex.map(len, ["a", "bc"] * 5, progress=True, chunksize=3)) == [1, 2] * 5
    assert "10/10" in capsys.readouterr().err
    endless = ex.map(abs, itertools.count(), progress=True, buffersize=2)
    assert [next(endless) for _ in range(3)] == [0, 1, 2]
    endless.close()  # type: ignore[attr-defined]
    assert list(ex.map(len, ["abc"])) == [3]


def test_progress_without_tqdm(ex: RedisExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "tqdm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match=re.escape("pressure[progress]")):
        ex.map(len, ["a"], progress=True)


# Output


def test_output_is_the_clients_if_it_asks(ex: RedisExecutor) -> None:
    asking = ex.options(capture_output=True)
    future = asking.submit(speak, "hello")
    assert future.output() == "" or future.done()
    assert future.result(PATIENCE) == int(future.info()["worker"].rpartition(":")[2])
    assert future.output() == "hello\naside\nWARNING:tests.speak:logged hello\n"
    quiet = ex.submit(speak, "to the worker's own")
    quiet.result(PATIENCE)
    assert quiet.output() == ""
    assert asking.submit(len, "abc").result(PATIENCE) == 3


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (speak_and_fail, "before\n"),
        (speak_soon, "soon\n"),
        (speak_from_a_thread, "in a thread\n"),
        (write_bytes, "café \ufffd\n"),
        (large_and_loud, "loud\n"),
    ],
)
def test_output_of_all_kinds(ex: RedisExecutor, function: Any, said: str) -> None:
    future = ex.options(capture_output=True).submit(function)
    future.exception(PATIENCE)
    assert future.output() == said


def test_output_is_limited(ex: RedisExecutor) -> None:
    future = ex.options(capture_output=True).submit(speak_a_lot, 5 * MOST_OUTPUT)
    future.result(PATIENCE)
    output = future.output()
    assert output.startswith("begin\n") and output.endswith("end\n")
    assert "bytes left out" in output
    assert len(output) < MOST_OUTPUT + 100


def test_streams_are_put_back(capsys: pytest.CaptureFixture[str]) -> None:
    captured = Captured(speak_and_fail)
    handlers = logging.getLogger().handlers[:]
    with pytest.raises(ValueError):
        captured()
    assert captured.output == b"before\n"
    print("after")
    assert capsys.readouterr().out == "after\n"
    assert logging.getLogger().handlers == handlers
