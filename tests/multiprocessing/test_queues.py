"""`pressure.multiprocessing`'s queues: what the standard library's own tests don't ask."""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import numpy as np
import pytest
import redis

import pressure
import pressure.multiprocessing as mp
from pressure import flows, putting, taking
from pressure.errors import PressureError, ServerOutOfMemoryError, ServerUnavailableError
from pressure.link import Link
from pressure.multiprocessing import feeding, remote
from pressure.multiprocessing.location import without_secrets
from pressure.multiprocessing.producer import Producer
from tests.support.acl import as_admin
from tests.support.fixtures import keys_left
from tests.support.processes import Child, at, report
from tests.support.servers import ServerProcess

pytestmark = pytest.mark.filterwarnings("default::ResourceWarning")

PATIENCE = 20.0
Spawn = Callable[..., Child]


@pytest.fixture
def shared(url: str) -> Iterator[Any]:
    """An anonymous, unbounded queue on the shared server."""
    made: Any = mp.Queue(url=url)
    yield made
    made.close()
    made.join_thread()
    made.delete()


def eventually(condition: Callable[[], object], timeout: float = PATIENCE) -> None:
    until = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < until, "it did not come about in time"
        time.sleep(0.01)


# Everything but the queues is the standard library's.


def test_the_module_has_all_that_multiprocessing_has() -> None:
    for name in multiprocessing.__all__:
        if name != "Pool":
            assert hasattr(mp, name), name
    assert mp.Process is multiprocessing.Process
    assert mp.shared_memory is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        mp.nonsense  # type: ignore[attr-defined] # noqa: B018


def test_the_module_shows_no_constants_that_multiprocessing_has_not() -> None:
    """The standard library's own tests take what has no module for a public name."""
    shown = {
        name
        for name in dir(mp)
        if not name.startswith("_")
        and not isinstance(getattr(mp, name), ModuleType)
        and getattr(getattr(mp, name), "__module__", None) is None
    }
    assert shown - set(mp.__all__) <= {"SUBDEBUG", "SUBWARNING"}


@pytest.mark.parametrize(
    "name",
    [
        "connection",
        "context",
        "dummy",
        "dummy.connection",
        "managers",
        "shared_memory",
        "synchronize",
        "util",
    ],
)
def test_the_standard_modules_have_our_name_as_well(name: str) -> None:
    standard = importlib.import_module(f"multiprocessing.{name}")
    spec = standard.__spec__
    assert importlib.import_module(f"pressure.multiprocessing.{name}") is standard
    assert standard.__spec__ is spec
    assert getattr(mp, name) is standard


def test_a_module_that_neither_has() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"'pressure\.multiprocessing\.nonsense'"):
        importlib.import_module("pressure.multiprocessing.nonsense")


def test_our_modules_have_the_standard_ones_names() -> None:
    ours = importlib.import_module("pressure.multiprocessing.pool")
    assert ours.ApplyResult is ours.AsyncResult


@pytest.mark.parametrize("size", [3, 3_000_000])
@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])
def test_arrays_arrive_as_multiprocessing_sends_them(kind: str, size: int, url: str) -> None:
    made = getattr(mp, kind)(url=url)
    with ThreadPoolExecutor(1) as pool:
        for array in (np.ones(size, "u1"), np.frombuffer(b"\1" * size, "u1")):
            put = pool.submit(made.put, array)
            got = made.get()
            put.result(PATIENCE)
            got += 1
            assert got[0] == got[-1] == 2
            if size < 100:
                # Small ones own their data.
                got.resize((size + 1,), refcheck=False)
    made.close()
    if kind != "SimpleQueue":
        made.join_thread()
    made.delete()


def test_a_thread_pool_makes_our_queues(url: str) -> None:
    module: Any = mp
    with ThreadPoolExecutor(1) as pool:
        for make in (module.SimpleQueue, module.get_context().SimpleQueue):
            for options in ({"url": url}, {}):
                assert type(pool.submit(make, **options).result(PATIENCE)) is mp.SimpleQueue


@pytest.mark.parametrize("kind", [mp.Queue, mp.JoinableQueue, mp.SimpleQueue])
def test_a_queue_takes_a_context(kind: Any, url: str) -> None:
    made = kind(ctx=multiprocessing.get_context("spawn"), url=url)
    made.put(1)
    assert made.get() == 1
    made.delete()


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_a_context_makes_our_queues(method: str, url: str) -> None:
    context = mp.get_context(method)
    assert context.get_start_method() == method
    assert context.Queue is mp.Queue
    assert type(context.SimpleQueue(url=url)) is mp.SimpleQueue
    standard: Any = multiprocessing.get_context(method)
    assert context.Process is standard.Process


# Pickling.


def echo(incoming: Any, outgoing: Any) -> None:
    outgoing.put(("got", incoming.get(timeout=PATIENCE)))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_a_queue_is_an_argument(method: str, shared: Any, url: str) -> None:
    back: Any = mp.SimpleQueue(url=url)
    process = mp.get_context(method).Process(target=echo, args=(shared, back))
    process.start()
    shared.put([1, "two"])
    assert back.get() == ("got", [1, "two"])
    process.join(PATIENCE)
    assert process.exitcode == 0
    back.delete()


def test_a_handle_travels_in_its_own_queue(shared: Any, url: str) -> None:
    shared.put(shared)
    again = shared.get(timeout=PATIENCE)
    again.put(1)
    assert shared.get(timeout=PATIENCE) == 1


def test_a_pickled_handle_holds_no_credentials(
    make_server: Callable[..., ServerProcess], spawn_child: Spawn
) -> None:
    server = make_server(password="open-sesame")
    assert "open-sesame" in server.url
    guarded: Any = mp.Queue(url=server.url)
    guarded.put("secret ways")
    data = pickle.dumps(guarded)
    assert b"sesame" not in data
    assert pickle.loads(data).get(timeout=PATIENCE) == "secret ways"
    # Elsewhere, the credentials come from the environment.
    guarded.put("again")
    child = spawn_child(report_what_comes, data, env={"PRESSURE_URL": server.url})
    assert child.wait_for("got") == "again"
    guarded.delete()


def report_what_comes(data: bytes) -> None:
    report("got", pickle.loads(data).get(timeout=PATIENCE))


@pytest.mark.parametrize(
    ("url", "bare"),
    [
        ("redis://user:word@host:6380/3", "redis://host:6380/3"),
        ("redis://host/0?password=word&db=2", "redis://host/0?db=2"),
        ("unix:///tmp/sock?db=1", "unix:///tmp/sock?db=1"),
        ("unix://:word@/tmp/sock", "unix:///tmp/sock"),
    ],
)
def test_urls_lose_their_secrets(url: str, bare: str) -> None:
    assert without_secrets(url) == bare


# By name, without inheritance.


def put_by_name(name: str, url: str) -> None:
    by_name: Any = mp.Queue(name=name, url=url)
    by_name.put("hello")
    by_name.close()
    by_name.join_thread()


def test_unrelated_processes_share_by_name(queue_name: str, url: str, spawn_child: Spawn) -> None:
    here: Any = mp.Queue(3, name=queue_name, url=url)
    assert spawn_child(put_by_name, queue_name, url).wait() == 0
    assert here.get(timeout=PATIENCE) == "hello"
    with pytest.raises(ValueError, match="maxsize=3"):
        mp.Queue(4, name=queue_name, url=url)
    named: pressure.PressureQueue[str] = pressure.PressureQueue(queue_name, url=url)
    named.put("from outside")
    assert here.get(timeout=PATIENCE) == "from outside"
    here.close()
    del here
    gc.collect()
    assert named.exists
    named.delete()


# What cannot be pickled.


class Unpicklable:
    def __reduce__(self) -> NoReturn:
        raise AttributeError("not to be pickled")


@pytest.mark.parametrize("kind", [mp.Queue, mp.JoinableQueue, mp.SimpleQueue])
def test_put_raises_what_pickling_raises(kind: Any, url: str) -> None:
    made = kind(url=url)
    with pytest.raises(AttributeError, match="not to be pickled"):
        made.put(Unpicklable())
    with pytest.raises(Exception, match="pickle"):
        made.put(threading.Lock())
    assert made.empty()
    made.put(1)
    assert made.get() == 1
    made.delete()


# The bound.


def test_full_is_exact(url: str) -> None:
    bounded: Any = mp.Queue(6, url=url)
    for number in range(6):
        bounded.put(number, False)
        assert bounded.qsize() == number + 1
        assert bounded.full() == (number == 5)
        assert not bounded.empty()
    with pytest.raises(queue.Full) as caught:
        bounded.put_nowait(6)
    assert caught.type is queue.Full
    with pytest.raises(queue.Full):
        bounded.put(6, True, 0.05)
    with pytest.raises(queue.Full):
        bounded.put(6, timeout=-1)
    assert [bounded.get() for _ in range(6)] == list(range(6))
    assert bounded.empty()
    bounded.put(7, timeout=-1)
    assert bounded.get() == 7
    with pytest.raises(queue.Empty) as empty:
        bounded.get(timeout=-1)
    assert empty.type is queue.Empty
    with pytest.raises(ValueError, match="'timeout' must be a non-negative number"):
        bounded.get(timeout=float("nan"))
    with pytest.raises(ValueError, match="'timeout' must be a non-negative number"):
        bounded.put(8, timeout=float("nan"))
    assert bounded.empty()
    bounded.delete()


def test_a_bound_is_a_whole_number(url: str) -> None:
    with pytest.raises(TypeError):
        mp.Queue(2.5, url=url)  # type: ignore[arg-type]
    made: Any = mp.Queue(True, url=url)
    made.put(1)
    assert made.full()
    made.delete()


def test_places_left_over_by_a_quick_loop_come_back(url: str) -> None:
    bounded: Any = mp.Queue(50, url=url)
    for number in range(30):
        bounded.put(number)
    other = pickle.loads(pickle.dumps(bounded))
    for number in range(30, 50):
        other.put_nowait(number)
    with pytest.raises(queue.Full):
        other.put_nowait(50)
    assert other.full()
    # Each handle keeps its own order, as in the standard library.
    assert sorted(other.get(timeout=PATIENCE) for _ in range(50)) == list(range(50))
    bounded.delete()


def fill_quickly(bounded: Any, count: int) -> None:
    for number in range(count):
        bounded.put(number)
        at("put")
    report("all")


def test_memory_that_is_out_half_way_doubles_nothing(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = putting.put_bodies
    failed: list[int] = []

    def put_some(
        core: Any, session: Any, bodies: Sequence[bytes], *args: Any, **options: Any
    ) -> Any:
        if failed or len(bodies) < 4:
            return (yield from real(core, session, bodies, *args, **options))
        failed.append(len(bodies))
        error = ServerOutOfMemoryError("half-way")
        error.accepted = yield from real(core, session, bodies[:3], *args, **options)
        raise error

    monkeypatch.setattr(putting, "put_bodies", put_some)
    q: Any = mp.Queue(200, url=url)
    put = []
    for number in range(100):
        try:
            q.put(number)
            put.append(number)
        except ServerOutOfMemoryError:
            pass
    assert failed
    assert [q.get(timeout=PATIENCE) for _ in put] == put
    assert q.empty()
    q.delete()


def test_a_put_that_is_refused_says_how_much_it_had_put(url: str) -> None:
    """But a server that is away leaves it as it is, to be tried once more."""
    told: list[BaseException] = []

    def put() -> Iterator[str]:
        try:
            yield "request"
        except PressureError as exc:
            told.append(exc)
            exc.accepted = 3
            raise

    q: Any = mp.Queue(url=url)
    for error, accepted in ((ServerUnavailableError("away"), 0), (ServerOutOfMemoryError(), 3)):
        flow: Any = put()
        q._producer._cut_short = next(flow), flow
        resumed = q._producer._resumed()
        assert next(resumed) == "request"
        with pytest.raises(type(error)) as raised:
            resumed.throw(error)
        assert raised.value.accepted == accepted
        assert (error in told) == bool(accepted)
    q._producer._cut_short = None
    q.delete()


def test_ctrl_c_as_items_are_taken_up_loses_none(url: str) -> None:
    q: Any = mp.Queue(url=url)
    q.put(0)
    producer = q._producer

    class Interrupting(deque[bytes]):
        at = 3

        def popleft(self) -> bytes:
            self.at -= 1
            if self.at == 0:
                raise KeyboardInterrupt
            return super().popleft()

    producer.settle()
    with producer._sending:
        producer._bodies = Interrupting(q._serialize(number) for number in range(1, 10))
        with pytest.raises(KeyboardInterrupt):
            producer._begin(producer._producer())
        # It may also come when no more is done about it.
        producer._under_way = [producer._bodies.popleft() for _ in range(4)]
    producer.settle()
    assert [q.get(timeout=PATIENCE) for _ in range(10)] == list(range(10))
    q.delete()


def has_length(client: redis.Redis, key: str, length: int) -> bool:
    return client.llen(key) == length


def test_a_large_item_does_not_wait_for_the_next_put(
    shared: Any, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes several steps, of which the putting thread makes the first at most."""
    monkeypatch.setattr(feeding, "DOZE", 2 * PATIENCE)
    base = shared._remote.core.protocol.keys.base
    for count in range(1, 4):
        shared.put(bytes(100_000))
        eventually(partial(has_length, client, base, count))
    assert [len(shared.get(timeout=PATIENCE)) for _ in range(3)] == [100_000] * 3


def test_the_feeder_leaves_a_loop_to_itself(url: str) -> None:
    """It would get the interpreter's lock once in five milliseconds."""
    q: Any = mp.Queue(url=url)
    q.put(0)
    producer = q._producer
    producer.settle()
    with producer._sending:
        now = time.monotonic() + PATIENCE
        producer._last = producer._sent_at = now
        assert producer._is_seen_to()
        producer._sent_at = time.monotonic() - 1.0
        assert not producer._is_seen_to(), "nothing was sent for long"
        producer._last, producer._sent_at = time.monotonic() - 1.0, now
        assert not producer._is_seen_to(), "nobody puts"
        producer._last = now
        producer._cut_short = "request", iter(())
        assert not producer._is_seen_to(), "there is trouble"
        producer._cut_short = None
        for number in range(1, 1000):
            producer._bodies.append(q._serialize(number))
        producer._send_all(producer._is_seen_to)
        assert 0 < len(producer._bodies) < 999, "just one send"
        producer._last = 0.0
    assert [q.get(timeout=PATIENCE) for _ in range(1000)] == list(range(1000))
    q.delete()


def test_places_of_a_killed_producer_come_back(url: str, spawn_child: Spawn) -> None:
    bounded: Any = mp.Queue(100, url=url)
    child = spawn_child(fill_quickly, bounded, 100, kill_at=["put#40"])
    assert child.wait() == -signal.SIGKILL
    came = 0
    # What it had not sent is lost with it, as in the standard library; its places are not.
    for number in range(100 - bounded.qsize()):
        bounded.put(number, timeout=PATIENCE)
        came += 1
    assert bounded.full()
    assert came >= 60
    bounded.delete()


@pytest.mark.parametrize("maxsize", [0, 7])
def test_nothing_is_lost_or_reordered_between_threads(maxsize: int, url: str) -> None:
    made: Any = mp.Queue(maxsize, url=url)
    got: list[tuple[int, int]] = []

    def put(sender: int) -> None:
        for number in range(500):
            made.put((sender, number))

    threads = [threading.Thread(target=put, args=(sender,)) for sender in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(1500):
        got.append(made.get(timeout=PATIENCE))
        if maxsize and len(got) % 100 == 0:
            assert made.qsize() <= maxsize
    for thread in threads:
        thread.join(PATIENCE)
    for sender in range(3):
        assert [number for who, number in got if who == sender] == list(range(500))
    assert made.empty()
    made.delete()


# Closing.


def test_a_closed_handle(url: str) -> None:
    made: Any = mp.Queue(url=url)
    with pytest.raises(AssertionError, match="not closed"):
        made.join_thread()
    other = pickle.loads(pickle.dumps(made))
    made.put("left behind")
    made.close()
    made.close()
    made.join_thread()
    for operation in (made.get, lambda: made.put(1)):
        with pytest.raises(ValueError, match="is closed"):
            operation()
    assert made.qsize() == 1
    assert not made.full()
    with pytest.raises(OSError, match="is closed"):
        made.empty()
    assert other.get(timeout=PATIENCE) == "left behind"
    other.delete()


class Reluctant:
    def __reduce__(self) -> Any:
        return refuse, ()


def refuse() -> NoReturn:
    raise KeyError("not today")


@pytest.mark.parametrize("named", [False, True])
def test_what_cannot_be_unpickled_is_not_unfinished(named: bool, queue_name: str, url: str) -> None:
    made: Any = mp.JoinableQueue(name=queue_name if named else None, url=url)
    made.put(Reluctant())
    made.put(1)
    with pytest.raises(pressure.PayloadError, match="not today") as caught:
        made.get(timeout=PATIENCE)
    assert isinstance(caught.value.__cause__, KeyError)
    # Who knows the name can look at them.
    assert ("dead letters" in str(caught.value)) is named
    assert made.get(timeout=PATIENCE) == 1
    made.task_done()
    made.join()
    with pytest.raises(ValueError, match="too many times"):
        made.task_done()
    made.delete()
    made.close()


def test_task_done_and_join(url: str) -> None:
    made: Any = mp.JoinableQueue(url=url)
    made.put(1)
    joined = threading.Event()

    def join() -> None:
        made.join()
        joined.set()

    thread = threading.Thread(target=join)
    thread.start()
    made.get(timeout=PATIENCE)
    assert not joined.wait(0.1)
    made.task_done()
    assert joined.wait(PATIENCE)
    thread.join(PATIENCE)
    with pytest.raises(ValueError, match=r"task_done\(\) called too many times"):
        made.task_done()
    made.delete()


# Processes that end, by force or not.


def put_and_return(made: Any, count: int) -> None:
    for number in range(count):
        made.put(number)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_a_process_sends_what_it_buffered_before_it_ends(method: str, shared: Any) -> None:
    process = mp.get_context(method).Process(target=put_and_return, args=(shared, 3000))
    process.start()
    process.join(PATIENCE)
    assert process.exitcode == 0
    assert shared.qsize() == 3000
    assert [shared.get(timeout=PATIENCE) for _ in range(3000)] == list(range(3000))


def take_quickly(made: Any) -> None:
    while True:
        report("got", made.get())
        at("got")


def test_what_a_killed_consumer_had_fetched_comes_back(shared: Any, spawn_child: Spawn) -> None:
    for number in range(200):
        shared.put(number)
    child = spawn_child(take_quickly, shared, kill_at=["got#50"])
    assert child.wait() == -signal.SIGKILL
    taken = {child.wait_for("got") for _ in range(50)}
    rest: set[int] = set()
    # Its lease has to run out first.
    while taken | rest != set(range(200)):
        rest.add(shared.get(timeout=PATIENCE))
    assert len(taken) == 50


def test_what_was_got_is_acknowledged_while_the_next_get_blocks(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not by what comes after a slice.
    monkeypatch.setattr(flows, "SLICE", 4.0)
    made: Any = mp.Queue(url=url)
    got: queue.Queue[int] = queue.Queue()

    def consume() -> None:
        for _ in range(21):
            got.put(made.get(timeout=PATIENCE))

    with redis.from_url(as_admin(url)) as client:
        consumer = threading.Thread(target=consume, daemon=True)
        consumer.start()
        for number in range(20):
            made.put(number)
            assert got.get(timeout=PATIENCE) == number
        taken = f"*:{made.name}:taken:*"
        eventually(lambda: not list(client.scan_iter(taken, count=1000)), timeout=3.0)
        made.put(20)
        assert got.get(timeout=PATIENCE) == 20
        consumer.join(PATIENCE)
    made.delete()
    made.close()


KILLED_TTL = 2.0
"""Long enough (seconds) to be renewed in time on a busy machine."""


def create_and_wait(url: str) -> None:
    remote.TTL = KILLED_TTL
    made: Any = mp.Queue(10, url=url)
    for number in range(5):
        made.put(number)
    report("name", made.name)
    report("handle", pickle.dumps(made).hex())
    made.get(timeout=PATIENCE)
    at("ready")
    made.get(timeout=PATIENCE)
    threading.Event().wait(PATIENCE)


def test_the_queues_of_a_killed_creator_vanish(
    url: str, client: redis.Redis, spawn_child: Spawn
) -> None:
    child = spawn_child(create_and_wait, url, hold_at=["ready"])
    name = child.wait_for("name")
    handle = pickle.loads(bytes.fromhex(child.wait_for("handle")))
    child.wait_for("at:ready")
    # Another user's consumer doesn't keep it either.
    assert handle.get(timeout=PATIENCE) in range(5)
    # It lives for as long as its creator does, whatever the time to live.
    time.sleep(1.5 * KILLED_TTL)
    assert keys_left(client, name)
    child.kill()
    eventually(lambda: not keys_left(client, name))
    with pytest.raises(pressure.QueueDoesNotExistError):
        handle.get(timeout=PATIENCE)


def create_and_leave(url: str) -> None:
    made: Any = mp.Queue(10, url=url)
    made.put(1)
    report("name", made.name)


def test_a_creator_that_is_done_leaves_nothing(
    url: str, client: redis.Redis, spawn_child: Spawn
) -> None:
    child = spawn_child(create_and_leave, url)
    name = child.wait_for("name")
    assert child.wait() == 0
    assert not keys_left(client, name)


def test_a_queue_that_nobody_else_can_know_goes_with_its_handle(
    url: str, client: redis.Redis
) -> None:
    made: Any = mp.Queue(url=url)
    made.put(1)
    name = made.name
    assert keys_left(client, name)
    del made
    gc.collect()
    eventually(lambda: not keys_left(client, name))


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Nothing is freed but what nobody refers to."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("kind", [mp.Queue, mp.JoinableQueue, mp.SimpleQueue])
@pytest.mark.usefixtures("uncollected")
def test_a_dropped_queue_leaves_no_connection(kind: Any, url: str) -> None:
    made = kind(url=url)
    made.put(1)
    assert made.get() == 1
    links = [session.link for session in made._remote.core.sessions]
    assert any(link.client_id for link in links)
    del made
    eventually(lambda: not any(link.client_id for link in links))


@pytest.mark.parametrize("kind", [mp.JoinableQueue, partial(mp.Queue, 3)])
@pytest.mark.usefixtures("uncollected")
def test_dropped_handles_leave_their_connection_to_the_next_one(kind: Any, url: str) -> None:
    first = kind(url=url)
    sessions = first._remote.core.sessions
    for number in range(10):
        pickle.loads(pickle.dumps(first)).put(number)
        assert first.get() == number
    assert len(sessions) < 5


@pytest.mark.usefixtures("uncollected")
def test_a_loop_of_queues_does_not_outrun_the_clean_up(url: str) -> None:
    links: set[Link] = set()
    most = 0
    for number in range(600):
        made: Any = mp.SimpleQueue(url=url)
        made.put(number)
        links |= {session.link for session in made._remote.core.sessions}
        if number % 20 == 19:
            links = {link for link in links if link.client_id}
            most = max(most, len(links))
    assert most < 70
    del made
    eventually(lambda: not any(link.client_id for link in links))


CANCELLED = """
import sys
import pressure.multiprocessing as mp

if __name__ == "__main__":
    made = mp.Queue(url=sys.argv[1])
    if sys.argv[2] == "before":
        made.cancel_join_thread()
    for _ in range(500):
        made.put(b"x" * 1000)
    made.cancel_join_thread()
"""


def assert_silent(directory: Path, program: str, *arguments: str) -> None:
    """It ends well, and says nothing on stderr."""
    script = directory / "program.py"
    script.write_text(program)
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_loss_that_is_asked_for_is_no_cause_for_a_warning(
    when: str, url: str, tmp_path: Path
) -> None:
    assert_silent(tmp_path, CANCELLED, url, when)


LEFT = """
import sys, threading
import pressure.multiprocessing as mp

how, url = sys.argv[1:]
q = (mp.SimpleQueue if how == "simple" else mp.JoinableQueue)(url=url)
seen = threading.Event()

def go_on():
    while True:
        if how == "put":
            full.put(1)
        elif how == "join":
            seen.set()
            q.join()
        else:
            q.get()
        seen.set()

full = mp.Queue(1, url=url)
q.put(1)
threading.Thread(target=go_on, daemon=True).start()
seen.wait(20)
"""


@pytest.mark.parametrize("how", ["get", "simple", "put", "join"])
def test_a_daemon_thread_that_waits_when_the_process_ends_says_nothing(
    how: str, url: str, tmp_path: Path
) -> None:
    assert_silent(tmp_path, LEFT, how, url)


def test_cancel_join_thread_holds_for_what_is_put_later(shared: Any) -> None:
    shared.cancel_join_thread()
    shared.put(1)
    assert shared.get(timeout=PATIENCE) == 1
    assert shared._producer._thread is not None
    assert shared._producer._finalizer is None


ALONE = """
import multiprocessing, os, sys
import pressure.multiprocessing as mp
from pressure.server import shared_local_server

def work(incoming, outgoing):
    for number in range(3):
        outgoing.put(incoming.get(timeout=20) * 2)

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    incoming, outgoing = mp.Queue(), mp.Queue(2)
    process = mp.Process(target=work, args=(incoming, outgoing))
    process.start()
    for number in range(3):
        incoming.put(number)
    print([outgoing.get(timeout=20) for _ in range(3)])
    process.join(20)
    print(process.exitcode)
    print(os.path.dirname(shared_local_server().removeprefix("unix://")))
"""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_without_a_server_one_is_started_and_gone_with_the_processes(
    method: str, tmp_path: Path
) -> None:
    script = tmp_path / "alone.py"
    script.write_text(ALONE)
    root = str(Path(__file__).resolve().parents[2])
    environment = {key: value for key, value in os.environ.items() if "PRESSURE" not in key}
    environment["PYTHONPATH"] = root
    done = subprocess.run(
        [sys.executable, str(script), method],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    assert done.stderr == ""
    results, exitcode, directory = done.stdout.splitlines()
    assert (results, exitcode) == ("[0, 2, 4]", "0")
    directory = directory.partition("?")[0]
    eventually(lambda: not os.path.exists(directory))


# Forks.


def test_a_fork_while_other_threads_are_at_it(url: str) -> None:
    made: Any = mp.Queue(url=url)
    results: Any = mp.Queue(url=url)
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            made.put(0)
            made.get(timeout=PATIENCE)

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    context = mp.get_context("fork")
    try:
        for number in range(5):
            process = context.Process(target=results.put, args=(number,))
            process.start()
            assert results.get(timeout=PATIENCE) == number
            process.join(PATIENCE)
            assert process.exitcode == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert made.empty()
    made.delete()
    results.delete()


# The server goes away.


def test_putting_does_not_wait_for_a_server_that_is_away(fresh_server: ServerProcess) -> None:
    made: Any = mp.Queue(url=fresh_server.url)
    made.put(0)
    assert made.get(timeout=PATIENCE) == 0
    fresh_server.kill()
    for number in range(1, 100):
        made.put(number)
    fresh_server.start()
    assert [made.get(timeout=PATIENCE) for _ in range(99)] == list(range(1, 100))
    made.delete()


def test_what_is_too_large_is_not_unpickled(shared: Any) -> None:
    shared.put(b"x" * 1000)
    shared.put("small")
    shared._remote.core.most_bytes = 500
    with pytest.raises(pressure.PayloadError, match="max_item_bytes"):
        shared.get(timeout=PATIENCE)
    assert shared.get(timeout=PATIENCE) == "small"


def test_ctrl_c_while_the_feeder_starts(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is one all the same, and it ends."""
    others = set(threading.enumerate())
    made: Any = mp.Queue(url=url)
    start = threading.Thread.start

    def cut_short(thread: threading.Thread) -> None:
        start(thread)
        if thread.name == "QueueFeederThread":
            monkeypatch.undo()
            raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", cut_short)
    with pytest.raises(KeyboardInterrupt):
        made.put(1)
    made.put(2)
    assert [made.get(timeout=20), made.get(timeout=20)] == [1, 2]
    new = set(threading.enumerate()) - others
    feeders = [one for one in new if one.name == "QueueFeederThread"]
    made.close()
    ending = threading.Thread(target=made.join_thread, daemon=True)
    ending.start()
    ending.join(20)
    assert not ending.is_alive()
    for feeder in feeders:
        feeder.join(20)
        assert not feeder.is_alive()
    made.delete()


def test_a_process_forks_while_a_queue_is_made(
    shared: Any, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another thread, say: the hooks of `fork` find nothing that is half done."""
    said: list[object] = []

    def make_and_fork(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(sys, "unraisablehook", lambda _: os._exit(1))
        child = os.fork()
        if child == 0:
            os._exit(0)
        monkeypatch.undo()
        said.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        return Producer(*args, **options)

    monkeypatch.setattr("pressure.multiprocessing.queues.Producer", make_and_fork)
    made: Any = mp.Queue(url=url)
    made.close()
    made.delete()
    assert said == [0]


def test_an_item_handed_out_while_another_thread_has_its_session_is_done(url: str) -> None:
    made: Any = mp.JoinableQueue(url=url)
    try:
        for item in "ab":
            made.put(item)
        far = made._remote
        core, handle = far.core, far.handle
        session = handle.acquire(taking=True)
        taken = handle.run(taking.take(core, session, 2, None), session)
        core.store_ahead(session, "g", taken.items)
        # Two threads have got something, and the other one is blocked with the session.
        far._thread = -1
        assert [made.get(timeout=PATIENCE), made.get(timeout=PATIENCE)] == ["a", "b"]
        made.task_done()
        made.task_done()
        with pytest.raises(ValueError):
            made.task_done()
        handle.release(session)
        made.join()
    finally:
        made.close()
        made.join_thread()
        made.delete()
