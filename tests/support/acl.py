"""The user that `docs/acl.md` defines, for servers that know no other one but their admin.

With `PRESSURE_TEST_ACL=1` the servers of tests have it, and their addresses (`ServerProcess.url`)
its name and password; `ServerProcess.client` is the admin's.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["OPTIONAL", "PASSWORD", "PREFIXES", "USER", "as_admin", "commands", "rules", "wanted"]

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "acl.md"
USER = "pressure"
PASSWORD = "the-password-of-the-acl-user"
# Tests have keys by other prefixes, too, so that they don't meet.
PREFIXES = ("~__test_*", "~p:*", "~elsewhere:*", "~given:*", "~q-*-prefix:*")
OPTIONAL = ("+scan", "+wait", "+role", "+cluster|slots", "+asking")
"""What the document names as needed on top for this and that."""


def wanted() -> bool:
    """Whether servers are to have the user."""
    return os.environ.get("PRESSURE_TEST_ACL", "") not in ("", "0")


def as_admin(url: str) -> str:
    """The same address without the user: for who looks behind the scenes."""
    return url.replace(f"{USER}:{PASSWORD}@", "")


def documented() -> list[str]:
    """The words of the command in the document, from the user's name on."""
    found = re.search(r"^ACL SETUSER (.*)$", DOCUMENT.read_text("utf-8"), re.MULTILINE)
    assert found is not None
    return found[1].split()


def commands() -> set[str]:
    """The commands that the user may send, in lower case; subcommands as `client|id`."""
    return {word[1:] for word in documented() if word[0] == "+"}


def rules(*more: str) -> list[str]:
    """The document's command with a password in its place, and what is to be permitted besides."""
    words = [f">{PASSWORD}" if word == ">PASSWORD" else word for word in documented()]
    return [*words, *more]
