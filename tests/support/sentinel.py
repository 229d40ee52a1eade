"""A private primary with replicas and sentinels that watch over them."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

from tests.support.cluster import ask, until
from tests.support.servers import Kind, ServerProcess

__all__ = ["SERVICE", "SentinelSetup"]

SERVICE = "jobs"
DOWN_AFTER_MS = 500


class SentinelSetup:
    """One primary and its replicas, watched by three sentinels, who agree by two.

    Args:
        kind: as for `ServerProcess`.
        replicas: how many.
        password: what the servers (not the sentinels) want of clients and of each other.
    """

    def __init__(
        self, kind: Kind = "valkey", *, replicas: int = 2, password: str | None = None
    ) -> None:
        self.servers: list[ServerProcess] = []
        self.sentinels: list[ServerProcess] = []
        self._password = password
        try:
            options = ["--repl-diskless-sync-delay", "0"]
            if password:
                options += ["--masterauth", password]
            first: ServerProcess | None = None
            for _ in range(1 + replicas):
                lead = ["--replicaof", "127.0.0.1", str(first.port)] if first else []
                server = ServerProcess(
                    kind, unix=False, password=password, extra_args=[*options, *lead]
                )
                self.servers.append(server)
                first = first or server
            assert first is not None
            until(lambda: _connected(self.servers[0]) == replicas)
            for _ in range(3):
                self.sentinels.append(_Sentinel(kind, first.port, password))
            until(self._is_complete)
        except BaseException:
            self.close()
            raise

    def _is_complete(self) -> bool:
        for sentinel in self.sentinels:
            rows: Any = ask(sentinel, "SENTINEL MASTERS")
            row = rows[SERVICE] if isinstance(rows, dict) else _dictionary(rows[0])
            others = int(row["num-other-sentinels"])
            if others != 2 or int(row["num-slaves"]) != len(self.servers) - 1:
                return False
        return True

    @property
    def url(self) -> str:
        """For the library."""
        secret = f":{self._password}@" if self._password else ""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{secret}{hosts}/{SERVICE}/0"

    def primary(self) -> ServerProcess:
        """The one that a majority of the sentinels name."""
        named = [self._named(sentinel) for sentinel in self.sentinels]
        port = max(named, key=named.count)
        return next(server for server in self.servers if server.port == port)

    @staticmethod
    def _named(sentinel: ServerProcess) -> int:
        if not sentinel.running:
            return 0
        reply: Any = ask(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return int(reply[1])

    def replicas(self) -> list[ServerProcess]:
        first = self.primary()
        return [server for server in self.servers if server is not first and server.running]

    def await_replicas(self) -> None:
        """Until the replicas have all that the primary has by now. Sentinel may choose any of them:
        one that had not begun to replicate would make an empty primary."""
        written = int(self.primary().client().info("replication")["master_repl_offset"])

        def have_it() -> bool:
            replicas = [one.client().info("replication") for one in self.replicas()]
            return all(
                one["role"] == "slave"
                and one["master_link_status"] == "up"
                and int(one["slave_repl_offset"]) >= written
                for one in replicas
            )

        until(have_it)

    def fail_over(self) -> None:
        """Demote the primary, which lives on, as an operator may ask for. Sentinel itself tells it
        ten seconds later."""
        old = self.primary()

        def done() -> bool:
            ask(self.sentinels[0], "SENTINEL", "FAILOVER", SERVICE)
            return True

        until(done)
        self.await_primary_other_than(old)
        old.client().replicaof("127.0.0.1", self.primary().port)

    def await_primary_other_than(self, old: ServerProcess) -> ServerProcess:
        until(lambda: self.primary() is not old and _role(self.primary()) == b"master")
        return self.primary()

    def close(self) -> None:
        for server in (*self.sentinels, *self.servers):
            server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _Sentinel(ServerProcess):
    def __init__(self, kind: Kind, port: int, password: str | None) -> None:
        self._watched, self._secret = port, password
        super().__init__(kind, unix=False, extra_args=["--sentinel"])

    def _write_config(self, maxmemory: str | None, password: str | None) -> None:
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f'dir "{self.directory}"',
            'logfile ""',
            f"sentinel monitor {SERVICE} 127.0.0.1 {self._watched} 2",
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {SERVICE} 5000",
            f"sentinel parallel-syncs {SERVICE} 2",
        ]
        if self._secret:
            lines += [f"sentinel auth-pass {SERVICE} {self._secret}"]
        config = Path(self.directory) / "server.conf"
        config.write_text("\n".join(lines) + "\n")
        config.chmod(0o600)


def _connected(server: ServerProcess) -> int:
    info: Any = server.client().info("replication")
    return sum(
        1 for name, row in info.items() if name.startswith("slave") and row["state"] == "online"
    )


def _role(server: ServerProcess) -> bytes:
    try:
        role: Any = ask(server, "ROLE")
    except redis.RedisError:
        return b""
    return bytes(role[0])


def _dictionary(row: Any) -> dict[str, str]:
    words = [word.decode() for word in row]
    return dict(zip(words[::2], words[1::2], strict=True))
