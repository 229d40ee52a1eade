"""`pressure doctor`: what is wrong here, and how to mend it."""

from __future__ import annotations

import importlib.metadata
import platform
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

import click
from click.exceptions import Exit

from pressure._version import __version__
from pressure.channel.inventory import Inventory, QueueName, is_envelope
from pressure.checks import Finding, Severity, check_key, check_server
from pressure.cli.connecting import Server, signing_server_options
from pressure.cli.program import EXIT_CODES
from pressure.cli.tables import echo_json, safe, size
from pressure.cli.trial import tried
from pressure.cli.workers import SHOWN, order_daemons, roll
from pressure.envelope import SIGNED, Envelope
from pressure.errors import (
    PressureError,
    ServerNotFoundError,
    ServerOutOfMemoryError,
    ServerRefusedError,
)
from pressure.executor.orders import OrderKind
from pressure.server.files import find_server
from pressure.signing import key_id_of

__all__ = ["COMMANDS"]

PINGS = 25
SLOW = 0.010
"""A round trip that takes longer (seconds) is worth a word."""
SHOWN_QUEUES = 5
MOST_QUEUES = 1000
"""How many queues are looked into."""
PATIENCE = 2.0
"""How long (seconds) it is waited for the answers of workers."""
FULL = 0.9
SPOILED = (
    "something else has written there: see to that, then set a number (SET: the bound, 0 for a "
    "count), and rename or delete another key (RENAME, DEL)"
)
LIBRARIES = ("redis", "hiredis", "cloudpickle", "click")
OLDEST_REDIS_PY = (5, 0)


class Level(StrEnum):
    """`NOTE`: worth knowing, and no harm; the last two say that something is wrong."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    WRONG = "wrong"


class Line(NamedTuple):
    level: Level
    topic: str
    sentence: str
    remedy: str = ""


_LEVELS = {
    Severity.REFUSAL: Level.WRONG,
    Severity.WARNING: Level.WARNING,
    Severity.UNCHECKED: Level.NOTE,
}


@click.command(epilog=EXIT_CODES)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@signing_server_options
def doctor(server: Server, as_json: bool) -> None:
    """Look whether all is well with this installation and with the server.

    It makes a queue with a random name, uses it and deletes it. Exit code 1 if something is wrong.
    """
    lines: list[Line] = []
    for line in _examine(server):
        lines.append(line)
        if not as_json:
            click.echo(_shown(line))
    wrong = sum(line.level in (Level.WARNING, Level.WRONG) for line in lines)
    if as_json:
        echo_json({"well": not wrong, "findings": [line._asdict() for line in lines]})
    else:
        click.echo("\nAll is well." if not wrong else f"\n{wrong} to mend.")
    if wrong:
        raise Exit(1)


COMMANDS: tuple[click.Command, ...] = (doctor,)


def _shown(line: Line) -> str:
    text = line.sentence + (f": {line.remedy}" if line.remedy else "")
    return f"{line.level.value:<8} {line.topic:<12} {safe(text)}"


def _examine(server: Server) -> Iterator[Line]:
    yield from _installation()
    findings = check_server(server.address)
    yield from map(_of_finding, findings)
    if any(finding.severity == Severity.REFUSAL for finding in findings):
        return
    inventory = Inventory(server.address, server.prefix)
    try:
        said = inventory.server() if not _unchecked(findings) else {}
        yield from _state(server, said)
        yield _latency(inventory)
        yield _clock(inventory)
        yield from _key(server)
        yield _trial(server)
        yield from _workers(server)
        yield from _pythons(server)
        yield from _queues(server, inventory)
    except ServerOutOfMemoryError as exc:
        yield Line(Level.WRONG, "memory", str(exc))
    except PressureError as exc:
        yield Line(Level.WRONG, "server", str(exc))
    finally:
        inventory.close()


def _of_finding(finding: Finding) -> Line:
    return Line(_LEVELS[finding.severity], finding.topic, finding.sentence, finding.remedy)


def _unchecked(findings: list[Finding]) -> bool:
    return any(finding.severity == Severity.UNCHECKED for finding in findings)


def _installation() -> Iterator[Line]:
    versions = ", ".join(f"{name} {_version(name)}" for name in LIBRARIES)
    yield Line(
        Level.OK,
        "installation",
        f"pressure {__version__}, Python {platform.python_version()}, {versions}",
    )
    numbers = tuple(int(part) for part in _version("redis").split(".")[:2] if part.isdigit())
    if numbers < OLDEST_REDIS_PY:
        yield Line(
            Level.WRONG,
            "installation",
            f"redis-py {_version('redis')} is too old",
            "pip install --upgrade 'redis[hiredis]'",
        )
    try:
        yield Line(Level.OK, "embedded", f"the embedded server is {find_server()}")
    except ServerNotFoundError as exc:
        yield Line(Level.NOTE, "embedded", str(exc))


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _state(server: Server, said: Mapping[str, str]) -> Iterator[Line]:
    """What the server says of itself, beyond what a worker must know before it starts."""
    if not said:
        return
    software = (
        f"Valkey {said['valkey_version']}"
        if "valkey_version" in said
        else f"Redis {said.get('redis_version', '?')}"
    )
    yield Line(Level.OK, "server", f"{software} at {server.address}")
    policy = said.get("maxmemory_policy", "noeviction")
    if policy == "noeviction":
        yield Line(Level.OK, "eviction", "the server refuses rather than throw keys away")
    yield _memory(said)
    yield from _persistence(said)
    if said.get("role", "master") != "master":
        yield Line(
            Level.WRONG,
            "role",
            "this server is a replica, which takes no writes",
            "give the URL of its primary, or redis+sentinel://host,host/service",
        )


def _memory(said: Mapping[str, str]) -> Line:
    used, most = int(said.get("used_memory", 0)), int(said.get("maxmemory", 0))
    if not most:
        return Line(
            Level.NOTE,
            "memory",
            f"{size(used)} are used, and there is no limit",
            "set maxmemory, so that puts are refused before the machine's memory is full",
        )
    sentence = f"{size(used)} of {size(most)} are used"
    if used >= FULL * most:
        remedy = "let consumers drain the queues, or raise maxmemory"
        return Line(Level.WARNING, "memory", sentence, remedy)
    return Line(Level.OK, "memory", sentence)


def _persistence(said: Mapping[str, str]) -> Iterator[Line]:
    if said.get("aof_enabled") == "1":
        if said.get("aof_last_write_status", "ok") != "ok":
            yield Line(
                Level.WRONG,
                "persistence",
                "the server could not write its append-only file",
                "see its log, and whether its disk is full",
            )
        else:
            yield Line(Level.OK, "persistence", "an append-only file is written")
        return
    if said.get("rdb_last_bgsave_status", "ok") != "ok":
        yield Line(
            Level.WRONG,
            "persistence",
            "the server could not save its data the last time",
            "see its log, and whether its disk is full",
        )
        return
    yield Line(
        Level.NOTE,
        "persistence",
        "no append-only file is written, so a restart of the server loses what came since its "
        "last snapshot (executors send that again)",
        "set `appendonly yes` if queues of items must outlive it",
    )


def _latency(inventory: Inventory) -> Line:
    times = []
    for _ in range(PINGS):
        began = time.perf_counter()
        inventory.now_ms()
        times.append(time.perf_counter() - began)
    median = statistics.median(times)
    sentence = f"a round trip takes {median * 1000:.2f} ms (at worst {max(times) * 1000:.2f} ms)"
    if median > SLOW:
        remedy = "put batches (put_many), or have the server nearer"
        return Line(Level.NOTE, "latency", sentence, remedy)
    return Line(Level.OK, "latency", sentence)


def _clock(inventory: Inventory) -> Line:
    apart = abs(inventory.now_ms() / 1000 - time.time())
    sentence = f"this clock and the server's are {apart:.1f} s apart, which does not matter: "
    return Line(Level.OK, "clock", sentence + "all times are the server's")


def _key(server: Server) -> Iterator[Line]:
    keys = server.signing_keys
    findings = check_key(server.address, keys)
    yield from map(_of_finding, findings)
    if keys and not findings:
        yield Line(Level.OK, "key", f"items are signed ({len(keys)} key{'s' * (len(keys) > 1)})")
    elif not findings:
        yield Line(Level.OK, "key", "none is needed: only this machine reaches the server")


def _trial(server: Server) -> Line:
    failure = tried(server)
    if failure is None:
        return Line(Level.OK, "permissions", "all that a queue needs is permitted, and works")
    remedy = (
        f"give this user the permissions of docs/acl.md, for keys that begin with {server.prefix}:"
    )
    return Line(Level.WRONG, "permissions", failure, remedy)


def _workers(server: Server) -> Iterator[Line]:
    """Whether the daemons that serve queues here hear what this key signs."""
    try:
        answers = order_daemons(server, (), True, OrderKind.PING, None, PATIENCE)
    except ServerRefusedError as exc:
        sentence = f"whether the workers accept this key could not be looked at ({exc})"
        yield Line(Level.NOTE, "workers", sentence, "permit SCAN to this user")
        return
    silent = [daemon.hex()[:SHOWN] for daemon, said in answers.items() if said is None]
    if not silent:
        if answers:
            yield Line(
                Level.OK, "workers", f"all pressure-workers accept this key ({len(answers)})"
            )
        return
    if len(silent) == len(answers):
        sentence = "the workers don't accept this key"
    else:
        sentence = f"some of the workers hang, or don't accept this key: {', '.join(silent)}"
    remedy = "give the key that they have (--key-file, PRESSURE_KEY); see `pressure worker ping`"
    yield Line(Level.WARNING, "workers", sentence, remedy)


def _pythons(server: Server) -> Iterator[Line]:
    """Whether the workers can run code that this Python sends by value."""
    try:
        records = roll(server)
    except ServerRefusedError:
        # `_workers` has said what is to be permitted.
        return
    ours = _minor(platform.python_version())
    others = {
        f"{record.name} ({record.host}: {record.python})"
        for record in records
        if _minor(record.python) != ours
    }
    if others:
        yield Line(
            Level.NOTE,
            "python",
            f"workers run another Python than {ours}, and can't run functions of __main__, lambdas "
            f"and what else goes by value: {', '.join(sorted(others))}",
            "run the same version on both sides, or submit only what is installed on both",
        )


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _queues(server: Server, inventory: Inventory) -> Iterator[Line]:
    """Whether the queues' keys hold what they should, and fit this key."""
    try:
        names = inventory.names()[0][:MOST_QUEUES]
        wrong = {name: faults for name in names if (faults := inventory.faults(name))}
        for name, faults in wrong.items():
            sentence = f"queue {str(name)!r} does not work: {', '.join(faults)}"
            yield Line(Level.WRONG, "queues", sentence, SPOILED)
        yield from _items(server, inventory, [name for name in names if name not in wrong])
    except ServerRefusedError as exc:
        sentence = f"whether the queues' items fit this key could not be looked at ({exc})"
        yield Line(Level.NOTE, "items", sentence, "permit SCAN to this user")


def _items(server: Server, inventory: Inventory, names: Sequence[QueueName]) -> Iterator[Line]:
    """Whether this key has signed what lies in the queues, as far as the oldest item of each
    tells, or its last dead letter."""
    known = {key_id_of(key) for key in server.signing_keys}
    foreign, fitting = [], 0
    for name in names:
        item = inventory.oldest(name)
        # Raw items are never signed, and may look like anything.
        if item is None or not is_envelope(item):
            continue
        parsed = Envelope.parse(item)
        if parsed.flags & SIGNED and parsed.key_id not in known:
            foreign.append(str(name))
        elif parsed.flags & SIGNED:
            fitting += 1
    if foreign:
        listed = ", ".join(foreign[:SHOWN_QUEUES]) + (", ..." * (len(foreign) > SHOWN_QUEUES))
        signed = "another key than this one" if known else "a key, and none is given here"
        sentence = (
            f"the oldest item, or the last dead letter, is signed with {signed} "
            f"in {len(foreign)} of the queues: {listed}"
        )
        remedy = "give the key that their producers have (--key-file, PRESSURE_KEY)"
        yield Line(Level.WARNING, "items", sentence, remedy)
    elif fitting:
        sentence = f"what lies in the queues is signed with this key (queues: {fitting})"
        yield Line(Level.OK, "items", sentence)
