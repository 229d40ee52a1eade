"""Where a server is, and how connections to it are made.

An address comes from a URL, a user's own client, or the environment. It takes over credentials,
TLS and socket settings, and switches redis-py's own retries, health checks and decoding off.
Behind Sentinel and in a Cluster the server of a queue may be another tomorrow: a finder then says
where it is (`pressure.sentinel`, `pressure.cluster`).
"""

from __future__ import annotations

import errno
import inspect
import ipaddress
import os
import re
import ssl
from multiprocessing.context import get_spawning_popen
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.backoff
import redis.connection
import redis.crc
import redis.retry
import redis.sentinel

from pressure.cluster import ClusterFinder, node_settings
from pressure.nodes import Finder, ManyHosts, Node, Question, Search, answered
from pressure.pulse import has_ended, lifeline_beside
from pressure.sentinel import SentinelFinder

__all__ = ["DEFAULT_URL", "Address", "Client"]

DEFAULT_URL = "redis://127.0.0.1:6379/0"
CONNECT_TIMEOUT = 5.0
SOCKET_TIMEOUT = 5.0
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_HINT = "db is a number, and characters like / in a password are written as %2F"

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


Client = redis.Redis | redis.asyncio.Redis | redis.RedisCluster | redis.asyncio.RedisCluster
"""What a user may have made."""
_CLUSTERS = (redis.RedisCluster, redis.asyncio.RedisCluster)
_SENTINEL_POOLS = (
    redis.sentinel.SentinelConnectionPool,
    redis.asyncio.sentinel.SentinelConnectionPool,
)


class Address:
    """One server, as a factory of redis-py connections.

    `str(address)` names host and port, or the socket's path, and never a password. With a `finder`
    it is the server that this finds, in a Cluster for the queue that the address was made for.
    """

    def __init__(
        self,
        connection_class: type[Any],
        settings: dict[str, Any],
        url: str,
        finder: Finder | None = None,
    ) -> None:
        self.connection_class = connection_class
        self.url = url
        self.finder = finder
        self._slot = 0
        if _checks_certificates(connection_class, settings):
            # redis-py before 6 takes a certificate that is made out to another host.
            settings = {"ssl_check_hostname": True} | settings
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
        path = self.settings.get("path")
        self._lifeline = lifeline_beside(str(path)) if path and finder is None else ""

    @classmethod
    def of(
        cls,
        url: str | None = None,
        client: Client | None = None,
    ) -> Address:
        """The address that the arguments or else the environment give.

        Order: `client`, `url`, `PRESSURE_URL`, then the published protocol's `REDIS_SERVER`,
        `REDIS_PORT` and `REDIS_DB`, then 127.0.0.1:6379. Raises `ValueError` for a malformed URL,
        and `TypeError` for what is neither a URL nor a client.
        """
        if client is not None:
            if url is not None:
                raise ValueError("give either url= or client=, not both")
            if not hasattr(client, "connection_pool") and not isinstance(client, _CLUSTERS):
                raise TypeError(f"client must be one of redis-py, not {type(client).__name__}")
            return cls._of_client(client)
        if url is not None and not isinstance(url, str):
            raise TypeError(f"url must be a str, not {type(url).__name__}")
        url = url or os.environ.get("PRESSURE_URL") or _published_environment() or DEFAULT_URL
        try:
            many = ManyHosts.read(url)
            finder, single = _finder(many) if many is not None else (None, url)
            pool = redis.ConnectionPool.from_url(single)
            _check_database(single)
        except ValueError as exc:
            shown = _without_password(url)
            # The parser's own words may quote the password.
            hint = f"({exc})" if shown == url else f"({_HINT})"
            raise ValueError(
                f"{shown!r} is no server URL: use redis://host:port/db, "
                "rediss://host:port/db (TLS), unix:///path/to/socket, "
                "redis+sentinel://host:port,host:port/service/db or "
                f"redis+cluster://host:port,host:port {hint}"
            ) from None
        settings = dict(pool.connection_kwargs)
        for option in _FILES:
            if settings.get(option) and not os.path.exists(settings[option]):
                # The system's own error doesn't tell the name.
                raise ValueError(f"{option} in the server's URL: no file {settings[option]!r}")
        if isinstance(finder, SentinelFinder):
            finder = SentinelFinder(finder.service, finder.hosts, _sentinel_login(settings))
        return cls(pool.connection_class, settings, url, finder)

    @classmethod
    def _of_client(cls, client: Client) -> Address:
        finder: Finder | None = None
        if isinstance(client, _CLUSTERS):
            finder = ClusterFinder.of_client(client)
            kind, settings = node_settings(client)
        else:
            pool = client.connection_pool
            kind, settings = pool.connection_class, dict(pool.connection_kwargs)
            if isinstance(pool, _SENTINEL_POOLS):
                finder = SentinelFinder.of_client(pool)
        asynchronous = isinstance(client, redis.asyncio.Redis | redis.asyncio.RedisCluster)
        if asynchronous:
            # A coroutine function, which only asyncio connections can call.
            settings.pop("redis_connect_func", None)
        if asynchronous or isinstance(finder, SentinelFinder):
            kind = _plain_kind(kind)
        return cls(kind, settings, "", finder)

    def for_queue(self, key: bytes) -> Self:
        """The address of the server that has this key of a queue, and so all of them."""
        if not self.is_cluster:
            return self
        address = object.__new__(type(self))
        address.__dict__.update(self.__dict__)
        address._slot = redis.crc.key_slot(key)
        return address

    @property
    def is_cluster(self) -> bool:
        """Whether all keys of a queue must lie in one slot, and so need a hash tag."""
        return isinstance(self.finder, ClusterFinder)

    @property
    def may_be_replica(self) -> bool:
        """Whether what is found must be asked if it is the primary; nodes of a Cluster say so by
        themselves."""
        return isinstance(self.finder, SentinelFinder)

    def __str__(self) -> str:
        if self.finder is not None:
            return str(self.finder)
        if "path" in self.settings:
            return str(self.settings["path"])
        return f"{self.settings.get('host', 'localhost')}:{self.settings.get('port', 6379)}"

    def __getstate__(self) -> dict[str, Any]:
        if get_spawning_popen() is None:
            raise TypeError("an address is not pickled, since it may hold a password")
        return self.__dict__

    def __repr__(self) -> str:
        return f"<Address {self}>"

    @property
    def is_local(self) -> bool:
        """True if only this machine can reach the address: a unix socket or a loopback one."""
        if self.finder is not None:
            # Wherever these hosts are, they send us to others.
            return False
        return "path" in self.settings or _is_loopback(self.settings.get("host", "localhost"))

    @property
    def identity(self) -> tuple[str, int]:
        """What makes two addresses the same server and database. (A Cluster has one database; its
        nodes serve ranges of slots, so that neighbours share a server, most likely.)"""
        if self.is_cluster:
            return str(self), self._slot // 1024
        return str(self), int(self.settings.get("db", 0))

    def connection(self) -> Any:
        """A new, unconnected redis-py connection. With a finder, use `found`."""
        return self.connection_class(**self.settings)

    def found(self) -> Any:
        """A new, unconnected redis-py connection, to where the server is now. Raises what redis-py
        raises, if that is not to be found out."""
        if self.finder is None:
            return self.connection()
        node = answered(self.finder.search(self._slot), self._ask)
        return self.connection_class(**self.settings_at(node))

    def search(self) -> Search | None:
        """How to find out where the server is now, if it may change."""
        return None if self.finder is None else self.finder.search(self._slot)

    def settings_at(self, node: Node | None) -> dict[str, Any]:
        """The settings of connections to what a search found."""
        if node is None:
            return self.settings
        return {**self.settings, "host": node.host, "port": node.port}

    def heed(self, exc: Exception) -> None:
        """Learn from what went wrong with a connection."""
        if self.finder is not None:
            self.finder.heed(self._slot, exc)

    def settings_for(self, question: Question) -> dict[str, Any]:
        """The settings of the connection that asks a question of a search."""
        return {**self.settings_at(question.node), **question.login}

    def _ask(self, question: Question) -> Any:
        connection = self.connection_class(**self.settings_for(question))
        try:
            connection.connect()
            connection.send_command(*question.words)
            return connection.read_response()
        finally:
            connection.disconnect()

    @property
    def has_ended(self) -> bool:
        """Whether this was an embedded server, which is gone and will not come back."""
        return bool(self._lifeline) and has_ended(self._lifeline)

    def advice(self, cause: BaseException | None = None) -> str:
        """How to mend that nobody answers here. `cause` is what went wrong at last."""
        if self.has_ended:
            return (
                "this embedded server has ended, with its data, and doesn't come back. It lives as "
                "long as the block of local_server(), or a process that holds its lifeline"
            )
        reason = cause
        while reason is not None:
            number = reason.errno if isinstance(reason, OSError) else None
            if number in (errno.EMFILE, errno.ENFILE):
                return "raise the limit on open files (`ulimit -n`), or disconnect unused handles"
            if number == errno.EACCES:
                return (
                    "its socket is private to the user who started it, and this process is "
                    "another's now: give it a server that both may use (PRESSURE_URL)"
                )
            if number == errno.EPIPE:
                # As it ends those that are too many, which its own limit on open files lowers.
                return (
                    "see that it runs and takes more clients (its maxclients and its `ulimit -n`)"
                )
            reason = reason.__cause__ or reason.__context__
        if self.finder is not None:
            return "see that they run, can be reached from here, and have a primary"
        return (
            "start one there (valkey-server, redis-server or `pressure serve`), give another URL "
            "(url=, --url, PRESSURE_URL), or let pressure.local_server() run one for you"
        )


def _checks_certificates(connection_class: type[Any], settings: dict[str, Any]) -> bool:
    return issubclass(connection_class, redis.connection.SSLConnection) and settings.get(
        "ssl_cert_reqs", "required"
    ) not in ("none", ssl.CERT_NONE)


def _plain_kind(kind: type[Any]) -> type[Any]:
    """The blocking counterpart of a class of connections: redis-py names those of asyncio alike,
    and derives from them those that know of Sentinel."""
    for base in kind.__mro__:
        namesake = getattr(redis.connection, base.__name__, None)
        if isinstance(namesake, type):
            return namesake
    raise TypeError(f"connections of the class {kind.__name__} are not supported")


def _is_loopback(host: object) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False


def _finder(many: ManyHosts) -> tuple[Finder, str]:
    """The finder for a URL with several hosts, and a URL for one of them."""
    if many.kind == "cluster":
        if any(part not in ("", "0") for part in many.path):
            raise ValueError("a Cluster has database 0 only")
        return ClusterFinder(many.hosts), many.single
    service, *rest = many.path
    if not service or len(rest) > 1:
        raise ValueError("the service that the sentinels know it by is missing")
    if rest and not rest[0].isdecimal():
        raise ValueError(f"{rest[0]!r} is no number of a database")
    host, query, options = many.single.partition("?")
    return SentinelFinder(service, many.hosts, {}), f"{host}/{''.join(rest)}{query}{options}"


def _check_database(url: str) -> None:
    """Raises `ValueError` for a path that redis-py would take for database 0."""
    scheme, _, path, *_ = urlsplit(url)
    number = unquote(path).strip("/")
    if scheme in ("redis", "rediss") and number and not number.isdecimal():
        raise ValueError(f"{number!r} is no number of a database")


def _sentinel_login(settings: dict[str, Any]) -> dict[str, Any]:
    """The credentials for the sentinels: those for the servers are none of their business."""
    return {name: settings.get(f"sentinel_{name}") for name in ("username", "password")}


def _published_environment() -> str | None:
    host, port, db = (os.environ.get(name) for name in ("REDIS_SERVER", "REDIS_PORT", "REDIS_DB"))
    if not (host or port or db):
        return None
    return f"redis://{host or '127.0.0.1'}:{port or '6379'}/{db or '0'}"


def _without_password(url: str) -> str:
    """The URL for people to read, however malformed it is."""
    scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    if "@" in rest:
        rest = "***@" + rest.rpartition("@")[2]
    return re.sub(r"(password=)[^&]*", r"\1***", scheme + separator + rest)
