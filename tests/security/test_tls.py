"""TLS: a server with the right certificate is talked to, any other one never."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

import pressure.aio
import pressure.multiprocessing as mp
from pressure import PressureQueue, RedisExecutor, Settings
from pressure.address import Address
from pressure.errors import ServerError, ServerRefusedError
from tests.aio.running import run
from tests.executor.programs import Program
from tests.faults import executing as do
from tests.support.processes import Child, report
from tests.support.servers import ServerProcess, ServerUnavailableError, server_program
from tests.support.tls import Authority, Certificate, openssl

WAIT = 30.0
PATIENT = Settings(reconnect_timeout=3600.0)
"""Who took a refusal for an outage would look for the server for an hour."""


class Site:
    """A server that speaks TLS with a certificate for `localhost`, and authorities."""

    def __init__(self, folder: Path) -> None:
        self.ours, self.theirs = Authority(folder, "ours"), Authority(folder, "theirs")
        self.certificate = self.ours.certify("localhost")
        self.server, self.port = _tls_server(self.certificate, self.ours)

    def url(self, host: str = "localhost", ca: Path | None = None, **options: str) -> str:
        query = {"ssl_ca_certs": str(ca or self.ours.file)} | options
        text = "&".join(f"{name}={value}" for name, value in query.items())
        return f"rediss://{host}:{self.port}/0?{text}"


def _tls_server(
    certificate: Certificate, authority: Authority, *, clients: str = "no"
) -> tuple[ServerProcess, int]:
    """Debian's server on a TLS port (and on its unix socket), which may want certified clients."""
    for attempt in range(3):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            number = probe.getsockname()[1]
        options = {
            "tls-port": str(number),
            "bind": "127.0.0.1",
            "tls-cert-file": str(certificate.certificate),
            "tls-key-file": str(certificate.key),
            "tls-ca-cert-file": str(authority.file),
            "tls-auth-clients": clients,
        }
        arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
        try:
            return ServerProcess("redis", extra_args=arguments), number
        except AssertionError:
            if attempt == 2:
                raise
    raise AssertionError


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if openssl() is None:
        pytest.skip("no openssl in PATH")
    try:
        server_program("redis")
    except ServerUnavailableError as error:
        pytest.skip(str(error))
    made = Site(tmp_path_factory.mktemp("tls"))
    yield made
    made.server.close()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return f"q-{request.node.name}".replace("[", "-").replace("]", "")


def refused(call: Callable[[], Any], said: str) -> None:
    """It ends at once, with the reason."""
    began = time.monotonic()
    with pytest.raises(ServerRefusedError, match=said):
        call()
    assert time.monotonic() - began < WAIT


# The right certificate


def test_a_queue(site: Site, name: str) -> None:
    with PressureQueue[Any](name, url=site.url()) as q:
        q.create()
        q.put("encrypted")
        assert q.get() == "encrypted"
        with site.server.client() as client:
            (line,) = [line for line in client.client_list() if line["cmd"].startswith("eval")][:1]
            assert line["laddr"].endswith(f":{site.port}"), "it came another way"
        q.delete()


def test_an_asyncio_queue(site: Site, name: str) -> None:
    async def main() -> None:
        async with pressure.aio.PressureQueue[Any](name, url=site.url()) as q:
            await q.create()
            await q.put("encrypted")
            assert await q.get() == "encrypted"
            await q.delete()

    run(main())


def test_an_executor_and_a_daemon(site: Site, name: str, spawn_child: Callable[..., Child]) -> None:
    url = site.url()
    spawn_child(do.serve, url, name, 1, 15.0, "key").wait_for("serving")
    with RedisExecutor(url=url, queue=name, key="key") as executor:
        assert executor.submit(do.square, 7).result(WAIT) == 49


def _take(url: str, queue: Any) -> None:
    report("took", queue.get(timeout=WAIT))


def test_a_multiprocessing_queue(site: Site, spawn_child: Callable[..., Child]) -> None:
    queue: Any = mp.Queue(url=site.url())
    try:
        queue.put("encrypted")
        # The other process gets the options with the handle.
        assert spawn_child(_take, "", queue).wait_for("took", WAIT) == "encrypted"
    finally:
        queue.close()
        queue.join_thread()
        queue.delete()


# Who is not who he should be


@pytest.mark.parametrize("flaw", ["authority", "host"])
def test_a_wrong_certificate(site: Site, name: str, flaw: str) -> None:
    wrong = site.url(ca=site.theirs.file) if flaw == "authority" else site.url("127.0.0.1")
    said = "certificate" if flaw == "authority" else "127.0.0.1"
    with PressureQueue[Any](name, url=wrong, settings=PATIENT) as q:
        refused(q.create, said)

    async def main() -> None:
        async with pressure.aio.PressureQueue[Any](name, url=wrong, settings=PATIENT) as q:
            with pytest.raises(ServerRefusedError, match=said):
                await q.create()

    run(main())
    refused(lambda: mp.Queue(url=wrong), said)
    with RedisExecutor(url=wrong, queue=name, key="key", settings=PATIENT) as executor:
        refused(lambda: executor.submit(do.square, 7).result(WAIT), said)
    program = Program(wrong, "--insecure")
    assert program.wait() == 1, program.output
    assert program.process.stdout is not None
    program.process.stdout.close()
    (line,) = program.output.splitlines()
    assert said in line and "ssl_ca_certs" in line and "password" not in line


def test_another_one_is_there_after_an_outage(site: Site, tmp_path: Path, name: str) -> None:
    impostor = Authority(tmp_path, "impostor").certify("localhost")
    server, port = _tls_server(site.certificate, site.ours)
    url = f"rediss://localhost:{port}/0?ssl_ca_certs={site.ours.file}"
    with (
        contextlib.closing(server),
        server.client() as client,
        PressureQueue[Any](name, url=url, settings=PATIENT) as q,
    ):
        q.create()
        files = ("tls-cert-file", impostor.certificate, "tls-key-file", impostor.key)
        client.execute_command("CONFIG", "SET", *map(str, files))
        client.client_kill_filter(_type="normal", skipme=True)
        refused(lambda: q.put("to whom?"), "not trusted")


# redis-py's options


def test_what_is_checked_can_be_chosen(site: Site, name: str) -> None:
    for url in (
        site.url("127.0.0.1", ssl_check_hostname="False"),
        site.url("127.0.0.1", ca=site.theirs.file, ssl_cert_reqs="none"),
    ):
        with PressureQueue[Any](name, url=url) as q:
            assert not q.exists

        async def main(url: str = url) -> None:
            async with pressure.aio.PressureQueue[Any](name, url=url) as q:
                assert not await q.exists()

        run(main())


def test_clients_with_certificates(site: Site, name: str) -> None:
    server, port = _tls_server(site.certificate, site.ours, clients="yes")
    mine = site.ours.certify("client")
    without = f"rediss://localhost:{port}/0?ssl_ca_certs={site.ours.file}"
    url = f"{without}&ssl_certfile={mine.certificate}&ssl_keyfile={mine.key}"
    with contextlib.closing(server):
        with PressureQueue[Any](name, url=url) as q:
            q.create()
        with (
            PressureQueue[Any](name, url=without, settings=PATIENT) as q,
            pytest.raises(ServerError),
        ):
            q.create()


def test_a_client_of_ones_own(site: Site, name: str) -> None:
    options: dict[str, Any] = {
        "host": "localhost",
        "port": site.port,
        "ssl": True,
        "ssl_ca_certs": str(site.ours.file),
    }
    with redis.Redis(**options) as client, PressureQueue[Any](name, client=client) as q:
        assert not q.exists

    async def main() -> None:
        async with (
            redis.asyncio.Redis(**options) as client,
            pressure.aio.PressureQueue[Any](name, client=client) as q,
        ):
            assert not await q.exists()
        await asyncio.sleep(0)

    run(main())


def test_host_names_are_checked_whatever_the_default_of_redis_py() -> None:
    def checks(url: str) -> object:
        return Address.of(url).settings.get("ssl_check_hostname")

    assert checks("rediss://h:1/0") is True
    assert checks("rediss://h:1/0?ssl_check_hostname=False") is False
    assert checks("rediss://h:1/0?ssl_cert_reqs=none") is None
    assert checks("redis://h:1/0") is None
