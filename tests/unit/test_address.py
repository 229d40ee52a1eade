"""What a malformed URL gets, and what it never gives away."""

from __future__ import annotations

import errno

import pytest
import redis.exceptions as redis_errors

from pressure.address import Address
from pressure.nodes import named


@pytest.mark.parametrize(
    "url",
    [
        "redis://:se/kret@127.0.0.1:1",
        "redis://user:se?kret@127.0.0.1:1",
        "redis://:se#kret@127.0.0.1:1",
        "http://:sekret@127.0.0.1:1",
        "http://127.0.0.1/?password=sekret&db=1",
        "redis+sentinel://:se/kret@127.0.0.1:1/service",
        "redis+sentinel://:sekret@127.0.0.1:1",
        "redis+cluster://:sekret@127.0.0.1:1,/0",
        "redis+cluster://127.0.0.1/1?password=sekret",
    ],
)
def test_a_malformed_url_does_not_show_its_password(url: str) -> None:
    with pytest.raises(ValueError, match="is no server URL") as caught:
        Address.of(url)
    said = str(caught.value)
    assert "kret" not in said
    assert "'se" not in said
    assert "127.0.0.1" in said


@pytest.mark.parametrize(
    "url, database",
    [
        ("redis://one", 0),
        ("redis://one/", 0),
        ("redis://one/3/?socket_timeout=1", 3),
        ("redis://one?db=4", 4),
        ("unix:///tmp/one.sock?db=5", 5),
    ],
)
def test_databases(url: str, database: int) -> None:
    assert Address.of(url).identity[1] == database


def test_sentinels() -> None:
    url = "redis+sentinel://user:se%2Fkret@one:1,[::1]:2,three/jobs/5?sentinel_password=other"
    address = Address.of(url)
    assert str(address) == "jobs (sentinels one:1,[::1]:2,three:26379)"
    assert address.settings["password"] == "se/kret"
    assert address.identity == (str(address), 5)
    search = address.search()
    assert search is not None
    question = next(search)
    assert question.words == ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "jobs")
    login = address.settings_for(question)
    assert (login["host"], login["port"], login["db"]) == ("one", 1, 0)
    assert (login["username"], login["password"]) == (None, "other")
    # The first one is dead, the second one knows nothing.
    search.throw(ConnectionError())
    search.send(None)
    with pytest.raises(StopIteration) as found:
        search.send([b"there", b"6379"])
    assert address.settings_at(found.value.value)["host"] == "there"
    # From now on that one is asked first, until what it says turns out to be wrong.
    assert next(address.search() or iter(())).node.host == "three"
    address.heed(ConnectionError())
    assert next(address.search() or iter(())).node.host == "one"


def test_a_cluster() -> None:
    address = Address.of("rediss+cluster://one:1,two")
    assert str(address) == "one:1,two:6379 (cluster)"
    assert address.connection_class.__name__ == "SSLConnection"
    queue = address.for_queue(b"p:{name}")
    search = queue.search()
    assert search is not None
    asked = next(search).node
    with pytest.raises(StopIteration) as found:
        search.send([[0, 16383, ["there", 7000, b"id"], ["replica", 7001, b"id"]]])
    assert found.value.value == ("there", 7000)
    # It is remembered, until there is an error.
    with pytest.raises(StopIteration):
        next(queue.search() or iter(()))
    queue.heed(ConnectionError())
    search = queue.search()
    assert search is not None
    nodes = {next(search).node}
    for _ in range(3):
        nodes.add(search.throw(ConnectionError()).node)
    assert nodes == {("there", 7000), ("replica", 7001), ("one", 1), ("two", 6379)}
    assert asked in nodes


@pytest.mark.parametrize(
    "url, complaint",
    [
        ("redis+sentinel://one", "service .* is missing"),
        ("redis+sentinel://one/jobs/x", "no number of a database"),
        ("redis+sentinel:///jobs", "a host is missing"),
        ("redis+cluster://one,two/3", "database 0 only"),
        ("redis+cluster://one:x", "no host:port"),
        ("redis+socket://one", "is no server URL"),
        ("redis://one/x", "'x' is no number of a database"),
        ("rediss://one/1/2", "'1/2' is no number of a database"),
        ("redis://:password@one/x", "db is a number"),
        ("rediss://one?ssl_ca_certs=/not/there.pem", "ssl_ca_certs .* no file '/not/there.pem'"),
    ],
)
def test_what_is_wrong_is_said(url: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Address.of(url)


def test_what_a_node_of_a_cluster_answers_has_a_name() -> None:
    """Whichever version of redis-py read it."""
    ask = named(redis_errors.ResponseError("ASK 14604 ::1:7000"))
    assert isinstance(ask, redis_errors.AskError)
    assert (ask.slot_id, ask.host, ask.port) == (14604, "::1", 7000)
    for text, kind in (
        ("MOVED 1 host:2", redis_errors.MovedError),
        ("TRYAGAIN Multiple keys request during rehashing of slot", redis_errors.TryAgainError),
        ("CLUSTERDOWN Hash slot not served", redis_errors.ClusterDownError),
        ("CROSSSLOT Keys in request", redis_errors.ClusterCrossSlotError),
    ):
        assert type(named(redis_errors.ResponseError(text))) is kind
    other = redis_errors.ResponseError("ERR syntax error")
    assert named(other) is other


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EMFILE, "raise the limit on open files"),
        (errno.ENFILE, "raise the limit on open files"),
        (errno.EPIPE, "takes more clients"),
        (errno.EACCES, "private to the user who started it"),
        (errno.ECONNREFUSED, "start one there"),
    ],
)
def test_advice_fits_the_cause(number: int, words: str) -> None:
    cause = redis_errors.ConnectionError("no connection")
    cause.__context__ = OSError(number, "it is so")
    assert words in Address.of("redis://127.0.0.1:1", None).advice(cause)
    assert "start one there" in Address.of("redis://127.0.0.1:1", None).advice()
