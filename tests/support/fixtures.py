"""The fixtures over the support modules.

`PRESSURE_TEST_SERVER` chooses the kind of server: `valkey` (the default), `redis`, or `both`, which
runs each test that needs a server twice. A test marked `leaves_no_keys` fails if any key that holds
its `queue_name` is left at its end; without the mark such keys are removed. With
`PRESSURE_TEST_ACL=1` clients are a user with few permissions and a password (`tests.support.acl`),
which must not be seen in any output.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from tests.support import acl
from tests.support.account import Account
from tests.support.processes import Child, spawn
from tests.support.proxy import FaultyProxy
from tests.support.servers import Kind, ServerProcess, ServerUnavailableError, server_program


def _kinds() -> list[str]:
    wanted = os.environ.get("PRESSURE_TEST_SERVER", "valkey")
    kinds = {"valkey": ["valkey"], "redis": ["redis"], "both": ["valkey", "redis"]}
    if wanted not in kinds:
        raise pytest.UsageError(f"PRESSURE_TEST_SERVER is {wanted!r}, not one of {list(kinds)}")
    return kinds[wanted]


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark."""
    config.addinivalue_line(
        "markers", "leaves_no_keys: fail if a key that holds the test's queue_name is left"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test fails if anything printed or logged the password that is part of its server's url."""
    report = yield
    if any(acl.PASSWORD in text for _, text in report.sections):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: the server's password is in what was printed or logged"
    return report


def keys_left(client: redis.Redis, name: str) -> list[str]:
    """The keys whose name holds `name`, whatever prefix, hash tag or suffix is around it."""
    literal = "".join(f"\\{char}" if char in "*?[]\\^" else char for char in name)
    keys = client.scan_iter(match=f"*{literal}*", count=1000)
    return sorted(key.decode(errors="surrogateescape") for key in keys)


@pytest.fixture(scope="session", params=_kinds())
def redis_server_kind(request: pytest.FixtureRequest) -> Kind:
    """`"valkey"` or `"redis"`; a test that needs it is skipped where that is not installed."""
    kind = cast(Kind, request.param)
    try:
        server_program(kind)
    except ServerUnavailableError as error:
        pytest.skip(str(error))
    return kind


@pytest.fixture(scope="session")
def server(redis_server_kind: Kind) -> Iterator[ServerProcess]:
    """The server that most tests share, on a unix socket. To be neither harmed nor flushed."""
    with ServerProcess(redis_server_kind) as server:
        yield server


@pytest.fixture
def make_server(redis_server_kind: Kind) -> Iterator[Callable[..., ServerProcess]]:
    """Makes servers of this test's own: takes the options of `ServerProcess` but `kind`."""
    made: list[ServerProcess] = []

    def make(**options: Any) -> ServerProcess:
        made.append(ServerProcess(redis_server_kind, **options))
        return made[-1]

    yield make
    for server in made:
        server.close()


@pytest.fixture
def fresh_server(make_server: Callable[..., ServerProcess]) -> ServerProcess:
    """A server of this test's own, with an append-only file, to be killed and restarted at will."""
    return make_server(appendonly=True)


@pytest.fixture
def url(server: ServerProcess) -> str:
    """The address of the shared server."""
    return server.url


@pytest.fixture
def client(server: ServerProcess) -> Iterator[redis.Redis]:
    """A plain client of the shared server, to look at its keys."""
    with server.client() as client:
        yield client


@pytest.fixture
def namespace() -> str:
    """A key prefix that no other test uses."""
    return f"__test_{uuid.uuid4().hex[:12]}__"


@pytest.fixture
def queue_name(request: pytest.FixtureRequest, server: ServerProcess) -> Iterator[str]:
    """A queue name that no other test uses, on the shared server. Its keys are removed at the end.

    With the mark `leaves_no_keys` the test must have removed them.
    """
    name = f"q-{uuid.uuid4().hex[:12]}"
    yield name
    with server.client() as client:
        left = keys_left(client, name)
        if left:
            client.delete(*(key.encode(errors="surrogateescape") for key in left))
    if request.node.get_closest_marker("leaves_no_keys"):
        assert not left, f"keys left behind: {left}"


@pytest.fixture
def proxy(server: ServerProcess) -> Iterator[FaultyProxy]:
    """A faulty network in front of the shared server."""
    with FaultyProxy(server.url) as proxy:
        yield proxy


@pytest.fixture
def spawn_child() -> Iterator[Callable[..., Child]]:
    """`tests.support.processes.spawn`; the children and what they started end with the test."""
    children: list[Child] = []

    def spawn_and_remember(*args: Any, **options: Any) -> Child:
        children.append(spawn(*args, **options))
        return children[-1]

    yield spawn_and_remember
    for child in children:
        child.close()


@pytest.fixture
def account(tmp_path: Path) -> Account:
    """The books of this test."""
    return Account(tmp_path / "account")
