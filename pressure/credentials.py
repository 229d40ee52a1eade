"""Which keys sign a queue's items: the caller's, the environment's, or the embedded server's."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace

from pressure.address import Address
from pressure.core import Settings
from pressure.server import signing_key_for

__all__ = ["resolve_keys"]


def resolve_keys(
    settings: Settings, key: bytes | str | Iterable[bytes | str] | None, address: Address
) -> Settings:
    """The settings with the signing keys filled in.

    Order: `key`, then `settings.signing_keys`, then `PRESSURE_KEY` (several separated by commas),
    then the key file beside an embedded server's socket. Raises `ValueError` for an empty key.
    """
    keys: tuple[bytes, ...] = settings.signing_keys
    if key is not None:
        given = [key] if isinstance(key, bytes | str) else list(key)
        keys = tuple(one.encode() if isinstance(one, str) else one for one in given)
    elif not keys and os.environ.get("PRESSURE_KEY"):
        keys = tuple(part.strip().encode() for part in os.environ["PRESSURE_KEY"].split(","))
    elif not keys and address.url:
        own = signing_key_for(address.url)
        keys = (own,) if own else ()
    if not all(keys):
        raise ValueError("a signing key must not be empty")
    return replace(settings, signing_keys=keys)
