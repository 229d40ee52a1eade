from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest
import redis

from tests.support.acl import as_admin
from tests.support.proxy import FaultyProxy
from tests.support.resp import MalformedMessageError, Splitter
from tests.support.servers import ServerProcess
from tests.support.waiting import eventually

CONNECTION_LOST = (redis.ConnectionError, redis.TimeoutError)
MakeClient = Callable[..., redis.Redis]


@pytest.fixture
def through(proxy: FaultyProxy) -> Iterator[MakeClient]:
    """Makes clients that come through the proxy, and never retry."""
    made: list[redis.Redis] = []

    def make(socket_timeout: float = 10.0) -> redis.Redis:
        made.append(redis.Redis.from_url(as_admin(proxy.url), socket_timeout=socket_timeout))
        return made[-1]

    yield make
    for each in made:
        each.close()


def connections_named(client: redis.Redis, name: str) -> int:
    return sum(entry["name"] == name for entry in client.client_list())


def test_without_faults_it_is_invisible(through: MakeClient, queue_name: str) -> None:
    client = through()
    big = bytes(range(256)) * 4096

    client.set(queue_name, big)
    assert client.get(queue_name) == big
    pipeline = client.pipeline()
    for number in range(1000):
        pipeline.rpush(f"{queue_name}:list", number)
    pipeline.lrange(f"{queue_name}:list", 0, -1)
    assert pipeline.execute()[-1] == [str(number).encode() for number in range(1000)]
    with pytest.raises(redis.ResponseError):
        client.lpush(queue_name, "wrong type")


@pytest.mark.parametrize("reset", [False, True])
def test_cut_ends_open_connections_and_lets_new_ones_in(
    make_server: Callable[..., ServerProcess], reset: bool
) -> None:
    server = make_server(unix=False, password="secret")
    with FaultyProxy(server.url) as proxy, redis.Redis.from_url(as_admin(proxy.url)) as client:
        parts = urlsplit(proxy.url)
        # Not by a client library, which would notice the cut and connect again.
        raw = socket.create_connection((str(parts.hostname), parts.port or 0), timeout=10.0)
        raw.sendall(b"AUTH secret\r\n")
        assert raw.recv(100) == b"+OK\r\n"
        assert proxy.connections == 1

        proxy.cut(reset=reset)

        assert proxy.connections == 0
        if reset:
            with pytest.raises(ConnectionResetError):
                raw.recv(100)
        else:
            assert raw.recv(100) == b""
        raw.close()
        assert client.ping()


def test_cut_wakes_a_blocked_client(
    proxy: FaultyProxy, through: MakeClient, client: redis.Redis, queue_name: str
) -> None:
    outcome: list[BaseException] = []
    blocked = through()

    def block() -> None:
        try:
            blocked.blpop([queue_name], 0)
        except redis.RedisError as error:
            outcome.append(error)

    thread = threading.Thread(target=block, daemon=True)
    thread.start()
    assert eventually(lambda: client.info("clients")["blocked_clients"] >= 1)

    proxy.cut()

    thread.join(10)
    assert len(outcome) == 1
    assert isinstance(outcome[0], redis.ConnectionError)


def test_refuse_turns_new_connections_away_until_accept(
    proxy: FaultyProxy, through: MakeClient
) -> None:
    old = through()
    old.ping()

    proxy.refuse()

    assert old.ping()
    with pytest.raises(redis.ConnectionError, match=r"(?i)refused"):
        through().ping()
    proxy.accept()
    assert through().ping()


def test_stall_holds_data_back_until_resume(
    proxy: FaultyProxy, through: MakeClient, client: redis.Redis, queue_name: str
) -> None:
    impatient, patient = through(socket_timeout=0.5), through()
    impatient.ping()
    patient.ping()
    proxy.stall()
    with pytest.raises(redis.TimeoutError):
        impatient.set(queue_name, "1")
    assert client.get(queue_name) is None
    threading.Timer(0.05, proxy.resume).start()

    assert patient.ping()

    assert eventually(lambda: client.get(queue_name) == b"1")


def test_a_stall_may_end_by_itself(proxy: FaultyProxy, through: MakeClient) -> None:
    client = through()
    client.ping()
    started = time.monotonic()

    proxy.stall(0.2)

    assert client.ping()
    assert time.monotonic() - started >= 0.2


@pytest.mark.parametrize("direction", ["to_server", "to_client"])
def test_delay_holds_one_direction(
    proxy: FaultyProxy, through: MakeClient, client: redis.Redis, queue_name: str, direction: str
) -> None:
    hasty = through(socket_timeout=0.5)
    hasty.ping()

    proxy.delay(30.0, "to_server" if direction == "to_server" else "to_client")

    with pytest.raises(redis.TimeoutError):
        hasty.set(queue_name, "1")
    if direction == "to_server":
        assert client.get(queue_name) is None
        proxy.delay(0)
    assert eventually(lambda: client.get(queue_name) == b"1")
    proxy.delay(0)
    assert hasty.ping()


@pytest.mark.parametrize("cut", [True, False])
def test_a_lost_reply_belongs_to_a_command_that_was_carried_out(
    proxy: FaultyProxy, through: MakeClient, client: redis.Redis, queue_name: str, cut: bool
) -> None:
    victim = through(socket_timeout=10.0 if cut else 0.5)
    victim.ping()
    fault = proxy.drop_next_reply("incrby", cut=cut)
    victim.set(queue_name, 10)
    assert not fault.struck

    with pytest.raises(redis.ConnectionError if cut else redis.TimeoutError):
        victim.incrby(queue_name)

    fault.wait()
    assert fault.command == (b"INCRBY", queue_name.encode(), b"1")
    assert client.get(queue_name) == b"11"
    assert victim.incrby(queue_name) == 12


def test_a_lost_reply_in_a_pipeline_leaves_the_replies_before_it(
    proxy: FaultyProxy, client: redis.Redis, queue_name: str
) -> None:
    fault = proxy.drop_next_reply(lambda words: words[0] == b"RPUSH" and words[2] == b"b")
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(10.0)
        raw.connect(urlsplit(proxy.url).path)
        raw.sendall("".join(f"RPUSH {queue_name} {value}\r\n" for value in "abc").encode())
        received = b""
        while data := raw.recv(100):
            received += data

    fault.wait()
    assert received == b":1\r\n"
    assert client.lrange(queue_name, 0, -1) == [b"a", b"b", b"c"]


def test_a_lost_reply_of_a_blocking_command(
    proxy: FaultyProxy, through: MakeClient, client: redis.Redis, queue_name: str
) -> None:
    victim = through()
    fault = proxy.drop_next_reply("BLMOVE")
    failed = threading.Event()

    def move() -> None:
        try:
            victim.blmove(queue_name, f"{queue_name}:taken", 0)
        except redis.ConnectionError:
            failed.set()

    thread = threading.Thread(target=move, daemon=True)
    thread.start()
    assert eventually(lambda: client.info("clients")["blocked_clients"] >= 1)
    assert not fault.struck

    client.lpush(queue_name, "x")

    fault.wait()
    assert failed.wait(10)
    assert client.lrange(f"{queue_name}:taken", 0, -1) == [b"x"]


def test_a_fault_without_a_command_spares_the_handshake(
    proxy: FaultyProxy, through: MakeClient
) -> None:
    fault = proxy.drop_next_reply()

    with pytest.raises(redis.ConnectionError):
        through().ping()

    fault.wait()
    assert fault.command == (b"PING",)


def test_a_lost_request_is_never_carried_out(
    proxy: FaultyProxy, through: MakeClient, client: redis.Redis, queue_name: str
) -> None:
    victim = through()
    fault = proxy.drop_next_request("SET")

    with pytest.raises(redis.ConnectionError):
        victim.set(queue_name, 1)

    fault.wait()
    assert client.exists(queue_name) == 0
    assert victim.set(queue_name, 1)


def test_a_fault_that_never_strikes_is_told(proxy: FaultyProxy) -> None:
    with pytest.raises(AssertionError, match="no command met"):
        proxy.drop_next_reply("GET").wait(0.01)


def test_a_black_hole_leaves_a_half_open_connection_at_the_server(
    proxy: FaultyProxy, through: MakeClient, client: redis.Redis, queue_name: str
) -> None:
    lost = through(socket_timeout=0.5)
    lost.client_setname(queue_name)

    proxy.black_hole()

    with pytest.raises(redis.TimeoutError):
        lost.ping()
    lost.close()
    assert connections_named(client, queue_name) == 1
    assert through().ping()
    proxy.cut()
    assert eventually(lambda: connections_named(client, queue_name) == 0)


def test_a_partition_swallows_new_connections_until_it_heals(
    proxy: FaultyProxy, through: MakeClient
) -> None:
    proxy.black_hole(new_connections=True)
    with pytest.raises(CONNECTION_LOST):
        through(socket_timeout=0.5).ping()

    proxy.heal()

    assert through().ping()


def test_the_end_of_either_side_is_passed_on(fresh_server: ServerProcess, queue_name: str) -> None:
    with FaultyProxy(fresh_server.url) as proxy:
        client = redis.Redis.from_url(as_admin(proxy.url))
        client.client_setname(queue_name)
        client.close()
        inspector = fresh_server.client()
        assert eventually(lambda: connections_named(inspector, queue_name) == 0)
        client.ping()

        fresh_server.kill()

        with pytest.raises(redis.ConnectionError):
            client.ping()
        client.close()


def test_close_ends_all_threads(server: ServerProcess) -> None:
    proxy = FaultyProxy(server.url)
    client = redis.Redis.from_url(as_admin(proxy.url))
    client.ping()
    proxy.stall()

    proxy.close()
    proxy.close()

    assert not [thread for thread in threading.enumerate() if thread.name.startswith("proxy-")]
    client.close()


MESSAGES = [
    b"+OK\r\n",
    b"$-1\r\n",
    b"$5\r\na\r\nbc\r\n",
    b"*-1\r\n",
    b"*0\r\n",
    b"*2\r\n*1\r\n:1\r\n$0\r\n\r\n",
    b"%1\r\n+key\r\n~2\r\n#t\r\n_\r\n",
    b">2\r\n+invalidate\r\n*0\r\n",
    b"|1\r\n+ttl\r\n:5\r\n+value\r\n",
    b"=5\r\ntxt:x\r\n",
    b",1.5\r\n",
]


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_the_splitter_finds_all_messages_however_they_arrive(size: int) -> None:
    stream = b"".join(MESSAGES)
    splitter = Splitter()

    pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
    found = [message for piece in pieces for message in splitter.feed(piece)]

    assert [message.raw for message in found] == MESSAGES
    assert [message.is_push for message in found].index(True) == 7
    assert splitter.rest() == b""


def test_the_splitter_refuses_another_protocol() -> None:
    with pytest.raises(MalformedMessageError):
        Splitter().feed(b"HTTP/1.1 400\r\n")


def test_commands_are_split_into_words() -> None:
    command, inline = Splitter(inline=True).feed(b"*2\r\n$3\r\nGET\r\n$4\r\na\r\nb\r\nPING x\r\n")

    assert command.arguments() == (b"GET", b"a\r\nb")
    assert inline.arguments() == (b"PING", b"x")
