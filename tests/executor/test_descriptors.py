"""Connections and sockets as arguments and results: handed over here, refused elsewhere."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import connection, resource_sharer
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pressure import multiprocessing as shim
from pressure.executor import (
    RedisExecutor,
    ResultPayloadError,
    TaskPayloadError,
    current_executor,
)
from tests.executor.crews import MODES, PATIENCE, executor
from tests.support.servers import ServerProcess

MIB = 1024 * 1024
WORDS = "multiprocessing.connection multiprocessing.resource_sharer pressure.executor.descriptors"
INSTEAD = r"pressure\.multiprocessing\.Queue"

# What runs in workers


def tell(to: Connection, text: str = "hello") -> None:
    to.send(text)


def tell_deep(value: dict[str, list[Any]]) -> None:
    tell(value["list"][0])


def tell_attribute(holder: Holder) -> None:
    tell(holder.held)


def write(to: socket.socket) -> None:
    to.sendall(b"hello")
    to.close()


def write_deep(value: list[Any]) -> None:
    write(value[0])


class Holder:
    def __init__(self, held: Any) -> None:
        self.held = held

    def tell(self) -> None:
        tell(self.held)


class Large:
    """Says that it is large."""

    nbytes = 2 * MIB

    def __init__(self, held: Any) -> None:
        self.held = held
        self.data = bytes(self.nbytes)


def tell_and_size(large: Large) -> int:
    tell(large.held)
    return len(large.data)


def give() -> Connection:
    reader, writer = multiprocessing.Pipe(duplex=False)
    with writer:
        writer.send("hello")
    return reader


def give_socket() -> socket.socket:
    one, other = socket.socketpair()
    with other:
        other.sendall(b"hello")
    return one


def give_deep() -> dict[str, list[Any]]:
    return {"list": [give(), np.ones(MIB)]}


def give_held() -> Holder:
    return Holder(give())


def give_twice() -> list[Connection]:
    reader = give()
    return [reader, reader]


def give_with_lock() -> Any:
    return [give(), threading.Lock()]


def fail_with_connection() -> None:
    raise ValueError("failed", give())


def tell_and_die(to: Connection, marker: str) -> None:
    tell(to)
    if not Path(marker).exists():
        Path(marker).touch()
        os._exit(3)


def echo(value: Any) -> Any:
    return value


def fail(value: Any) -> None:
    raise ValueError(value)


def nested_tell(to: Connection) -> None:
    current_executor().submit(tell, to).result(PATIENCE)


def nested_give() -> str:
    with current_executor().submit(give).result(PATIENCE) as reader:
        return str(reader.recv())


def nested_refused() -> str:
    with give() as reader:
        try:
            current_executor().submit(echo, reader).result(PATIENCE)
        except TypeError as exc:
            return str(exc)
    return ""


def received(reader: Connection) -> Any:
    assert reader.poll(PATIENCE), "nothing came"
    return reader.recv()


def read(one: socket.socket) -> bytes:
    one.settimeout(PATIENCE)
    return one.recv(100)


def told(submit: Callable[[Connection], Any]) -> None:
    """What `submit` starts gets one end of a pipe and tells something; then nobody has that end."""
    reader, writer = multiprocessing.Pipe(duplex=False)
    with reader:
        with writer:
            submit(writer).result(PATIENCE)
        assert received(reader) == "hello"
        with pytest.raises(EOFError):
            received(reader)


@contextlib.contextmanager
def unharmed() -> Iterator[None]:
    """No descriptor of this process is closed, or becomes another's, meanwhile."""
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(40)]
    before = [os.fstat(one) for one in opened]
    try:
        yield
        assert [os.fstat(one) for one in opened] == before
    finally:
        for one in opened:
            with contextlib.suppress(OSError):
                os.close(one)


@pytest.fixture(scope="module", autouse=True)
def _no_sharer_left() -> Iterator[None]:
    # The clean-up of the standard library's suites has removed its socket if they ran here before.
    sharer = vars(resource_sharer)["_resource_sharer"]
    sharer._afterfork()
    yield
    resource_sharer.stop(PATIENCE)


@pytest.fixture(scope="module")
def local(server: ServerProcess) -> Iterator[RedisExecutor]:
    """Its workers run before any pipe is made, so they have inherited none."""
    with executor("local", server.url, "-", 2) as made:
        made.submit(echo, 1).result(PATIENCE)
        yield made


@pytest.fixture(scope="module", params=["stdlib", "local"])
def both(request: pytest.FixtureRequest, local: RedisExecutor) -> Iterator[Executor]:
    if request.param == "local":
        yield local
        return
    with ProcessPoolExecutor(2) as made:
        # One process at a time is started.
        for future in [made.submit(echo, bytes(MIB)) for _ in range(20)]:
            future.result(PATIENCE)
        yield made


@pytest.fixture(scope="module")
def far(server: ServerProcess) -> Iterator[RedisExecutor]:
    name = f"descriptors-{os.urandom(6).hex()}"
    with executor("daemon", server.url, name, 1) as made:
        made.submit(echo, 1).result(PATIENCE)
        yield made


@pytest.fixture(scope="module", params=MODES)
def ex(request: pytest.FixtureRequest, local: RedisExecutor, far: RedisExecutor) -> RedisExecutor:
    return local if request.param == "local" else far


# On one machine


@pytest.mark.parametrize(
    "submit",
    [
        pytest.param(lambda ex, to: ex.submit(tell, to), id="argument"),
        pytest.param(lambda ex, to: ex.submit(tell, to=to), id="keyword"),
        pytest.param(lambda ex, to: ex.submit(tell_deep, {"list": [to]}), id="container"),
        pytest.param(lambda ex, to: ex.submit(tell_attribute, Holder(to)), id="attribute"),
        pytest.param(lambda ex, to: ex.submit(functools.partial(tell, to)), id="partial"),
        pytest.param(lambda ex, to: ex.submit(Holder(to).tell), id="method"),
    ],
)
def test_a_connection_goes_to_a_task(both: Executor, submit: Any) -> None:
    with unharmed():
        told(lambda to: submit(both, to))


@pytest.mark.parametrize("deep", [False, True])
def test_a_socket_goes_to_a_task(both: Executor, deep: bool) -> None:
    one, other = socket.socketpair()
    with unharmed(), one:
        with other:
            future = both.submit(write_deep, [other]) if deep else both.submit(write, other)
            future.result(PATIENCE)
        assert read(one) == b"hello"
        assert read(one) == b""


@pytest.mark.parametrize("function", [give, give_socket])
def test_a_connection_or_socket_is_a_result(both: Executor, function: Any) -> None:
    with unharmed(), both.submit(function).result(PATIENCE) as got:
        assert (read(got) if isinstance(got, socket.socket) else received(got)) in (
            "hello",
            b"hello",
        )


def test_a_result_has_connections_in_it(both: Executor) -> None:
    with unharmed():
        deep = both.submit(give_deep).result(PATIENCE)
        with deep["list"][0] as reader:
            assert received(reader) == "hello"
        assert deep["list"][1].sum() == MIB and deep["list"][1].flags.writeable
        with both.submit(give_held).result(PATIENCE).held as reader:
            assert received(reader) == "hello"
        one, again = both.submit(give_twice).result(PATIENCE)
        assert one is again
        one.close()


def test_map_takes_connections(both: Executor) -> None:
    pipes = [multiprocessing.Pipe(duplex=False) for _ in range(5)]
    list(both.map(tell, [writer for _, writer in pipes], timeout=PATIENCE))
    for reader, writer in pipes:
        assert received(reader) == "hello"
        reader.close()
        writer.close()


def test_a_closure_has_a_connection_or_socket(local: RedisExecutor) -> None:
    told(lambda to: local.submit(lambda: to.send("hello")))
    one, other = socket.socketpair()
    with one:
        with other:
            local.submit(lambda: other.sendall(b"hello")).result(PATIENCE)
            # Among what only goes by value.
            local.submit(lambda f, to: to.sendall(f()), lambda: b"!", other).result(PATIENCE)
        assert read(one) + read(one) == b"hello!"
        assert read(one) == b""


def test_an_exception_has_a_connection(local: RedisExecutor) -> None:
    error = local.submit(fail_with_connection).exception(PATIENCE)
    assert isinstance(error, ValueError)
    with error.args[1] as reader:
        assert received(reader) == "hello"


def test_a_connection_beside_a_large_array(local: RedisExecutor) -> None:
    array = np.arange(MIB, dtype=np.float64)
    told(lambda to: local.submit(lambda to, a: to.send("hello"), to, array))
    told(lambda to: local.submit(tell_deep, {"list": [to, array]}))
    told(lambda to: local.submit(functools.partial(tell_deep, {"list": [to, array]})))


def test_what_cannot_be_pickled_leaves_no_descriptor_open(local: RedisExecutor) -> None:
    for value in (threading.Lock(), [lambda: 1, threading.Lock()]):
        one, other = socket.socketpair()
        with one:
            with other, pytest.raises(TypeError, match="cannot pickle"):
                local.submit(echo, [other, value]).result(PATIENCE)
            assert read(one) == b""
    with pytest.raises(TypeError, match="cannot pickle"):
        local.submit(give_with_lock).result(PATIENCE)


def test_workers_live_until_their_results_are_there(server: ServerProcess) -> None:
    context = multiprocessing.get_context("spawn")
    with executor("local", server.url, "-", 1, max_tasks_per_child=1, mp_context=context) as ex:
        for future in [ex.submit(give) for _ in range(3)]:
            with future.result(PATIENCE) as reader:
                assert received(reader) == "hello"


def test_a_task_that_is_run_again_has_lost_its_connection(
    server: ServerProcess, tmp_path: Path
) -> None:
    reader, writer = multiprocessing.Pipe(duplex=False)
    with executor("local", server.url, "-", 1) as ex, reader, writer:
        future = ex.submit(tell_and_die, writer, str(tmp_path / "marker"))
        with pytest.raises(TaskPayloadError, match="handed over only once"):
            future.result(PATIENCE)
        assert received(reader) == "hello"
        assert ex.submit(echo, 1).result(PATIENCE) == 1


def test_a_pool_takes_connections_to_what_goes_by_value(local: RedisExecutor) -> None:
    with shim.Pool(1) as pool:
        reader, writer = multiprocessing.Pipe(duplex=False)
        with reader, writer:
            pool.apply_async(lambda to: to.send("hello"), (writer,)).get(PATIENCE)
            assert received(reader) == "hello"


# Tasks of tasks


def test_tasks_hand_connections_to_their_own(local: RedisExecutor) -> None:
    told(lambda to: local.submit(nested_tell, to))
    assert local.submit(nested_give).result(PATIENCE) == "hello"


def test_tasks_of_a_daemon_have_none_to_hand_over(far: RedisExecutor) -> None:
    assert "pressure.multiprocessing.Queue" in far.submit(nested_refused).result(PATIENCE)


# Where others may be on other machines


@pytest.mark.parametrize(
    "submit",
    [
        pytest.param(lambda ex, to: ex.submit(echo, to), id="argument"),
        pytest.param(lambda ex, to: ex.submit(echo, value=to), id="keyword"),
        pytest.param(lambda ex, to: ex.submit(echo, [{"a": to}]), id="container"),
        pytest.param(lambda ex, to: ex.submit(echo, (to, lambda: 1)), id="by value"),
        pytest.param(lambda ex, to: ex.submit(functools.partial(echo, to)), id="partial"),
        pytest.param(lambda ex, to: ex.submit(lambda: to), id="closure"),
        pytest.param(lambda ex, to: ex.submit(Holder(to).tell), id="method"),
    ],
)
def test_a_connection_is_refused(far: RedisExecutor, submit: Any) -> None:
    reader, writer = multiprocessing.Pipe(duplex=False)
    one, other = socket.socketpair()
    with reader, writer, one, other, Listener() as listener:
        for refused in (reader, writer, one, listener):
            future = submit(far, refused)
            assert future.done()
            with pytest.raises(TypeError, match=INSTEAD):
                future.result(PATIENCE)
    assert far.submit(echo, 1).result(PATIENCE) == 1


@pytest.mark.parametrize("function", [give, give_deep, give_held, give_socket])
def test_a_connection_as_a_result_is_refused(far: RedisExecutor, function: Any) -> None:
    with unharmed(), pytest.raises(TypeError, match=INSTEAD):
        far.submit(function).result(PATIENCE)
    assert far.submit(echo, 1).result(PATIENCE) == 1


def test_a_connection_in_an_exception_is_refused(far: RedisExecutor) -> None:
    with unharmed(), pytest.raises(ResultPayloadError, match=INSTEAD):
        far.submit(fail_with_connection).result(PATIENCE)


# Sharing


def test_a_connection_cannot_be_shared(ex: RedisExecutor) -> None:
    one, other = socket.socketpair()
    with give() as reader, one, other:
        for value in (reader, [reader], [reader, lambda: 1], one):
            with pytest.raises(TypeError, match=INSTEAD):
                ex.share(value)


def test_a_connection_beside_what_is_shared(local: RedisExecutor) -> None:
    with local.share("hello") as shared:
        told(lambda to: local.submit(tell, to, shared))


def test_a_large_argument_with_a_connection_comes_again(server: ServerProcess) -> None:
    with executor("local", server.url, "-", 1) as ex:
        assert ex.submit(len, bytes(2 * MIB)).result(PATIENCE) == 2 * MIB
        reader, writer = multiprocessing.Pipe(duplex=False)
        with reader, writer:
            large = Large(writer)
            for _ in range(4):
                assert ex.submit(tell_and_size, large).result(PATIENCE) == 2 * MIB
                assert received(reader) == "hello"


# Mere words


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(WORDS, id="str"),
        pytest.param(WORDS.encode(), id="bytes"),
        pytest.param({WORDS: [WORDS.encode(), bytearray(WORDS.encode())]}, id="container"),
        pytest.param([WORDS, np.ones(MIB)], id="beside an array"),
        pytest.param([WORDS, np.ones(3)], id="beside a small array"),
        pytest.param([Connection, connection.wait, socket.socket], id="classes and functions"),
        pytest.param([WORDS, {}.keys()], id="by value"),
    ],
)
def test_words_travel(ex: RedisExecutor, value: Any) -> None:
    equal = np.testing.assert_equal
    equal(str(ex.submit(echo, value).result(PATIENCE)), str(value))
    equal(str(ex.submit(echo, value=value).result(PATIENCE)), str(value))
    equal(str(ex.submit(functools.partial(echo, value)).result(PATIENCE)), str(value))
    equal(str(ex.submit(lambda: value).result(PATIENCE)), str(value))
    equal(str(ex.submit(lambda a, f: f(a), value, lambda a: a).result(PATIENCE)), str(value))
    error = ex.submit(fail, value).exception(PATIENCE)
    assert isinstance(error, ValueError)
    equal(str(error.args[0]), str(value))
    with ex.share(value) as shared:
        equal(str(ex.submit(echo, shared).result(PATIENCE)), str(value))


def test_large_arrays_beside_words_stay_out_of_band(ex: RedisExecutor) -> None:
    array = np.arange(MIB, dtype=np.float64)
    words, result = ex.submit(echo, (WORDS, array)).result(PATIENCE)
    assert words == WORDS and np.array_equal(result, array) and result.flags.writeable
