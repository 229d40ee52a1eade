"""Servers behind Sentinel: which of them is the primary now, the sentinels say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import redis.exceptions as redis_errors

from pressure.nodes import Node, Question, Search, text_of

__all__ = ["SentinelFinder"]

PATIENCE = 1.0
"""How long (seconds) a sentinel may take to answer before the next one is asked."""


class SentinelFinder:
    """Asks the sentinels, each time, for the primary of a service.

    `login` is what differs for connections to the sentinels from those to the servers.
    """

    def __init__(self, service: str, hosts: tuple[Node, ...], login: Mapping[str, Any]) -> None:
        self.service = service
        self.hosts = hosts
        self._login = {
            "db": 0,
            **login,
            "socket_timeout": PATIENCE,
            "socket_connect_timeout": PATIENCE,
        }
        self._order = list(hosts)

    def __str__(self) -> str:
        return f"{self.service} (sentinels {','.join(map(str, self.hosts))})"

    @classmethod
    def of_client(cls, pool: Any) -> SentinelFinder:
        """For a pool of `redis.sentinel.Sentinel.master_for`, or its asyncio twin."""
        if not pool.is_master:
            raise ValueError("a replica takes no puts: give the client that master_for() returns")
        manager = pool.sentinel_manager
        logins = [one.connection_pool.connection_kwargs for one in manager.sentinels]
        hosts = tuple(Node(login["host"], int(login["port"])) for login in logins)
        kept = ("username", "password", "credential_provider")
        # What is absent here must not be taken from the settings for the servers.
        return cls(pool.service_name, hosts, {name: logins[0].get(name) for name in kept})

    def search(self, slot: int) -> Search:
        words = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)
        ignorant = 0
        failure: Exception | None = None
        for host in tuple(self._order):
            try:
                reply = yield Question(host, words, self._login)
            except (redis_errors.RedisError, OSError) as exc:
                failure = exc
                continue
            if reply:
                if self._order[0] != host:
                    self._order = [host, *(one for one in self._order if one != host)]
                return Node(text_of(reply[0]), int(reply[1]))
            ignorant += 1
        if ignorant == len(self.hosts):
            raise redis_errors.AuthorizationError(
                f"the sentinels know of no service {self.service!r}"
            )
        raise failure or redis_errors.ConnectionError("no sentinel answers")

    def heed(self, slot: int, exc: Exception) -> None:
        """Perhaps this sentinel is behind the others, who may be asked first the next time."""
        first, *others = self._order
        self._order = [*others, first]
