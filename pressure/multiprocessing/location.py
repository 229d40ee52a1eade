"""Where a shared queue is, told without any secret: what a pickled handle carries.

A URL loses its user name and password on the way. The process that receives it finds them again in
a URL of the same server that it was given itself, or in its `PRESSURE_URL`.
"""

from __future__ import annotations

import os
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

from pressure.address import Address
from pressure.server import hold_lifeline, shared_local_server

__all__ = ["Location", "find", "resolve"]

_SECRETS = frozenset({"username", "password", "sentinel_username", "sentinel_password"})

# The URLs that this process was given, by what they look like without their secrets.
_given: dict[str, str] = {}


class Location(NamedTuple):
    """Which queue, on which server. `ttl`: seconds that it outlives its creator; None for a queue
    that has a name of the user's choice, and lives until it is deleted. `generation` and `bound`
    are what the server said of it."""

    url: str
    prefix: str
    name: str
    ttl: float | None
    generation: bytes
    bound: int


def resolve(url: str | None) -> tuple[str, bool]:
    """The URL to use, and whether it is that of the embedded server.

    Order: the argument, `PRESSURE_URL`, the embedded server that the process tree shares (which is
    started if need be).
    """
    given = url or os.environ.get("PRESSURE_URL")
    if given:
        _given[without_secrets(given)] = given
        return given, False
    own = shared_local_server()
    _given[without_secrets(own)] = own
    return own, True


def find(bare: str) -> Address:
    """The address for a URL that came without its secrets. An embedded server there will live at
    least as long as this process."""
    environment = os.environ.get("PRESSURE_URL", "")
    if bare in _given:
        url = _given[bare]
    elif environment and without_secrets(environment) == bare:
        url = environment
    else:
        url = bare
    hold_lifeline(url)
    return Address.of(url)


def without_secrets(url: str) -> str:
    """The URL without user name and password, wherever they stand in it."""
    parts = urlsplit(url)
    query = [
        pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] not in _SECRETS
    ]
    # Not geturl(): that spoils unix:///path.
    bare = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    return f"{bare}?{urlencode(query)}" if query else bare
