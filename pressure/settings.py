"""`Settings`: what of a handle is rarely changed."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from multiprocessing.context import get_spawning_popen
from typing import Any

from pressure.address import Address
from pressure.arguments import check_settings

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """The rarely used settings of a handle.

    Attributes:
        lease: seconds that a dead consumer's items stay away; the living renew theirs.
        max_deliveries: failed deliveries after which an item goes to the dead letters; 0: never.
        max_item_bytes: the largest encoded item that `put` accepts, and that is read: a larger one
            goes to the dead letters unread.
        reconnect_timeout: seconds for which a lost server is sought before an error is raised.
        ttl: seconds that an anonymous queue outlives its last living user; None: named, for ever.
        signing_keys: the first signs, all are accepted; none: items are not signed. Pickled
            settings don't have them.
        direction: what the signature binds an item to, besides the queue.
        hash_tag: leading part of the name that is put in braces, for Cluster; there the whole name
            if nothing else is given.
        min_replicas: how many replicas must have what is put before that counts as done.
        replica_timeout: seconds to wait for them until `NotReplicatedError` is raised.
    """

    lease: float = 15.0
    max_deliveries: int = 0
    max_item_bytes: int = 512 * 1024 * 1024
    reconnect_timeout: float = 60.0
    ttl: float | None = None
    signing_keys: tuple[bytes, ...] = field(default=(), repr=False)
    direction: str = "item"
    hash_tag: str = ""
    min_replicas: int = 0
    replica_timeout: float = 2.0

    def placed(self, name: str, address: Address, min_replicas: int | None = None) -> Settings:
        """The settings for the queue `name` at an address: in a Cluster all of its keys must lie in
        one slot. `min_replicas`, if given, takes the place of what is set."""
        tag = self.hash_tag or (name if address.is_cluster else "")
        most = self.min_replicas if min_replicas is None else min_replicas
        return replace(self, hash_tag=tag, min_replicas=most)

    def __reduce__(self) -> tuple[Any, ...]:
        # Only to a process that this one is just starting do the keys go along. (Python 3.11 had
        # releases in which a class with slots loses a `__getstate__` of its own.)
        state = self if get_spawning_popen() is not None else replace(self, signing_keys=())
        return _settings, tuple(getattr(state, one.name) for one in fields(state))

    def __post_init__(self) -> None:
        check_settings(self)


def _settings(*values: Any) -> Settings:
    """Settings that were pickled."""
    return Settings(
        **{one.name: value for one, value in zip(fields(Settings), values, strict=True)}
    )
