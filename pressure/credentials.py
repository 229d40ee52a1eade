"""Which keys sign a queue's items: the caller's, the environment's, or the embedded server's."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pressure.address import Address
from pressure.server import signing_key_for
from pressure.settings import Settings

__all__ = ["given_settings", "read_key_file", "resolve_keys"]


def read_key_file(path: Path) -> list[str]:
    """The keys in a file, of which there is one at least. Raises `ValueError` or `OSError`."""
    try:
        keys = path.read_text("utf-8").split()
    except UnicodeDecodeError:
        # Its own words show a byte of what may be a key.
        raise ValueError(f"{path} is no text in UTF-8, and so has no key") from None
    if not keys:
        raise ValueError(f"{path} holds no key: write one into it, or several, one per line")
    return keys


def given_settings(settings: Settings | None) -> Settings:
    """These, or the usual ones. Raises `TypeError` for anything else."""
    if settings is not None and not isinstance(settings, Settings):
        raise TypeError(f"settings must be pressure.Settings, not {type(settings).__name__}")
    return settings or Settings()


def resolve_keys(
    settings: Settings, key: bytes | str | Iterable[bytes | str] | None, address: Address
) -> Settings:
    """The settings with the signing keys filled in.

    Order: `key`, then `settings.signing_keys`, then `PRESSURE_KEY` (several separated by commas),
    then the key file beside an embedded server's socket. Raises `ValueError` for an empty key,
    and if `key` has none; `TypeError` for what is no key.
    """
    keys: tuple[bytes, ...] = settings.signing_keys
    if key is not None:
        if not isinstance(key, Iterable):
            raise TypeError(f"key must be bytes, a str, or several, not {type(key).__name__}")
        given = [key] if isinstance(key, bytes | str) else list(key)
        for one in given:
            if not isinstance(one, bytes | str):
                raise TypeError(f"a signing key must be bytes or a str, not {type(one).__name__}")
        keys = tuple(one.encode() if isinstance(one, str) else one for one in given)
    elif not keys and os.environ.get("PRESSURE_KEY"):
        keys = tuple(part.strip().encode() for part in os.environ["PRESSURE_KEY"].split(","))
    elif not keys and address.url:
        own = signing_key_for(address.url)
        keys = (own,) if own else ()
    if not all(keys) or (key is not None and not keys):
        raise ValueError("a signing key must not be empty")
    return replace(settings, signing_keys=keys)
