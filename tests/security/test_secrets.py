"""Passwords and keys stay where they belong, however much goes wrong and is printed."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pytest
import redis

import pressure
import pressure.aio
import pressure.multiprocessing as mp
from pressure import PressureQueue, RedisExecutor, Settings
from pressure.address import Address
from pressure.executor import Options, TaskFuture
from pressure.server import LocalServer
from tests.aio.running import run
from tests.executor.programs import Program
from tests.faults import executing as do
from tests.support import acl
from tests.support.fixtures import pytest_runtest_makereport
from tests.support.processes import Child, report
from tests.support.servers import ServerProcess

WAIT = 30.0
PASSWORD = "canary-password/with:odd@signs"
KEY = "canary-key-that-signs"
WRONG = "canary-wrong-password"
SECRETS = (b"canary-password", b"canary-key", b"canary-wrong")
BRIEF = Settings(reconnect_timeout=0.2)


def betrayed(text: bytes | str) -> list[bytes]:
    """The lines that hold a secret."""
    data = text.encode(errors="replace") if isinstance(text, str) else text
    lines = data.splitlines() if any(secret in data for secret in SECRETS) else []
    return [line for line in lines if any(secret in line for secret in SECRETS)]


@pytest.fixture
def guarded(make_server: Callable[..., ServerProcess]) -> ServerProcess:
    return make_server(unix=False, password=PASSWORD)


def with_password(url: str, password: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://user:{quote(password, safe='')}@{rest.rpartition('@')[2]}"


# What a child does that holds the secrets, and prints all it gets hold of


def show(*things: Any) -> None:
    for thing in things:
        print(repr(thing), str(thing), flush=True)
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stdout.buffer.write(pickle.dumps(thing) + b"\n")
            sys.stdout.buffer.flush()


def fails(call: Callable[[], Any]) -> None:
    """The error is shown with all that a traceback prints."""
    try:
        result = call()
    except Exception as exc:
        traceback.print_exc()
        show(exc, exc.args, vars(exc))
        logging.getLogger("exercise").exception("failed")
    else:
        show(result)
        raise AssertionError(f"{call} did not fail")


def begin() -> None:
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    warnings.simplefilter("always")


def use_queues(url: str, name: str) -> None:
    begin()
    with PressureQueue[Any](name, url=url, key=KEY) as q:
        q.create(10)
        q.put("something")
        with q.lease() as item:
            show(q, q._core.settings, q._handle.address, q.stats(), item)
        with PressureQueue[Any](name, url=url, key=WRONG) as other:
            other.put("forged")
            fails(q.get_nowait)
            show(*q.dead_letters)
        fails(lambda: pickle.dumps(q))
        fails(lambda: q.put_nowait(threading.Lock()))
        q.delete()
        fails(q.get)
    os.environ["PRESSURE_KEY"] = KEY
    queue: Any = mp.Queue(url=url)
    queue.put("something")
    show(queue, queue._remote.shared(), queue.get(timeout=WAIT))
    show(ForkingPickler.dumps(queue._remote.where))
    queue.close()
    queue.join_thread()
    queue.delete()

    async def main() -> None:
        async with pressure.aio.PressureQueue[Any](name, url=url, key=KEY) as q:
            await q.create()
            await q.put(1)
            show(q, await q.get())
            await q.delete()

    run(main())


def create(url: str, name: str) -> None:
    PressureQueue[Any](name, url=url, key=KEY, settings=BRIEF).create()


def create_shared(url: str, name: str) -> None:
    mp.Queue(url=url)


def submit(url: str, name: str) -> Any:
    with RedisExecutor(url=url, queue=name, key=KEY, settings=BRIEF) as executor:
        return executor.submit(pow, 2, 2).result(WAIT)


def create_async(url: str, name: str) -> None:
    async def main() -> None:
        async with pressure.aio.PressureQueue[Any](name, url=url, key=KEY, settings=BRIEF) as q:
            await q.create()

    run(main())


def make_errors(url: str, name: str) -> None:
    begin()
    host = url.rpartition("@")[2]
    secret = quote(PASSWORD, safe="")
    wrong = with_password(url, WRONG)
    for bad in (
        wrong,
        f"redis://user:{secret}@127.0.0.1:1/0",
        f"unix://user:{secret}@/nowhere/at/all",
        f"redis://user:{secret}@{host}?socket_connect_timeout=soon",
        f"redis://user:{PASSWORD}@{host}",
        f"redis://user:{secret}@127.0.0.1:port/0",
        f"redis://127.0.0.1:1/0?password={secret}",
        f"http://user:{secret}@{host}",
        f"user:{secret}@{host}",
        f"redis://user:{secret}@[::1/0",
        f"rediss://user:{secret}@127.0.0.1:1/0",
    ):
        for use in (create, create_shared, submit, create_async):
            fails(partial(use, bad, name))
    fails(lambda: PressureQueue(name, url=url, key=[KEY, ""]))
    fails(lambda: PressureQueue(name, url=url, client=redis.Redis.from_url(url)))
    fails(lambda: Settings(lease=0, signing_keys=(KEY.encode(),)))


def use_executor(url: str, name: str) -> None:
    begin()
    with RedisExecutor(url=url, queue=name, key=KEY, options=Options(max_deliveries=1)) as ex:
        show(ex, ex._engine.dispatcher, ex.options(retries=1))
        futures: list[TaskFuture[Any]] = [
            ex.submit(do.square, 2),
            ex.submit(do.fail, "no"),
            ex.submit(do.die, "exit3"),
        ]
        for future in futures:
            show(future, future.exception(WAIT))
        show(ex.stats())
        report("worked")
        sys.stdin.readline()


def test_a_process_that_holds_secrets(
    guarded: ServerProcess, spawn_child: Callable[..., Child]
) -> None:
    url = guarded.url
    for exercise in (use_queues, make_errors):
        child = spawn_child(exercise, url, "q")
        assert child.wait(WAIT) == 0, child.output
        assert len(child.output) > 2000
        assert "DEBUG" in child.output or exercise is make_errors
        assert not betrayed(child.output)


def test_a_client_and_a_daemon(guarded: ServerProcess, spawn_child: Callable[..., Child]) -> None:
    environment = {"PRESSURE_URL": guarded.url, "PRESSURE_KEY": KEY}
    daemon = Program("--queue", "tasks", "--processes", "1", env=environment)
    try:
        assert daemon.says("processes serve queue"), daemon.output
        client = spawn_child(use_executor, guarded.url, "tasks", hold_at=[])
        client.wait_for("worked", WAIT)
        for pid in [*client.family(), daemon.process.pid, *daemon.children()]:
            assert not betrayed(Path(f"/proc/{pid}/cmdline").read_bytes())
        with guarded.client() as admin:
            assert not betrayed(repr(admin.client_list()))
            stored = list(everything(admin))
            assert len(stored) > 10
            assert not any(betrayed(one) for one in stored)
        client.kill()
        assert not betrayed(client.output)
        daemon.process.terminate()
        assert daemon.wait() == 0
    finally:
        daemon.close()
    assert "died" in daemon.output
    assert not betrayed(daemon.output)


def everything(admin: redis.Redis) -> list[bytes]:
    """All that is stored: keys and values."""
    read: dict[bytes, Callable[[bytes], Any]] = {
        b"string": admin.get,
        b"list": lambda key: admin.lrange(key, 0, -1),
        b"hash": admin.hgetall,
        b"zset": lambda key: admin.zrange(key, 0, -1),
        b"set": admin.smembers,
    }
    found: list[bytes] = []
    for key in admin.scan_iter(count=1000):
        kind: Any = admin.type(key)
        # A key may vanish in between.
        value = read[kind](key) if kind in read else b""
        found += [key, repr(value).encode()]
    return found


@pytest.mark.parametrize(
    "problem, program, arguments",
    [
        ("wrong password", "pressure", ["put", "q"]),
        ("wrong password", "worker", []),
        ("no server", "worker", []),
        ("malformed", "pressure", ["get", "q", "--timeout", "1"]),
    ],
)
def test_programs_that_are_refused(
    guarded: ServerProcess, problem: str, program: str, arguments: list[str]
) -> None:
    url = {
        "wrong password": with_password(guarded.url, WRONG),
        "no server": with_password("redis://127.0.0.1:1/0", PASSWORD),
        "malformed": f"redis://:{PASSWORD}@127.0.0.1:port/0",
    }[problem]
    code = "from pressure.executor.cli import main; main()"
    command = ["-m", "pressure"] if program == "pressure" else ["-c", code]
    done = subprocess.run(
        [sys.executable, *command, *arguments],
        env={**os.environ, "PRESSURE_URL": url, "PRESSURE_KEY": KEY},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=WAIT,
        check=False,
    )
    assert done.returncode != 0
    assert done.stderr
    assert b"Traceback" not in done.stderr
    assert not betrayed(done.stdout + done.stderr)


def test_the_embedded_server_is_not_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRESSURE_URL", f"redis://:{quote(PASSWORD, safe='')}@127.0.0.1:1/0")
    monkeypatch.setenv("PRESSURE_KEY", KEY)
    for port in (None, 0):
        with LocalServer(port=port) as local, redis.Redis.from_url(local.url) as client:
            own = unquote(urlsplit(local.url).password or "")
            pid = client.info("server")["process_id"]
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            for process in (pid, parent):
                seen = Path(f"/proc/{process}/cmdline").read_bytes()
                assert not own or own.encode() not in seen
                assert not betrayed(seen)
                if process != os.getpid():
                    assert not betrayed(Path(f"/proc/{process}/environ").read_bytes())


def test_addresses_and_settings_do_not_show_secrets() -> None:
    address = Address.of(f"redis://user:{quote(PASSWORD, safe='')}@h:1/0?ssl_password={WRONG}")
    settings = Settings(signing_keys=(KEY.encode(),))
    assert not betrayed(f"{address!r} {address} {settings!r} {address.identity}")


@pytest.mark.parametrize("text, outcome", [(f"so {acl.PASSWORD}", "failed"), ("so", "passed")])
def test_all_output_of_the_suite_is_looked_at(
    request: pytest.FixtureRequest, text: str, outcome: str
) -> None:
    """Guards the guard in `tests.support.fixtures`."""
    report = pytest.TestReport(
        nodeid="a test",
        location=("", 0, ""),
        keywords={},
        outcome="passed",
        longrepr=None,
        when="call",
        sections=[("Captured stdout call", "nothing"), ("Captured log call", text)],
    )
    call = pytest.CallInfo.from_call(lambda: None, "call")
    hook = pytest_runtest_makereport(request.node, call)
    next(hook)
    with pytest.raises(StopIteration) as stopped:
        hook.send(report)
    assert stopped.value.value.outcome == outcome
