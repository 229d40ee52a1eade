"""What a new connection asks the server, and what the answers say."""

from __future__ import annotations

from typing import Any

import redis.exceptions as redis_errors

from pressure.address import Address

__all__ = ["greeting", "permitted", "refuse_replica", "run_id", "run_mark"]


def greeting(address: Address) -> list[tuple[str, ...]]:
    """What a new connection asks: who it is, which run of the server this is and what that keeps,
    and whether it is the primary, if there is any doubt."""
    questions = [("CLIENT", "ID"), ("INFO", "server", "persistence"), ("ROLE",)]
    return questions[: 3 if address.may_be_replica else 2]


def refuse_replica(role: Any) -> None:
    """Raise if the reply to ROLE is a replica's: who said that it is the primary was not right."""
    if role and role[0] != b"master":
        raise redis_errors.ReadOnlyError("what the sentinels call the primary is a replica")


def permitted(connection: Any) -> Any:
    """The reply to what may be asked if it is permitted."""
    try:
        return connection.read_response()
    except redis_errors.NoPermissionError:
        return b""


def run_id(info: bytes) -> str:
    """What the server calls this run of itself, according to its INFO."""
    for line in bytes(info).splitlines():
        if line.startswith(b"run_id:"):
            return line[7:].decode()
    return ""


def run_mark(address: Address, info: bytes) -> bytes:
    """Names a run of a server, in 8 bytes, of which the next one may lack the end of what this one
    knew; empty if it won't, since there is an append-only file and no replica to take over, or if
    nothing is known."""
    if address.finder is None and b"aof_enabled:1" in bytes(info):
        return b""
    try:
        return bytes.fromhex(run_id(info)[:16])
    except ValueError:
        return b""
