"""`pressure put` and `pressure get` in pipelines: lines, ends, signals, exit codes."""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path
from typing import IO

import pytest
import redis
from click.testing import CliRunner

from pressure import PressureQueue, QueueFullError, Settings
from pressure.cli import program
from tests.cli.conftest import LIMIT, Program, finish
from tests.support.published import PublishedClient
from tests.support.waiting import eventually

Queue = PressureQueue[bytes]


def stream(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def await_blocked(client: redis.Redis, command: str = "blmove") -> None:
    def is_blocked() -> bool:
        return any("b" in each["flags"] and each["cmd"] == command for each in client.client_list())

    assert eventually(is_blocked, LIMIT)


class TestLines:
    @pytest.mark.parametrize(
        ("text", "items"),
        [
            (b"", []),
            (b"a\nb\n", [b"a", b"b"]),
            (b"a\nb", [b"a", b"b"]),
            (b"\n\na\n", [b"", b"", b"a"]),
            (b"a\r\nb\r\n", [b"a\r", b"b\r"]),
            (b"\0\xff\xfe\n\xc3\n", [b"\0\xff\xfe", b"\xc3"]),
            (b"x" * 3_000_000 + b"\ny\n", [b"x" * 3_000_000, b"y"]),
        ],
        ids=["none", "two", "unended", "empty", "crlf", "binary", "long"],
    )
    def test_become_items_and_lines_again(
        self, program: Program, queue: Queue, text: bytes, items: list[bytes]
    ) -> None:
        put = program("put", queue.name, "--bound", "10")
        assert finish(put, text) == (0, b"", "")
        assert queue.closed()
        assert [queue.get() for _ in range(queue.qsize())] == items
        queue.delete()
        queue.create()
        queue.put_many(items)
        queue.close()
        get = program("get", queue.name)
        assert finish(get) == (0, b"".join(item + b"\n" for item in items), "")

    def test_flow_through_the_bound_in_order(self, program: Program, queue: Queue) -> None:
        text = b"".join(b"line %d\n" % number for number in range(3000))
        get = program("get", queue.name, "--delete")
        put = program("put", queue.name)
        assert finish(put, text) == (0, b"", "")
        assert finish(get) == (0, text, "")
        assert not queue.exists

    def test_are_put_as_soon_as_they_are_there(self, program: Program, queue: Queue) -> None:
        queue.create()
        put = program("put", queue.name)
        stdin = stream(put.stdin)
        for number in range(4):
            stdin.write(
                b"line %d\nand the begin of" % number if number == 3 else b"line %d\n" % number
            )
            stdin.flush()
            assert queue.get(timeout=LIMIT) == b"line %d" % number
        assert put.poll() is None
        assert finish(put, b" another") == (0, b"", "")
        assert list(queue) == [b"and the begin of another"]

    def test_are_written_as_soon_as_they_come(self, program: Program, queue: Queue) -> None:
        queue.create()
        get = program("get", queue.name)
        for number in range(4):
            queue.put(b"line %d" % number)
            assert stream(get.stdout).readline() == b"line %d\n" % number
        assert get.poll() is None
        queue.close()
        assert finish(get) == (0, b"", "")


class TestTheQueue:
    @pytest.mark.parametrize("command", ["put", "get"])
    def test_is_created_with_a_bound_of_5(
        self, program: Program, queue: Queue, command: str
    ) -> None:
        process = program(command, queue.name)
        assert eventually(lambda: queue.exists, LIMIT)
        assert queue.maxsize == 5
        if command == "put":
            finish(process, b"")
        else:
            queue.close()
            finish(process)

    @pytest.mark.parametrize("bound", [0, 2])
    def test_is_created_with_the_bound_given(
        self, program: Program, queue: Queue, bound: int
    ) -> None:
        put = program("put", queue.name, "--bound", str(bound), "--keep-open")
        assert finish(put, b"") == (0, b"", "")
        assert queue.maxsize == bound
        assert not queue.closed()

    def test_keeps_its_bound(self, program: Program, queue: Queue) -> None:
        queue.create(7)
        finish(program("put", queue.name, "--bound", "2"), b"")
        assert queue.maxsize == 7

    def test_is_not_created(self, program: Program, queue: Queue) -> None:
        for command in ("put", "get"):
            code, out, err = finish(program(command, queue.name, "--no-create"), b"a\n")
            assert (code, out) == (4, b"")
            assert queue.name in err
        assert not queue.exists

    def test_stays_open_on_demand(self, program: Program, queue: Queue) -> None:
        assert finish(program("put", queue.name, "--keep-open"), b"a\n")[0] == 0
        assert finish(program("put", queue.name), b"b\n")[0] == 0
        assert list(queue) == [b"a", b"b"]

    def test_does_not_get_the_name_of_a_task_queue(
        self, program: Program, queue: Queue, url: str, namespace: str
    ) -> None:
        name, settings = queue.name, Settings(hash_tag=queue.name)
        with PressureQueue[bytes](name, url=url, prefix=namespace, settings=settings) as tasks:
            tasks.create()
            for command in ("put", "get"):
                code, out, err = finish(program(command, name), b"a\n")
                assert (code, out, err.count("\n")) == (1, b"", 1)
                assert f"a task queue is called so: say plain:{name}" in err
            assert not queue.exists
            assert finish(program("put", f"plain:{name}"), b"a\n")[0] == 0
            assert finish(program("get", f"plain:{name}")) == (0, b"a\n", "")
            tasks.delete()

    def test_is_left_with_what_exceeds_the_count(self, program: Program, queue: Queue) -> None:
        queue.create()
        queue.put_many([b"%d" % number for number in range(1000)])
        get = program("get", queue.name, "--count", "600", "--delete")
        code, out, err = finish(get)
        assert (code, err) == (0, "")
        assert out.split() == [b"%d" % number for number in range(600)]
        assert queue.qsize() == 400
        assert queue.get() == b"600"
        assert finish(program("get", queue.name, "--count", "0")) == (0, b"", "")

    def test_under_another_prefix(self, program: Program, queue: Queue, url: str) -> None:
        other: Queue = PressureQueue(queue.name, url=url, prefix="elsewhere", codec="raw")
        with other:
            args = ("--prefix", "elsewhere", "--url", url)
            put = program("put", queue.name, *args, PRESSURE_URL="redis://127.0.0.1:1")
            assert finish(put, b"a\n")[0] == 0
            assert list(other) == [b"a"]
            other.delete()
        assert not queue.exists


class TestExitCodes:
    @pytest.mark.parametrize("command", ["put", "get"])
    def test_1_without_a_server(self, program: Program, command: str) -> None:
        process = program(command, "q", "--url", "redis://me:secret@127.0.0.1:1/0")
        code, out, err = finish(process, b"a\n")
        assert (code, out) == (1, b"")
        assert err.startswith("pressure: ")
        assert err.count("\n") == 1
        assert "127.0.0.1:1" in err
        assert "secret" not in err

    @pytest.mark.parametrize("url", ["http://x:secret@host", "redis://:secret@host:port/0"])
    def test_1_with_a_wrong_url(self, program: Program, url: str) -> None:
        code, _, err = finish(program("get", "q", "--url", url))
        assert code == 1
        assert err.count("\n") == 1
        assert "secret" not in err

    @pytest.mark.parametrize(
        "arguments",
        [
            (),
            ("dead",),
            ("put",),
            ("nonsense",),
            ("put", ""),
            ("put", "a:bound"),
            ("put", "q", "--bound", "-1"),
            ("get", "q", "--count", "x"),
            ("get", "q", "--timeout", "-1"),
        ],
    )
    def test_2_for_wrong_usage(self, program: Program, arguments: tuple[str, ...]) -> None:
        code, out, err = finish(program(*arguments))
        assert (code, out) == (2, b"")
        assert "Usage: pressure" in err

    def test_3_when_there_is_no_room_in_time(self, program: Program, queue: Queue) -> None:
        put = program("put", queue.name, "--bound", "2", "--timeout", "0.2")
        code, _, err = finish(put, b"a\nb\nc\nd\n")
        assert code == 3
        assert err == f"pressure: queue {queue.name!r}: it is full\n"
        assert not queue.closed()
        assert queue.get_many(10) == [b"a", b"b"]

    @pytest.mark.parametrize("timeout", ["0", "0.2"])
    def test_3_when_nothing_comes_in_time(
        self, program: Program, queue: Queue, timeout: str
    ) -> None:
        queue.create()
        queue.put(b"a")
        code, out, err = finish(program("get", queue.name, "--timeout", timeout))
        assert (code, out) == (3, b"a\n")
        assert err == f"pressure: queue {queue.name!r}: it is empty\n"

    def test_3_while_it_is_paused(self, program: Program, queue: Queue) -> None:
        queue.create()
        queue.put(b"a")
        queue.pause()
        code, out, err = finish(program("get", queue.name, "--timeout", "0.2"))
        assert (code, out) == (3, b"")
        assert err == f"pressure: queue {queue.name!r}: it is paused\n"

    def test_0_if_it_is_closed_within_the_time_out(self, program: Program, queue: Queue) -> None:
        queue.create()
        queue.put_many([b"a", b"b"])
        queue.close()
        assert finish(program("get", queue.name, "--timeout", "9")) == (0, b"a\nb\n", "")

    def test_4_when_it_is_deleted_meanwhile(
        self, program: Program, queue: Queue, client: redis.Redis
    ) -> None:
        queue.create()
        get = program("get", queue.name)
        await_blocked(client)
        queue.delete()
        code, _, err = finish(get)
        assert code == 4
        assert "deleted" in err

    def test_5_for_a_put_into_a_closed_queue(self, program: Program, queue: Queue) -> None:
        queue.create()
        queue.close()
        code, _, err = finish(program("put", queue.name), b"a\n")
        assert code == 5
        assert "closed" in err

    def test_stand_in_the_help(self, program: Program) -> None:
        for command in ("put", "get"):
            code, out, _ = finish(program(command, "--help"))
            assert code == 0
            assert b"Exit codes:\n" in out
            assert b"130  Ctrl-C; 141:" in out


class TestSignals:
    @pytest.mark.parametrize(
        ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
    )
    def test_end_a_blocked_get(
        self, program: Program, queue: Queue, client: redis.Redis, number: int, code: int
    ) -> None:
        queue.create()
        get = program("get", queue.name)
        await_blocked(client)
        get.send_signal(number)
        returned, out, err = finish(get)
        assert (returned, out, err.strip()) == (code, b"", "")
        queue.put(b"kept")
        assert queue.get_nowait() == b"kept"

    def test_end_a_blocked_put_and_leave_the_queue_open(
        self, program: Program, queue: Queue, client: redis.Redis
    ) -> None:
        queue.create(1)
        queue.put(b"first")
        put = program("put", queue.name)
        stream(put.stdin).write(b"second\n")
        stream(put.stdin).flush()
        await_blocked(client)
        put.send_signal(signal.SIGINT)
        assert finish(put)[0] == 130
        assert not queue.closed()
        assert queue.get_many(10) == [b"first"]

    def test_end_of_the_reader_is_no_error_to_speak_of(
        self, program: Program, queue: Queue
    ) -> None:
        queue.create()
        # More than any pipe holds.
        count = 3000
        queue.put_many([b"x" * 1000] * count)
        get = program("get", queue.name)
        head = stream(get.stdout).readline()
        assert head == b"x" * 1000 + b"\n"
        stream(get.stdout).close()
        assert get.wait(LIMIT) == 141
        assert stream(get.stderr).read() == b""
        # What was fetched ahead went back.
        stats = queue.stats()
        assert stats.fetched_ahead == 0
        assert stats.length == count - stats.consumed_messages > count // 2

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
    def test_a_full_disk_costs_one_line(self, queue: Queue, program: Program) -> None:
        queue.create(0)
        lines = [b"%d" % number for number in range(20)]
        queue.put_many(lines)
        shell = ("/bin/sh", "-c", '"$0" -m pressure get "$1" >/dev/full', sys.executable)
        code, out, err = finish(program(queue.name, argv=shell))
        assert (code, out) == (1, b"")
        assert "No space left" in err
        assert queue.get_many(100) == lines[1:]


class TestClientsOf015:
    @pytest.fixture
    def published(self, queue: Queue, url: str, namespace: str) -> PublishedClient:
        return PublishedClient(queue.name, url, namespace)

    def test_put_for_one(self, program: Program, queue: Queue, published: PublishedClient) -> None:
        put = program("put", queue.name)
        assert eventually(lambda: queue.exists, LIMIT)
        stream(put.stdin).write(b"".join(b"%d\n" % number for number in range(300)))
        stream(put.stdin).close()
        assert list(published) == [b"%d" % number for number in range(300)]
        assert put.wait(LIMIT) == 0
        published.delete(LIMIT)

    def test_get_from_one(self, program: Program, queue: Queue, published: PublishedClient) -> None:
        published.create(5)
        get = program("get", queue.name, "--delete")
        for number in range(300):
            published.put(b"%d" % number, LIMIT)
        published.close(LIMIT)
        assert finish(get) == (0, b"".join(b"%d\n" % number for number in range(300)), "")
        assert not published.exists

    def test_wait_for_the_role_no_longer_than_the_time_out(
        self, program: Program, queue: Queue, client: redis.Redis
    ) -> None:
        queue.create()
        keys = queue._core.protocol.keys
        client.delete(keys.producer_free)
        client.set(keys.producer, "host_4711")
        code, _, err = finish(program("put", queue.name, "--timeout", "0.2"), b"a\n")
        assert code == 3
        assert "host_4711" in err


def test_the_installed_program_is_the_same(program: Program, queue: Queue) -> None:
    script = Path(sys.executable).with_name("pressure")
    found = str(script) if script.exists() else shutil.which("pressure")
    if found is None:
        pytest.skip("the package is not installed, so there is no program `pressure`")
    assert finish(program("put", queue.name, argv=(found,)), b"a\nb\n")[0] == 0
    assert finish(program("get", queue.name, argv=(found,))) == (0, b"a\nb\n", "")
    code, out, _ = finish(program("--version", argv=(found,)))
    assert code == 0
    assert out.startswith(b"pressure ")


def test_a_pipeline_of_the_shell(program: Program, queue: Queue) -> None:
    shell = shutil.which("sh")
    assert shell is not None
    line = f"seq 1 500 | {sys.executable} -m pressure put {queue.name} &"
    line += f" {sys.executable} -m pressure get {queue.name} --delete | sort -n | tail -n 1"
    code, out, err = finish(program("-c", line, argv=(shell,)))
    assert (code, out, err) == (0, b"500\n", "")


def test_the_default_bound_holds_in_the_queue(program: Program, queue: Queue) -> None:
    put = program("put", queue.name, "--timeout", "0.2")
    assert finish(put, b"\n" * 9)[0] == 3
    assert queue.qsize() == 5
    with pytest.raises(QueueFullError):
        queue.put_nowait(b"")


@pytest.mark.parametrize(
    "arguments",
    [
        ("get", "q", "--timeout"),
        ("put", "q", "--timeout"),
        ("worker", "ping", "--all", "--timeout"),
        ("worker", "stop", "--all", "--grace"),
    ],
)
@pytest.mark.parametrize("seconds", ["inf", "nan", "1e30"])
def test_seconds_that_nobody_can_wait_for_are_refused(
    arguments: tuple[str, ...], seconds: str
) -> None:
    result = CliRunner().invoke(program, [*arguments, seconds])
    assert result.exit_code == 2
    assert "no number of seconds" in result.output
