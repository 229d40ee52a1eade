"""The parts of the daemon that need no server: sizes, orders, health, the log."""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import click
import pytest
from click.testing import CliRunner

from pressure import checks
from pressure.address import Address
from pressure.credentials import read_key_file, resolve_keys
from pressure.executor.cli import main
from pressure.executor.notes import Notes
from pressure.executor.orders import Order, OrderKind, pack_order, read_order
from pressure.executor.supervision import health
from pressure.executor.supervision.health import HealthFile, check_health, judge
from pressure.executor.supervision.logs import JsonFormatter
from pressure.executor.supervision.member import Member
from pressure.executor.supervision.memory import parse_size, rss, shown_size
from pressure.executor.supervision.preload import PreloadError, preload
from pressure.keys import DEFAULT_PREFIX, resolve_prefix
from pressure.seconds import Seconds
from pressure.settings import Settings


@pytest.mark.parametrize(
    "text, size",
    [
        ("500M", 500 * 1024**2),
        ("1.5 GiB", 1536 * 1024**2),
        ("2g", 2 * 1024**3),
        ("4096", 4096),
        ("7kB", 7 * 1024),
        (" 1T ", 1024**4),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "0.0001", "-5M", "many", "5X", "5 M B", "1e9", "nan"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="write 500M"):
        parse_size(text)


def test_sizes_for_people() -> None:
    assert [shown_size(size) for size in (512, 2048, 500 * 1024**2, 3 * 1024**3)] == [
        "512 bytes",
        "2 KiB",
        "500 MiB",
        "3.0 GiB",
    ]


def test_the_memory_of_a_process() -> None:
    size = rss(os.getpid())
    assert size is not None
    assert 2**20 < size < 2**36
    assert rss(2**22 + 1) is None


@pytest.mark.parametrize("kind", OrderKind)
@pytest.mark.parametrize("grace", [None, 0.0, 2.5])
def test_orders(kind: OrderKind, grace: float | None) -> None:
    order = Order(kind, b"c" * 16, grace)
    assert read_order(pack_order(order)) == order


@pytest.mark.parametrize("body", [b"", b"x" * 23, b"x" * 26, b"x" * 24 + b"\xff"])
def test_what_is_no_order(body: bytes) -> None:
    with pytest.raises(ValueError):
        read_order(body)


def test_an_order_to_end_a_task_has_the_published_layout() -> None:
    body = pack_order(Order(OrderKind.TERMINATE, b"c" * 16, 1.0))
    assert len(body) == 24
    assert math.isclose(read_order(body).grace or 0.0, 1.0)


# Health


@dataclass
class _Worker:
    """What `judge` looks at."""

    pid: int
    started: float
    notes: Notes


@pytest.fixture
def worker() -> Iterator[_Worker]:
    file, notes = Notes.create()
    yield _Worker(7, time.monotonic(), notes)
    notes.close()
    file.close()


def judged(worker: _Worker, away_since: float | None = None) -> tuple[bool, str]:
    return judge([cast(Member, worker)], away_since)


def test_a_daemon_that_starts_is_not_well_yet(worker: _Worker) -> None:
    well, text = judged(worker)
    assert not well
    assert "yet" in text


def test_a_worker_that_looks_for_tasks_is_well(worker: _Worker) -> None:
    worker.started -= 1000
    worker.notes.looped(time.monotonic() - 5)
    assert judged(worker)[0]


def test_a_worker_that_stands_still_is_not(worker: _Worker) -> None:
    worker.started -= 1000
    worker.notes.looped(time.monotonic() - 100)
    well, text = judged(worker, away_since=time.monotonic() - 90)
    assert not well
    assert "worker 7 has not looked for tasks for 100 s" in text
    assert "the server has been away for 90 s" in text


def test_a_worker_that_never_looked_is_not(worker: _Worker) -> None:
    worker.started -= 1000
    assert not judged(worker)[0]


def test_a_worker_whose_task_takes_long_is_well(worker: _Worker) -> None:
    worker.started -= 1000
    worker.notes.looped(time.monotonic() - 500)
    worker.notes.running(b"t" * 16, b"c" * 16, time.monotonic() - 500, 0)
    assert judged(worker)[0]


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"pressure-worker-{os.getuid()}"


def test_a_silent_supervisor_is_not_well(
    directory: Path, worker: _Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = HealthFile("name")
    worker.notes.looped(time.monotonic())
    file.write([cast(Member, worker)], None)
    assert _checked_elsewhere(None) == [True]
    monkeypatch.setattr(health, "STANDSTILL", -1.0)
    assert _checked_elsewhere(None) == [False]
    file.close()
    assert not list(directory.iterdir())


def _checked_elsewhere(name: str | None) -> list[bool]:
    """The verdict of another process: a lock doesn't bind the one that holds it."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, json.dumps(check_health(name)).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        verdict: Any = json.load(pipe)
    os.waitpid(child, 0)
    return [verdict[0]]


def test_another_users_directory_is_not_believed(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    directory.symlink_to(tmp_path / "theirs")
    well, (sentence,) = check_health(None)
    assert not well
    assert "another user" in sentence


def test_no_place_for_the_file_is_no_reason_not_to_work(
    directory: Path, worker: _Worker, caplog: pytest.LogCaptureFixture
) -> None:
    directory.write_text("in the way")
    file = HealthFile("name")
    file.write([cast(Member, worker)], None)
    file.close()
    assert "health checks will not find this daemon" in caplog.text


# What is looked at first


@pytest.mark.parametrize(
    "info, refused",
    [
        ({"redis_version": "6.2.14"}, True),
        ({"redis_version": "7.0.0"}, False),
        ({"redis_version": "10.1.2"}, False),
        ({"redis_version": "7.2.4", "valkey_version": "8.0.1", "server_name": "valkey"}, False),
        ({}, False),
    ],
)
def test_versions(info: dict[str, str], refused: bool) -> None:
    found = checks._check_version(Address.of("redis://localhost"), info)
    assert [finding.severity for finding in found] == [checks.Severity.REFUSAL] * refused
    assert all("or later" in str(finding) for finding in found)


def test_a_key_is_needed_where_others_can_write() -> None:
    distant, near = Address.of("redis://192.0.2.1"), Address.of("redis://127.0.0.1")
    assert [str(finding) for finding in checks.check_key(distant, [])] == [
        "the server at 192.0.2.1:6379 can be reached by other machines, and whoever can write to "
        "it could run code here: give a key (--key-file or PRESSURE_KEY), or --insecure"
    ]
    assert not checks.check_key(distant, [b"k" * 16])
    assert not checks.check_key(near, [])


def test_a_short_key_is_warned_of() -> None:
    (finding,) = checks.check_key(Address.of("redis://127.0.0.1"), [b"k" * 16, b"sekret"])
    assert finding.severity is checks.Severity.WARNING
    assert "can be guessed" in finding.sentence
    assert "sekret" not in str(finding)


def test_the_keys_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRESSURE_KEY", "another")
    path = tmp_path / "key"
    path.write_text("first\n\nsecond\n")
    keys = read_key_file(path)
    settings = resolve_keys(Settings(), keys, Address.of("redis://127.0.0.1"))
    assert settings.signing_keys == (b"first", b"second")
    for content, said in ((b" \n", "holds no key"), (b"sekret\xff", "is no text")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=said) as caught:
            read_key_file(path)
        assert str(path) in str(caught.value)
        assert "kret" not in str(caught.value) and "ff" not in str(caught.value)
    with pytest.raises(ValueError, match="empty"):
        resolve_keys(Settings(), [], Address.of("redis://127.0.0.1"))


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e300", "0.4", "soon"])
def test_what_is_no_number_of_seconds(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Seconds(min=0.5).convert(text, None, None)
    assert Seconds(min=0.5).convert("1.5", None, None) == 1.5


@pytest.mark.parametrize("name", ["", ".relative"])
def test_what_is_no_module(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(PreloadError, match="no name of a module"):
        preload([name])
    assert not caplog.records


def test_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRESSURE_PREFIX", raising=False)
    assert resolve_prefix(None) == DEFAULT_PREFIX
    monkeypatch.setenv("PRESSURE_PREFIX", "ours")
    assert resolve_prefix(None) == "ours"
    assert resolve_prefix("given") == "given"
    monkeypatch.setenv("PRESSURE_PREFIX", "")
    assert resolve_prefix(None) == DEFAULT_PREFIX


def test_json_lines_have_the_exception() -> None:
    try:
        raise ValueError("why\nnot")
    except ValueError as exc:
        record = logging.LogRecord(
            "a.b", logging.ERROR, "path", 1, "it %s", ("failed",), (ValueError, exc, None)
        )
    line = JsonFormatter().format(record)
    assert "\n" not in line
    said = json.loads(line)
    assert (said["logger"], said["level"], said["message"]) == ("a.b", "ERROR", "it failed")
    assert said["exception"] == "ValueError: why\nnot"


@pytest.mark.parametrize("name", ["x" * 101, "two\nlines", "\x1b[2J"])
def test_a_name_can_be_shown(name: str) -> None:
    run = CliRunner().invoke(main, ["--name", name])
    assert run.exit_code == 2
    assert "up to 100 printable characters" in run.output
