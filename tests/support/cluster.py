"""A private Cluster: a few primaries, each with at most one replica, ready in seconds."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

import redis
from redis.crc import key_slot

from tests.support.servers import Kind, ServerProcess, _free_port

__all__ = ["ClusterNodes", "until"]

SLOTS = 16384
PATIENCE = 30.0
NODE_TIMEOUT_MS = 1000


class ClusterNodes:
    """`primaries` nodes that share the slots, and a replica for each if wanted.

    Args:
        kind: as for `ServerProcess`.
        primaries: how many nodes own slots.
        replicas: whether each of them has a replica, which takes over if it dies.
    """

    def __init__(
        self, kind: Kind = "valkey", *, primaries: int = 3, replicas: bool = False
    ) -> None:
        self.nodes: list[ServerProcess] = []
        try:
            buses = []
            for _ in range(primaries * (2 if replicas else 1)):
                bus = _free_port()
                buses.append(bus)
                options = ["--cluster-enabled", "yes", "--cluster-port", str(bus)]
                options += ["--cluster-node-timeout", str(NODE_TIMEOUT_MS)]
                options += ["--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay"]
                self.nodes.append(ServerProcess(kind, unix=False, extra_args=[*options, "0"]))
            self._join(buses, primaries)
        except BaseException:
            self.close()
            raise

    def _join(self, buses: list[int], primaries: int) -> None:
        first: Any = self.nodes[0].client()
        bounds = [round(SLOTS * i / primaries) for i in range(primaries + 1)]
        for i, node in enumerate(self.nodes):
            client: Any = node.client()
            # Who joins with an epoch of its own needs no election to settle that.
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
            if i < primaries:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", bounds[i], bounds[i + 1] - 1)
            if i:
                first.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, buses[i])
        until(lambda: all(self._knows(node, len(self.nodes)) for node in self.nodes))
        for i, node in enumerate(self.nodes[primaries:]):
            master = self.id_of(self.nodes[i])
            ask(node, "CLUSTER", "REPLICATE", master)
        until(lambda: all(self._is_ready(node) for node in self.nodes))
        # A replica that has not synced yet could not take over.
        until(lambda: all(self._is_linked(node) for node in self.nodes[primaries:]))

    @staticmethod
    def _knows(node: ServerProcess, count: int) -> bool:
        info = _cluster_info(node)
        return info["cluster_known_nodes"] == str(count) and info["cluster_state"] == "ok"

    def _is_ready(self, node: ServerProcess) -> bool:
        shown: Any = ask(node, "CLUSTER SLOTS")
        covered = sum(last - first + 1 for first, last, *_ in _rows(shown))
        owners = {row[2][1] for row in _rows(shown)}
        copies = sum(len(row) - 3 for row in _rows(shown))
        return covered == SLOTS and copies == len(self.nodes) - len(owners)

    @staticmethod
    def _is_linked(node: ServerProcess) -> bool:
        info: Any = node.client().info("replication")
        return bool(info.get("master_link_status") == "up")

    @property
    def url(self) -> str:
        """All nodes, as a URL for the library."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"redis+cluster://{hosts}"

    @staticmethod
    def id_of(node: ServerProcess) -> str:
        reply: Any = ask(node, "CLUSTER MYID")
        return reply.decode() if isinstance(reply, bytes) else str(reply)

    def living(self) -> list[ServerProcess]:
        return [node for node in self.nodes if node.running]

    def owner(self, key: str | bytes) -> ServerProcess:
        """The primary that a living node believes to own the slot of a key."""
        slot = slot_of(key)
        for node in self.living():
            shown: Any = ask(node, "CLUSTER SLOTS")
            for first, last, (_, port, *_), *_ in _rows(shown):
                if first <= slot <= last:
                    return next(one for one in self.nodes if one.port == port)
        raise AssertionError(f"nobody owns slot {slot}")

    def others(self, owner: ServerProcess) -> list[ServerProcess]:
        """The living primaries but `owner`."""
        return [
            node
            for node in self.living()
            if node is not owner and ask(node, "ROLE")[0] == b"master"
        ]

    @contextlib.contextmanager
    def migrating(self, key: str | bytes) -> Iterator[Callable[..., None]]:
        """Move the slot of a key to another primary, the classic way: within, it is on its way, and
        a function moves the given keys, or all; at the end it is moved."""
        slot = slot_of(key)
        old = self.owner(key)
        new = self.others(old)[0]
        source: Any = old.client()
        target: Any = new.client()
        old_id, new_id = self.id_of(old), self.id_of(new)
        target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", old_id)
        source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", new_id)

        def move(*keys: bytes) -> None:
            names = keys or source.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1000)
            while names:
                for name in names:
                    source.execute_command(
                        "MIGRATE", "127.0.0.1", new.port, name, 0, 10_000, "REPLACE"
                    )
                names = keys or source.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1000)
                if keys:
                    break

        yield move
        move()
        for client in (target, source):
            client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", new_id)

    def migrate(self, key: str | bytes) -> None:
        """Move the slot of a key, and stop for a moment in the middle."""
        with self.migrating(key) as move:
            found = ask(self.owner(key), "CLUSTER", "GETKEYSINSLOT", slot_of(key), 5)
            move(*found)
            time.sleep(0.2)

    def migrate_at_once(self, key: str | bytes) -> None:
        """The same, as Valkey 9 does it by itself, with all keys at one instant."""
        old = self.owner(key)
        new, slot = self.others(old)[0], slot_of(key)
        ask(old, "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", self.id_of(new))
        until(lambda: self.owner(key) is new)

    def all_keys(self) -> list[bytes]:
        """All keys of all living primaries."""
        found: list[bytes] = []
        for node in self.living():
            if ask(node, "ROLE")[0] == b"master":
                found += ask(node, "KEYS", "*")
        return found

    def close(self) -> None:
        for node in self.nodes:
            node.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def ask(server: ServerProcess, *words: Any) -> Any:
    """What a server replies to a command."""
    client: Any = server.client()
    return client.execute_command(*words)


def slot_of(key: str | bytes) -> int:
    return key_slot(key.encode() if isinstance(key, str) else key)


def until(holds: Callable[[], object], patience: float = PATIENCE) -> None:
    """Wait until something holds, which may fail with an error of the server before."""
    deadline = time.monotonic() + patience
    error: Exception | None = None
    while time.monotonic() < deadline:
        try:
            if holds():
                return
            error = None
        except (redis.RedisError, OSError) as exc:
            error = exc
        time.sleep(0.02)
    raise AssertionError(f"not within {patience} s") from error


def _cluster_info(node: ServerProcess) -> dict[str, str]:
    shown: Any = ask(node, "CLUSTER INFO")
    if isinstance(shown, dict):
        return {str(name): str(value) for name, value in shown.items()}
    lines = shown.decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _rows(shown: Any) -> list[Any]:
    """The reply to CLUSTER SLOTS, which redis-py turns into a dictionary on its own clients."""
    if not isinstance(shown, dict):
        return list(shown)
    return [
        [first, last, list(place["primary"]), *map(list, place["replicas"])]
        for (first, last), place in shown.items()
    ]
