"""What servers have in common that may be elsewhere tomorrow: behind Sentinel, and in a Cluster.

Where the primary is now, a search finds out: a generator that yields questions to servers and is
sent their replies, or thrown what went wrong. So it is stated once for blocking and for asyncio
connections.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote

import redis.exceptions as redis_errors

__all__ = ["Finder", "ManyHosts", "Node", "Question", "Search", "answered", "named", "text_of"]

_URL = re.compile(r"(rediss?)\+(sentinel|cluster)://(.*@)?([^/?#@]*)(?:/([^?#]*))?(?:\?(.*))?")


# Before redis-py 6, only its own client for Clusters knew these by their names.
_OF_CLUSTERS: dict[str, Callable[[str], redis_errors.ResponseError]] = {
    "ASK": redis_errors.AskError,
    "CLUSTERDOWN": redis_errors.ClusterDownError,
    "CROSSSLOT": redis_errors.ClusterCrossSlotError,
    "MOVED": redis_errors.MovedError,
    "TRYAGAIN": redis_errors.TryAgainError,
}


def named(exc: Exception) -> Exception:
    """What a node of a Cluster answered, as the class that redis-py has for it."""
    if type(exc) is redis_errors.ResponseError:
        word, _, rest = str(exc).partition(" ")
        if word in _OF_CLUSTERS:
            return _OF_CLUSTERS[word](rest)
    return exc


class Node(NamedTuple):
    """Where one server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Question(NamedTuple):
    """What to ask which server. `login` goes over the settings of the address."""

    node: Node
    words: tuple[str, ...]
    login: Mapping[str, Any]


Search = Generator[Question, Any, Node]


def answered(search: Search, ask: Callable[[Question], Any]) -> Node:
    """Run a search over blocking connections."""
    try:
        question = next(search)
        while True:
            try:
                reply = ask(question)
            except Exception as exc:
                question = search.throw(exc)
            else:
                question = search.send(reply)
    except StopIteration as stop:
        found: Node = stop.value
        return found


class Finder(Protocol):
    """Finds the primary. It holds no connection, and may be copied, pickled and forked."""

    @property
    def hosts(self) -> tuple[Node, ...]:
        """Those that the user named."""

    def search(self, slot: int) -> Search:
        """Find the primary of a slot. Raises what redis-py raises, if there is none now."""

    def heed(self, slot: int, exc: Exception) -> None:
        """Learn from an error that came of a connection to the primary of a slot."""


class ManyHosts(NamedTuple):
    """The parts of a URL that names several hosts. `single` is the same with the first of them, in
    the form that redis-py reads; `path` are the parts of the path."""

    kind: str
    single: str
    hosts: tuple[Node, ...]
    path: tuple[str, ...]

    @classmethod
    def read(cls, url: str) -> ManyHosts | None:
        """None for a URL of another kind. Raises `ValueError`, without the password."""
        scheme = url.partition("://")[0]
        if scheme not in {f"{tls}+{kind}" for tls in ("redis", "rediss") for kind in _PORTS}:
            return None
        parts = _URL.fullmatch(url)
        if parts is None or any(sign in (parts[3] or "") for sign in "/?#"):
            raise ValueError("characters like / in a password as %2F")
        tls, kind, login, hosts, path, query = parts.groups()
        nodes = tuple(_node(host, _PORTS[kind]) for host in hosts.split(","))
        single = f"{tls}://{login or ''}{nodes[0]}"
        if query:
            single += f"?{query}"
        return cls(kind, single, nodes, tuple(unquote(part) for part in (path or "").split("/")))


_PORTS = {"sentinel": 26379, "cluster": 6379}


def _node(text: str, port: int) -> Node:
    match = re.fullmatch(r"(?:\[([^]]+)\]|([^:]*))(?::(\d{1,5}))?", text)
    host = match and (match[1] or match[2])
    if match is None or not host:
        raise ValueError(f"{text!r} is no host:port" if text else "a host is missing")
    return Node(unquote(host), int(match[3] or port))


def text_of(word: Any) -> str:
    """A word of a reply, whether the connection decodes or not."""
    return word.decode() if isinstance(word, bytes) else str(word)
