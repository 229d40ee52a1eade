"""Every key name. Nothing else in the library builds one; `protocol.md` has the same table.

The first twelve names are those of the published protocol 0.15. On a Cluster, and wherever several
queues must be touched by one script, the name stands in braces (a hash tag) so that all of a
queue's keys live in one slot.
"""

from __future__ import annotations

import os
import re

__all__ = [
    "DEFAULT_PREFIX",
    "MAX_NAME_BYTES",
    "Keys",
    "bound_keys",
    "name_of",
    "resolve_prefix",
    "validate_name",
]

DEFAULT_PREFIX = "__pressure__"
MAX_NAME_BYTES = 512

_PUBLISHED = {
    "bound": "bound",
    "producer": "producer",
    "consumer": "consumer",
    "producer_free": "producer_free",
    "consumer_free": "consumer_free",
    "produced_messages": "stats:produced_messages",
    "produced_bytes": "stats:produced_bytes",
    "consumed_messages": "stats:consumed_messages",
    "consumed_bytes": "stats:consumed_bytes",
    "not_full": "not_full",
    "closed": "closed",
}
_OWN = {
    "generation": "generation",
    "room": "room",
    "producers": "producers",
    "leases": "leases",
    "departed": "departed",
    "departures": "departures",
    "fetched": "fetched",
    "prefetched": "prefetched",
    "deliveries": "deliveries",
    "waiters": "waiters",
    "joiners": "joiners",
    "joined": "joined",
    "blobs": "blobs",
    "uploads": "uploads",
    "dead_letters": "dead_letters",
    "orphans": "orphans",
    "store": "store",
    "paused": "paused",
    "resumed": "resumed",
    "workers": "workers",
    "beats": "beats",
    "fence": "fence",
}
_SUFFIXES = tuple(f":{suffix}" for suffix in (*_PUBLISHED.values(), *_OWN.values()))


def resolve_prefix(prefix: str | None) -> str:
    """What all keys begin with: `prefix`, or else `PRESSURE_PREFIX`, or else the default."""
    if prefix is not None:
        if not isinstance(prefix, str):
            raise TypeError(f"prefix must be a str, not {type(prefix).__name__}")
        return prefix
    return os.environ.get("PRESSURE_PREFIX") or DEFAULT_PREFIX


def validate_name(name: str) -> str:
    """Return `name`, or raise `ValueError`/`TypeError` saying what is wrong with it.

    A name must not be empty, hold a NUL or a brace, be longer than 512 bytes, or end in (or hold,
    for taken lists) a suffix that would make its keys collide with another queue's.
    """
    if not isinstance(name, str):
        raise TypeError(f"a queue's name must be a str, not {type(name).__name__}")
    if not name:
        raise ValueError("a queue's name must not be empty")
    if "\0" in name:
        raise ValueError(f"a queue's name must not hold a NUL: {name!r}")
    if "{" in name or "}" in name:
        raise ValueError(f"a queue's name must not hold a brace (they mark hash tags): {name!r}")
    if len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        raise ValueError(f"a queue's name must be at most {MAX_NAME_BYTES} bytes long")
    try:
        name.encode()
    except UnicodeEncodeError as exc:
        raise ValueError(f"a queue's name must be encodable as UTF-8: {name!r}") from exc
    if name.endswith(_SUFFIXES) or ":taken:" in name:
        raise ValueError(
            f"the queue name {name!r} would collide with the keys of another queue; "
            "choose one that does not end in a key suffix"
        )
    return name


def bound_keys(prefix: str) -> bytes:
    """The pattern (of `SCAN`) of the keys that make queues exist."""
    literally = re.sub(rb"([*?\[\]\\^])", rb"\\\1", prefix.encode())
    return literally + b":*:" + _PUBLISHED["bound"].encode()


def name_of(prefix: str, bound_key: bytes) -> tuple[str, str]:
    """The hash tag (empty: none) and the name of the queue that has this `bound` key."""
    end = len(_PUBLISHED["bound"]) + 1
    name = bound_key[len(prefix.encode()) + 1 : -end].decode(errors="surrogateescape")
    if name.startswith("{") and "}" in name:
        tag, _, rest = name[1:].partition("}")
        return tag, tag + rest
    return "", name


class Keys:
    """The keys of one queue, encoded once.

    Attributes have the names of the key table; `taken(consumer)` is the list of items that a
    consumer holds. `hash_tag`, a leading part of `name`, is put in braces: queues with the same
    tag live in the same slot of a Cluster.
    """

    __slots__ = ("_taken_prefix", "base", "name", "prefix", *_PUBLISHED, *_OWN)

    base: bytes
    bound: bytes
    producer: bytes
    consumer: bytes
    producer_free: bytes
    consumer_free: bytes
    produced_messages: bytes
    produced_bytes: bytes
    consumed_messages: bytes
    consumed_bytes: bytes
    not_full: bytes
    closed: bytes
    generation: bytes
    room: bytes
    producers: bytes
    leases: bytes
    departed: bytes
    departures: bytes
    fetched: bytes
    prefetched: bytes
    deliveries: bytes
    waiters: bytes
    joiners: bytes
    joined: bytes
    blobs: bytes
    uploads: bytes
    dead_letters: bytes
    orphans: bytes
    store: bytes
    paused: bytes
    resumed: bytes
    workers: bytes
    beats: bytes
    fence: bytes

    def __init__(self, prefix: str, name: str, *, hash_tag: str = "") -> None:
        self.prefix = prefix
        self.name = name
        if not name.startswith(hash_tag):
            raise ValueError(f"the hash tag {hash_tag!r} is not a prefix of the name {name!r}")
        tagged = "{" + hash_tag + "}" + name[len(hash_tag) :] if hash_tag else name
        self.base = f"{prefix}:{tagged}".encode()
        for attribute, suffix in (_PUBLISHED | _OWN).items():
            setattr(self, attribute, self.base + b":" + suffix.encode())
        self._taken_prefix = self.base + b":taken:"

    def taken(self, consumer: bytes) -> bytes:
        """The list of what `consumer` has taken and not yet acknowledged."""
        return self._taken_prefix + consumer

    def fixed(self) -> list[bytes]:
        """All keys whose names do not depend on a consumer."""
        return [self.base, *(getattr(self, name) for name in (*_PUBLISHED, *_OWN))]
