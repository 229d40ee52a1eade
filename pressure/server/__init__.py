"""The embedded server; see `pressure.server.embedded`."""

from __future__ import annotations

from pressure.server.embedded import LocalServer, local_server, shared_local_server
from pressure.server.files import signing_key_for
from pressure.server.lifeline import hold_lifeline, lifeline_fds

__all__ = [
    "LocalServer",
    "hold_lifeline",
    "lifeline_fds",
    "local_server",
    "shared_local_server",
    "signing_key_for",
]
