"""Where a server is, and how connections to it are made.

An address comes from a URL, a user's own client, or the environment. It takes over credentials,
TLS and socket settings, and switches redis-py's own retries, health checks and decoding off.
"""

from __future__ import annotations

import inspect
import ipaddress
import os
import re
from typing import Any

import redis
import redis.asyncio
import redis.backoff
import redis.connection
import redis.retry

__all__ = ["DEFAULT_URL", "Address"]

DEFAULT_URL = "redis://127.0.0.1:6379/0"
CONNECT_TIMEOUT = 5.0
SOCKET_TIMEOUT = 5.0

_TAKEN_OVER = {
    "host",
    "port",
    "path",
    "db",
    "username",
    "password",
    "credential_provider",
    "redis_connect_func",
    "socket_connect_timeout",
    "socket_keepalive",
    "socket_keepalive_options",
    "socket_read_size",
    "socket_type",
}


def _quiet_handshake() -> dict[str, Any]:
    """Settings that keep redis-py from announcing itself: two round trips for each connection."""
    known = inspect.signature(redis.connection.AbstractConnection.__init__).parameters
    if "driver_info" in known:
        return {"driver_info": None}
    return {"lib_name": None, "lib_version": None}


class Address:
    """One server, as a factory of redis-py connections.

    `str(address)` names host and port, or the socket's path, and never a password.
    """

    def __init__(self, connection_class: type[Any], settings: dict[str, Any], url: str) -> None:
        self.connection_class = connection_class
        self.url = url
        self.settings = {
            "socket_connect_timeout": CONNECT_TIMEOUT,
            **{
                name: value
                for name, value in settings.items()
                if value is not None and (name in _TAKEN_OVER or name.startswith("ssl_"))
            },
            "socket_timeout": SOCKET_TIMEOUT,
            "retry": redis.retry.Retry(redis.backoff.NoBackoff(), 0),
            "health_check_interval": 0,
            "decode_responses": False,
            "protocol": 2,
            **_quiet_handshake(),
        }

    @classmethod
    def of(
        cls,
        url: str | None = None,
        client: redis.Redis | redis.asyncio.Redis | None = None,
    ) -> Address:
        """The address that the arguments or else the environment give.

        Order: `client`, `url`, `PRESSURE_URL`, then the published protocol's `REDIS_SERVER`,
        `REDIS_PORT` and `REDIS_DB`, then 127.0.0.1:6379. Raises `ValueError` for a malformed URL.
        """
        if client is not None:
            if url is not None:
                raise ValueError("give either url= or client=, not both")
            pool = client.connection_pool
            kind, settings = pool.connection_class, dict(pool.connection_kwargs)
            if isinstance(client, redis.asyncio.Redis):
                kind = _blocking_kind(kind)
                # A coroutine function, which only asyncio connections can call.
                settings.pop("redis_connect_func", None)
            return cls(kind, settings, "")
        url = url or os.environ.get("PRESSURE_URL") or _published_environment() or DEFAULT_URL
        try:
            pool = redis.ConnectionPool.from_url(url)
        except ValueError as exc:
            shown = _without_password(url)
            # The parser's own words may quote the password.
            hint = f"({exc})" if shown == url else "(characters like / in a password as %2F)"
            raise ValueError(
                f"{shown!r} is no server URL: use redis://host:port/db, "
                f"rediss://host:port/db (TLS) or unix:///path/to/socket {hint}"
            ) from None
        return cls(pool.connection_class, dict(pool.connection_kwargs), url)

    def __str__(self) -> str:
        if "path" in self.settings:
            return str(self.settings["path"])
        return f"{self.settings.get('host', 'localhost')}:{self.settings.get('port', 6379)}"

    def __repr__(self) -> str:
        return f"<Address {self}>"

    @property
    def is_local(self) -> bool:
        """True if only this machine can reach the address: a unix socket or a loopback one."""
        if "path" in self.settings:
            return True
        host = str(self.settings.get("host", "localhost"))
        if host == "localhost":
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    @property
    def identity(self) -> tuple[str, int]:
        """What makes two addresses the same server and database."""
        return str(self), int(self.settings.get("db", 0))

    def connection(self) -> Any:
        """A new, unconnected redis-py connection."""
        return self.connection_class(**self.settings)

    def advice(self) -> str:
        """How to mend that nobody answers here."""
        return (
            "start one there (valkey-server or redis-server), give another url=, or let "
            "pressure.local_server() run one for you"
        )


def _blocking_kind(kind: type[Any]) -> type[Any]:
    """The blocking counterpart of a class of asyncio connections: redis-py names them alike."""
    for base in kind.__mro__:
        namesake = getattr(redis.connection, base.__name__, None)
        if isinstance(namesake, type):
            return namesake
    raise TypeError(f"connections of the class {kind.__name__} are not supported")


def _published_environment() -> str | None:
    host, port, db = (os.environ.get(name) for name in ("REDIS_SERVER", "REDIS_PORT", "REDIS_DB"))
    if not (host or port or db):
        return None
    return f"redis://{host or '127.0.0.1'}:{port or '6379'}/{db or '0'}"


def _without_password(url: str) -> str:
    """The URL for people to read, however malformed it is."""
    scheme, separator, rest = url.partition("://")
    if "@" in rest:
        rest = "***@" + rest.rpartition("@")[2]
    return re.sub(r"(password=)[^&]*", r"\1***", scheme + separator + rest)
