"""A Cluster: which of its nodes is the primary of a slot, any node says."""

from __future__ import annotations

import random
from typing import Any

import redis
import redis.exceptions as redis_errors

from pressure.nodes import Node, Question, Search, named, text_of

__all__ = ["ClusterFinder", "node_settings"]

PATIENCE = 1.0
"""How long (seconds) a node may take to answer before the next one is asked."""
LOGIN = {"socket_timeout": PATIENCE, "socket_connect_timeout": PATIENCE}


class ClusterFinder:
    """Remembers who serves which slots, until it hears that this is no longer so.

    Threads may use it at once: what it remembers is replaced, never changed.
    """

    def __init__(self, hosts: tuple[Node, ...]) -> None:
        self.hosts = hosts
        self._ranges: tuple[tuple[int, int, Node], ...] = ()
        self._known: tuple[Node, ...] = hosts
        self._moved: dict[int, Node] = {}
        # Slots whose primary may have changed.
        self._doubtful: set[int] = set()

    def __str__(self) -> str:
        return f"{','.join(map(str, self.hosts))} (cluster)"

    @classmethod
    def of_client(cls, client: Any) -> ClusterFinder:
        """For a `redis.RedisCluster`, or its asyncio twin."""
        nodes = client.nodes_manager.startup_nodes.values()
        return cls(tuple(Node(node.host, int(node.port)) for node in nodes))

    def search(self, slot: int) -> Search:
        if slot not in self._doubtful:
            node = self._moved.get(slot) or self._owner(slot)
            if node is not None:
                return node
        failure: Exception | None = None
        for host in self._to_ask(slot):
            try:
                reply = yield Question(host, ("CLUSTER", "SLOTS"), LOGIN)
            except (redis_errors.RedisError, OSError) as exc:
                failure = exc
                continue
            ranges = _ranges(reply, host)
            for first, last, node in ranges:
                if first <= slot <= last:
                    self._learn(ranges, reply, host)
                    self._doubtful.discard(slot)
                    return node
            failure = redis_errors.ClusterDownError(f"no node serves slot {slot}")
        raise failure or redis_errors.ConnectionError("no node of the Cluster answers")

    def heed(self, slot: int, exc: Exception) -> None:
        exc = named(exc)
        if isinstance(exc, redis_errors.MovedError):
            node = exc.host and Node(exc.host, exc.port)
            if node:
                self._moved = {**self._moved, slot: node}
                self._doubtful.discard(slot)
                return
        if not isinstance(exc, redis_errors.TryAgainError | redis_errors.AskError):
            self._doubtful.add(slot)

    def _owner(self, slot: int) -> Node | None:
        return next((node for first, last, node in self._ranges if first <= slot <= last), None)

    def _to_ask(self, slot: int) -> list[Node]:
        """Everybody, last the one that is in doubt, since it may be dead or know nothing new."""
        suspect = self._moved.get(slot) or self._owner(slot)
        nodes = list(dict.fromkeys((*self._known, *self.hosts)))
        random.shuffle(nodes)
        return sorted(nodes, key=lambda node: node == suspect)

    def _learn(
        self, ranges: tuple[tuple[int, int, Node], ...], reply: list[Any], host: Node
    ) -> None:
        self._ranges, self._moved = ranges, {}
        replicas = (_node(place, host) for row in reply for place in row[3:])
        self._known = tuple(dict.fromkeys((*(node for _, _, node in ranges), *replicas)))

    @property
    def primaries(self) -> tuple[Node, ...]:
        """All that were seen to serve slots, after a search."""
        return tuple(dict.fromkeys(node for _, _, node in self._ranges))


def _ranges(reply: list[Any], host: Node) -> tuple[tuple[int, int, Node], ...]:
    """The reply to CLUSTER SLOTS: the first and last slot of each range, and its primary."""
    return tuple((int(row[0]), int(row[1]), _node(row[2], host)) for row in reply)


def _node(place: list[Any], host: Node) -> Node:
    """A node that doesn't know its own host is where it was asked."""
    return Node(text_of(place[0]) if place[0] else host.host, int(place[1]))


def node_settings(client: Any) -> tuple[type[Any], dict[str, Any]]:
    """How a user's own client connects to the nodes: the class of connections, their settings."""
    settings = dict(client.get_connection_kwargs())
    # Its own function there prepares connections for reading from replicas.
    settings["redis_connect_func"] = getattr(client, "user_on_connect_func", None)
    kind = settings.pop("connection_class", None)
    if kind is None:
        kind = redis.SSLConnection if settings.get("ssl") else redis.Connection
    return kind, settings
