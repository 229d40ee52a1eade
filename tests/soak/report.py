"""What a soak amounts to, as JSON and as a table."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from tests.soak.books import FaultRecord, Verdict, to_json

__all__ = ["Outcome"]


@dataclass
class Outcome:
    """The end of a soak. `sound`: nothing is wrong."""

    settings: dict[str, Any]
    seconds: float
    faults: list[FaultRecord]
    verdict: Verdict
    hung: list[str]
    complaints: list[str]

    @property
    def sound(self) -> bool:
        verdict = self.verdict
        found = (verdict.lost, verdict.unexpected, verdict.doubled, verdict.errors)
        return not any((*found, self.hung, self.complaints))

    def injected(self) -> dict[str, int]:
        return dict(sorted(Counter(fault.name for fault in self.faults).items()))

    def json(self) -> dict[str, Any]:
        return {
            "settings": self.settings,
            "seconds": round(self.seconds, 1),
            "injected": self.injected(),
            "faults": len(self.faults),
            "account": to_json(self.verdict),
            "hung": self.hung,
            "complaints": self.complaints,
            "sound": self.sound,
        }

    def table(self) -> str:
        """Markdown."""
        verdict = self.verdict
        lines = [f"| injected ({self.seconds:.0f} s, {self.settings}) | times |", "|---|---|"]
        lines += [f"| {name} | {times} |" for name, times in self.injected().items()]
        counts = {
            "items put and acknowledged": verdict.acknowledged,
            "items delivered": verdict.delivered,
            "deliveries repeated after a fault that cost a lease": verdict.recovered,
            "tasks submitted": verdict.tasks,
            "results": verdict.results,
            "tasks that ended with a typed error": sum(verdict.failed.values()),
            "**lost**": len(verdict.lost),
            "**unexpected**": len(verdict.unexpected),
            "**doubled without a fault**": len(verdict.doubled),
            "**hung**": len(self.hung),
            "**leaks and other complaints**": len(self.complaints) + len(verdict.errors),
        }
        lines += ["", "| outcome | count |", "|---|---|"]
        lines += [f"| {name} | {count} |" for name, count in counts.items()]
        return "\n".join(lines)

    def problems(self) -> str:
        """What is wrong, for people; empty if nothing is."""
        verdict = self.verdict
        found = {
            "lost": verdict.lost,
            "unexpected": verdict.unexpected,
            "doubled": verdict.doubled,
            "errors": verdict.errors,
            "hung": self.hung,
            "complaints": self.complaints,
        }
        return "\n".join(
            f"{name} ({len(entries)}):\n  " + "\n  ".join(entries[:10])
            for name, entries in found.items()
            if entries
        )
