"""What `pressure-worker --metrics-port` tells Prometheus."""

from __future__ import annotations

import os
import re
import socket
import urllib.request
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from pressure import PressureQueue, RedisExecutor, Settings
from pressure.executor import WorkerLostError
from pressure.executor.measures import BOUNDS, Books, Measured
from pressure.executor.notes import Notes
from tests.executor.programs import PATIENCE, Program, program
from tests.support.servers import ServerProcess
from tests.support.waiting import eventually


class TestMeasures:
    def test_are_read_as_they_were_counted(self) -> None:
        file, writer = Notes.create()
        reader = Notes(file.fileno())
        file.close()
        wanted = [writer.measures.wanted]
        reader.measures.wanted = True
        assert [*wanted, writer.measures.wanted] == [False, True]
        for seconds in (0.0, 0.001, 0.0011, 1.0, 1800.0, 1e6):
            writer.measures.ran(seconds, deliveries=int(seconds == 1.0))
        writer.measures.leases_lost(2)
        measured = reader.measures.read()
        counted = dict(zip((*BOUNDS, None), measured.buckets, strict=True))
        assert {bound: count for bound, count in counted.items() if count} == {
            0.001: 2,
            0.0025: 1,
            1.0: 1,
            1800.0: 1,
            None: 1,
        }
        assert measured.seconds == pytest.approx(1_001_801.0021)
        assert (measured.redelivered, measured.leases_lost) == (1, 2)
        # Nothing else of the notes was touched.
        assert reader.read().task is None and reader.read().done == 0
        writer.close()
        reader.close()

    def test_the_ended_stay_in_the_books(self) -> None:
        books = Books()
        books.close(Measured(seconds=1.5, redelivered=1), 10, 2, died=False)
        books.close(Measured(seconds=0.5), 5, 0, died=True)
        past = books.past
        assert (past.seconds, past.redelivered, past.done, past.failed) == (2.0, 1, 15, 2)
        assert past.deaths == 1

    def test_nothing_falls(self) -> None:
        now, before = Measured(done=5, seconds=3.0), Measured(done=7, seconds=1.0)
        before.buckets[3] = 4
        now.at_least(before)
        assert (now.done, now.seconds, now.buckets[3]) == (7, 3.0, 4)


def metrics(running: Program) -> dict[str, float]:
    """One scrape."""
    found = re.search(r"metrics are served at (http://127\.0\.0\.1:\d+/metrics)", running.output)
    assert found is not None
    with urllib.request.urlopen(found[1], timeout=PATIENCE) as reply:
        lines = reply.read().decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


@pytest.fixture(autouse=True)
def library() -> None:
    pytest.importorskip("prometheus_client")


def test_a_daemon_counts(url: str, queue_name: str) -> None:
    words = ("--queue", queue_name, "--processes", "1", "--max-tasks-per-child", "20")
    label = f'{{queue="{queue_name}"}}'
    with program(url, *words, "--metrics-port", "0") as daemon:
        assert daemon.says("metrics are served at")
        with RedisExecutor(url=url, queue=queue_name) as executor:
            futures = [executor.submit(pow, 2, number) for number in range(50)]
            assert [future.result(PATIENCE) for future in futures][-1] == 2**49
            assert isinstance(executor.submit(int, "x").exception(PATIENCE), ValueError)
            dying: Future[Any] = executor.options(max_deliveries=2).submit(os._exit, 3)
            assert isinstance(dying.exception(PATIENCE), WorkerLostError)

            def all_is_told() -> bool:
                told = metrics(daemon)
                return told["pressure_worker_deaths_total"] == 2

            assert eventually(all_is_told, PATIENCE)
            told = metrics(daemon)
            assert told['pressure_tasks_total{outcome="result"}'] >= 50
            assert told['pressure_tasks_total{outcome="error"}'] >= 1
            assert told['pressure_task_seconds_bucket{le="+Inf"}'] >= 51
            assert told["pressure_task_redeliveries_total"] >= 1
            assert told[f"pressure_queue_dead_letters{label}"] == 1
            assert told[f"pressure_queue_put_total{label}"] == 52
            assert told[f"pressure_queue_bound{label}"] == 10_000
            assert told['pressure_memory_bytes{process="supervisor"}'] > 1e6
            assert told["pressure_leases_lost_total"] == 0

            queue = PressureQueue[bytes](
                queue_name, url=url, settings=Settings(hash_tag=queue_name)
            )
            queue.pause()
            waiting = executor.submit(pow, 1, 1)
            assert eventually(lambda: queue.qsize() == 1, PATIENCE)
            told = metrics(daemon)
            assert told[f"pressure_queue_paused{label}"] == 1
            assert told[f"pressure_queue_items{label}"] == 1
            assert told[f"pressure_queue_oldest_age_seconds{label}"] > 0
            queue.resume()
            assert waiting.result(PATIENCE) == 1
            queue.disconnect()
        daemon.process.terminate()
        assert daemon.wait() == 0


def test_the_server_is_away(fresh_server: ServerProcess) -> None:
    with program(fresh_server.url, "--processes", "1", "--metrics-port", "0") as daemon:
        assert daemon.says("metrics are served at")
        assert metrics(daemon)["pressure_server_up"] == 1
        fresh_server.kill()
        told = metrics(daemon)
        assert told["pressure_server_up"] == 0
        assert 'pressure_memory_bytes{process="workers"}' in told
        fresh_server.restart()
        assert eventually(lambda: metrics(daemon)["pressure_server_up"] == 1, PATIENCE)


def test_a_port_that_is_taken(url: str, queue_name: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
        words = ("--queue", queue_name, "--processes", "1", "--metrics-port", port)
        with program(url, *words) as daemon:
            assert daemon.wait() == 1
    assert f"metrics can't be served at 127.0.0.1:{port}: " in daemon.output
    assert "Traceback" not in daemon.output


def test_without_the_library(url: str, queue_name: str, tmp_path: Path) -> None:
    (tmp_path / "prometheus_client.py").write_text("raise ImportError\n")
    path = os.pathsep.join([str(tmp_path), os.getcwd()])
    words = ("--queue", queue_name, "--processes", "1", "--metrics-port", "0")
    with program(url, *words, env={"PYTHONPATH": path}) as daemon:
        assert daemon.wait() == 1
    assert "--metrics-port needs the Prometheus client: pip install 'pressure[metrics]'" in (
        daemon.output
    )
