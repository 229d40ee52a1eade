"""What is wrong with a server, or with how it is used, in sentences that say how to mend it.

Looked at when a daemon starts, and by whoever wants to know. What a user may not ask the server is
no reason to stop: then a finding says that it could not be checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pressure.address import Address
from pressure.errors import PressureError, ServerRefusedError
from pressure.link import Link
from pressure.protocol import Command
from pressure.retry import Broken

__all__ = ["OLDEST", "Finding", "Severity", "check_key", "check_server", "server_info"]

OLDEST = (7, 0)
"""The oldest version of Redis that has all that is needed. Every Valkey has it."""
SHORT_KEY = 16


class Severity(StrEnum):
    """`REFUSAL`: don't start; `WARNING`: it works, for now; `UNCHECKED`: nobody knows."""

    REFUSAL = "refusal"
    WARNING = "warning"
    UNCHECKED = "unchecked"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong. `topic` is a word for programs, `remedy` says how to mend it."""

    severity: Severity
    topic: str
    sentence: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.sentence}: {self.remedy}"


def check_server(address: Address) -> list[Finding]:
    """What is wrong with the server at `address`, the worst first. Connects once, and never raises
    a `PressureError`: that nobody answers, or that the server refuses, are findings, too."""
    try:
        info = server_info(address)
    except Broken as exc:
        return [
            Finding(
                Severity.REFUSAL,
                "unreachable",
                f"no usable server at {address} ({exc.cause})",
                address.advice(exc.cause),
            )
        ]
    except ServerRefusedError as exc:
        return [
            Finding(
                Severity.REFUSAL,
                "refused",
                str(exc).rstrip("."),
                "give a user name and a password in the URL that the server accepts, and that "
                "user the commands that it needs"
                if " refused: " in str(exc)
                else "see to that, or give another URL (url=, --url, PRESSURE_URL)",
            )
        ]
    except PressureError as exc:
        return [
            Finding(
                Severity.REFUSAL,
                "unusable",
                str(exc),
                "see to it that the server has what the URL asks for, such as a database of that "
                "number",
            )
        ]
    if not info:
        return [
            Finding(
                Severity.UNCHECKED,
                "version",
                f"this user may not ask the server at {address} for its version and its eviction "
                "policy (INFO)",
                "see to it that it is Redis 7.0 or later, or Valkey, with maxmemory-policy "
                "noeviction",
            )
        ]
    return [*_check_version(address, info), *_check_policy(address, info)]


def check_key(address: Address, keys: Sequence[bytes]) -> list[Finding]:
    """Whether a key is missing: whoever can write to a queue whose items aren't signed can run code
    where they are read. Or whether one is too short."""
    if any(len(key) < SHORT_KEY for key in keys):
        return [
            Finding(
                Severity.WARNING,
                "key",
                f"a key has fewer than {SHORT_KEY} bytes, and can be guessed",
                'make one with `python -c "import secrets; print(secrets.token_hex(32))"`',
            )
        ]
    if keys or address.is_local:
        return []
    return [
        Finding(
            Severity.REFUSAL,
            "key",
            f"the server at {address} can be reached by other machines, and whoever can write to "
            "it could run code here",
            "give a key (--key-file or PRESSURE_KEY), or --insecure",
        )
    ]


def server_info(address: Address) -> dict[str, str]:
    """What the server says of itself (`INFO`); empty if the user may not ask.

    Raises `Broken` if nobody answers, and `ServerRefusedError`.
    """
    link = Link(address)
    try:
        # A refusal to be connected is not one to be asked.
        link.connect()
        try:
            reply: Any = link.execute(Command(("INFO",)))
        except ServerRefusedError:
            return {}
    finally:
        link.close()
    lines = bytes(reply).decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))


def _check_version(address: Address, info: dict[str, str]) -> list[Finding]:
    version = info.get("redis_version", "")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if "valkey_version" in info or not numbers or numbers >= OLDEST:
        return []
    return [
        Finding(
            Severity.REFUSAL,
            "version",
            f"the server at {address} is Redis {version}, which is too old",
            f"use Redis {OLDEST[0]}.{OLDEST[1]} or later, or Valkey",
        )
    ]


def _check_policy(address: Address, info: dict[str, str]) -> list[Finding]:
    policy = info.get("maxmemory_policy", "noeviction")
    if policy == "noeviction":
        return []
    return [
        Finding(
            Severity.WARNING,
            "eviction",
            f"the server at {address} throws away keys when its memory is full (maxmemory-policy "
            f"{policy}), and with them queued tasks and results",
            "set it to refuse instead, with `CONFIG SET maxmemory-policy noeviction` and in its "
            "configuration file",
        )
    ]
