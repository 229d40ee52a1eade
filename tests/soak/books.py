"""Who did what with which item, and when; and whether that adds up.

Every process appends lines to a file of its own, each with one `write`, so what it noted before it
was killed stays. `Faults` is the other half: what was inflicted on whom, and from when to when. An
item may come twice only if the one who had it first was then, or soon after, the victim of a fault
that can cost a lease.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Book", "FaultRecord", "Verdict", "settle"]


class Book:
    """The notes of one actor. Thread-safe."""

    def __init__(self, directory: str, actor: str) -> None:
        self.actor = actor
        self.begun = False
        """Whether anything has come of what this actor does."""
        path = Path(directory) / f"{actor}.book"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(path, flags, 0o600)

    def note(self, what: str, item: object) -> None:
        self.begun = self.begun or what in ("acknowledged", "delivered", "result")
        os.write(self._file, f"{what} {item} {time.time():.3f}\n".encode())

    def close(self) -> None:
        os.close(self._file)


class StallWatch:
    """Notes when this process was not scheduled for so long that its leases may have run out."""

    def __init__(self, book: Book, longest: float) -> None:
        self._book, self._longest = book, longest
        threading.Thread(target=self._watch, name="stall-watch", daemon=True).start()

    def _watch(self) -> None:
        before = time.time()
        while True:
            time.sleep(0.1)
            now = time.time()
            if now - before > self._longest:
                self._book.note("stalled", f"{before:.3f}")
            before = now


@dataclass
class FaultRecord:
    """One fault: its name, its victims (empty: everybody), and from when to when it lasted.
    `costly`: it may cost a victim its lease, and so an item may be delivered again."""

    name: str
    start: float
    end: float
    victims: tuple[str, ...] = ()
    costly: bool = True


@dataclass
class Verdict:
    """What the books amount to. Empty lists are what is promised."""

    sent: int = 0
    acknowledged: int = 0
    delivered: int = 0
    recovered: int = 0
    tasks: int = 0
    results: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def settle(directory: Path, faults: Iterable[FaultRecord], slack: float) -> Verdict:
    """Read all books. `slack`: for how long after a fault (seconds) its victims may still have the
    consequences: until a lease has run out and somebody has noticed."""
    faults = list(faults)
    verdict = Verdict()
    sent: set[str] = set()
    acknowledged: set[str] = set()
    delivered: dict[str, list[tuple[float, str]]] = defaultdict(list)
    stalls: list[FaultRecord] = []
    for path in sorted(directory.glob("*.book")):
        actor = path.stem
        for line in path.read_text().split("\n")[:-1]:
            what, item, at = line.split(" ")
            if what == "sent":
                sent.add(item)
            elif what == "acknowledged":
                acknowledged.add(item)
            elif what == "delivered":
                delivered[item].append((float(at), actor))
            elif what == "task":
                verdict.tasks += 1
            elif what == "result":
                verdict.results += 1
            elif what == "failed":
                kind = item.partition(":")[0]
                verdict.failed[kind] = verdict.failed.get(kind, 0) + 1
            elif what == "error":
                verdict.errors.append(f"{actor}: {item}")
            elif what == "stalled":
                stalls.append(FaultRecord("stalled", float(item), float(at), (actor,)))
    verdict.sent, verdict.acknowledged = len(sent), len(acknowledged)
    verdict.delivered = len(delivered)
    verdict.lost = sorted(acknowledged - delivered.keys())
    verdict.unexpected = sorted((delivered.keys() | acknowledged) - sent)
    costly = [fault for fault in (*faults, *stalls) if fault.costly]
    for item, times in delivered.items():
        times.sort()
        for when, actor in times[:-1]:
            if any(_explains(fault, when, actor, slack) for fault in costly):
                verdict.recovered += 1
            else:
                verdict.doubled.append(f"{item}: {times}")
    return verdict


def _explains(fault: FaultRecord, at: float, actor: str, slack: float) -> bool:
    if fault.victims and actor not in fault.victims:
        return False
    return fault.start - slack <= at <= fault.end + slack


def to_json(verdict: Verdict) -> dict[str, Any]:
    return json.loads(json.dumps(verdict, default=lambda value: value.__dict__))  # type: ignore[no-any-return]
