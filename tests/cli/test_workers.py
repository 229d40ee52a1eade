"""`pressure worker`: what daemons say of themselves, and the orders that they obey."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pressure import RedisExecutor
from tests.cli.conftest import LIMIT, Program, Run
from tests.support.waiting import eventually

KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def daemon(program: Program, queue_name: str, run: Run, tmp_path: Path) -> Iterator[str]:
    """A daemon with two processes, which signs; gives its name."""
    key = tmp_path / "key"
    key.write_text(KEY)
    argv = (sys.executable, "-c", "from pressure.executor.cli import main; main()")
    words = ("--queue", queue_name, "--processes", "2", "--key-file", str(key), "--name", "anna")
    process = program(*words, argv=argv)
    assert eventually(lambda: len(run("worker", "list", "--json").json()) == 2, LIMIT)
    yield "anna"
    process.terminate()
    with contextlib.suppress(ValueError):
        process.communicate(timeout=LIMIT)


def test_nobody_is_there(run: Run, queue_name: str) -> None:
    assert run("worker", "list").text.startswith("No pressure-worker serves a queue")
    assert run("worker", "list", "--json").json() == []
    assert run("worker", "ping") == (1, "no pressure-worker is there\n")
    assert run("worker", "stop").code == 2
    for order in ("ping", "stop"):
        ran = run("worker", order, "bert")
        assert ran.code == 1 and ran.text.startswith("pressure: there is no daemon 'bert'")


def test_list_ping_and_stop(
    run: Run, daemon: str, url: str, namespace: str, queue_name: str
) -> None:
    records = run("worker", "list", "--json").json()
    assert {record["name"] for record in records} == {daemon}
    assert {record["state"] for record in records} <= {"starting", "idle"}
    with RedisExecutor(url=url, queue=queue_name, prefix=namespace, key=KEY) as executor:
        future = executor.submit(time.sleep, LIMIT)
        assert eventually(lambda: " busy " in run("worker", "list").text, LIMIT)
        (busy,) = [r for r in run("worker", "list", "--json").json() if r["state"] == "busy"]
        assert busy["task"]["queue"] == queue_name and busy["memory"] > 1_000_000
        assert f"..{future.task_id[-6:]} " in run("worker", "list").text
        said = run("info", "--json").json()
        assert len(said["workers"]) == 2 and said["queues"][0]["workers"] == 2
        assert len(said["clients"]) == 1, "a daemon is no client"
        assert f"  {daemon}  " in run("info").text

        signed = {"PRESSURE_KEY": KEY}
        assert f"{daemon} is there: " in run("worker", "ping", **signed).text
        unheard = run("worker", "ping", daemon, "--timeout", "0.1")
        assert unheard.code == 3 and "(it hangs, or has another key)" in unheard.text
        assert "the workers don't accept this key" in run("doctor", PRESSURE_KEY="x" * 32).text
        assert "ok       workers      all " in run("doctor", **signed).text
        stopped = run("worker", "stop", busy["id"][:8], "--grace", "0", **signed)
        assert stopped.code == 0 and f"{daemon} stops: " in stopped.text
        assert eventually(lambda: run("worker", "list", "--json").json() == [], LIMIT)
        assert future.cancel() or not future.done()
        executor.shutdown(wait=False, cancel_futures=True)
