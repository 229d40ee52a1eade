"""The bookkeeper of a run: what was sent, acknowledged and delivered, and whether it adds up.

Many threads and processes write, some of which are killed. Each process appends to a file of its
own, one line by one `write`, so what it recorded before it died survives it.

Record in this order, and what the promise says can be checked:
    sent(id)           before the put
    acknowledged(id)   after the put returned
    delivered(id)      after the get returned, or when the task ran
    touched(id)        where a fault was aimed at this item, so that it may come twice
"""

from __future__ import annotations

import os
import threading
import uuid
import weakref
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

_SHOWN = 10
_open: weakref.WeakSet[Account] = weakref.WeakSet()


@dataclass(frozen=True)
class Balance:
    """What an account that adds up amounts to: numbers of different items."""

    sent: int
    acknowledged: int
    delivered: int
    duplicates: int
    touched: int


class Account:
    """The books of one run, shared by all processes that open the same directory.

    It may be pickled, forked and used from many threads. Ids are stored as text: `1` and `"1"` are
    the same item.

    Args:
        directory: where the books are; made if absent.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._file: int | None = None
        self._file_owner = 0
        _open.add(self)

    def __reduce__(self) -> tuple[type[Account], tuple[Path]]:
        return (Account, (self.directory,))

    def __del__(self) -> None:
        file = getattr(self, "_file", None)
        if file is not None and self._file_owner == os.getpid():
            os.close(file)

    def sent(self, item: object) -> None:
        """The item is about to be put."""
        self._write("sent", item)

    def acknowledged(self, item: object) -> None:
        """Its put returned: from now on it must not be lost."""
        self._write("acknowledged", item)

    def delivered(self, item: object) -> None:
        """Somebody got it."""
        self._write("delivered", item)

    def touched(self, item: object) -> None:
        """A fault was aimed at it: it may be delivered more than once."""
        self._write("touched", item)

    def deliveries(self) -> list[list[str]]:
        """The ids delivered, in order, one list for each process that got any."""
        books = (self._read(path) for path in sorted(self.directory.glob("*.book")))
        orders = ([item for what, item in book if what == "delivered"] for book in books)
        return [order for order in orders if order]

    def count(self, what: str) -> int:
        """How many different items were `sent`, `acknowledged`, `delivered` or `touched` so far."""
        return len(self._totals()[what])

    def missing(self) -> set[str]:
        """The items that were acknowledged and have not been delivered so far."""
        totals = self._totals()
        return set(totals["acknowledged"]) - set(totals["delivered"])

    def check(self, *, at_least: int = 1) -> Balance:
        """Return the balance if it adds up.

        Args:
            at_least: the number of acknowledged items below which the run proved nothing.

        Raises:
            AssertionError: an acknowledged item was not delivered; or one was delivered or
                acknowledged that nobody sent; or one came twice that no fault touched; or fewer
                than `at_least` were acknowledged. The text names the items.
        """
        totals = self._totals()
        sent, acknowledged = totals["sent"], totals["acknowledged"]
        delivered, touched = totals["delivered"], totals["touched"]
        duplicates = {item: times for item, times in delivered.items() if times > 1}
        complaints = [
            _complaint("lost: acknowledged, never delivered", acknowledged - delivered.keys()),
            _complaint("unexpected: delivered, never sent", delivered.keys() - sent.keys()),
            _complaint("unexpected: acknowledged, never sent", acknowledged - sent.keys()),
            _complaint(
                "duplicates that no fault touched",
                {f"{item} ({duplicates[item]} times)" for item in duplicates.keys() - touched},
            ),
        ]
        if len(acknowledged) < at_least:
            complaints.append(f"only {len(acknowledged)} acknowledged, wanted {at_least} at least")
        found = [complaint for complaint in complaints if complaint]
        balance = Balance(*map(len, (sent, acknowledged, delivered, duplicates, touched)))
        if found:
            text = ["the account does not add up:", *found, str(balance)]
            raise AssertionError("\n  ".join(text))
        return balance

    def _write(self, what: str, item: object) -> None:
        text = str(item)
        if "\n" in text:
            raise ValueError(f"an id must be one line: {text!r}")
        with self._lock:
            if self._file is None or self._file_owner != os.getpid():
                name = f"{os.getpid()}-{uuid.uuid4().hex[:8]}.book"
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                self._file = os.open(self.directory / name, flags, 0o600)
                self._file_owner = os.getpid()
            os.write(self._file, f"{what} {text}\n".encode())

    def _read(self, path: Path) -> list[tuple[str, str]]:
        records = []
        for line in path.read_bytes().decode().split("\n")[:-1]:
            what, _, item = line.partition(" ")
            records.append((what, item))
        return records

    def _totals(self) -> dict[str, Counter[str]]:
        totals: dict[str, Counter[str]] = {
            what: Counter() for what in ("sent", "acknowledged", "delivered", "touched")
        }
        for path in self.directory.glob("*.book"):
            for what, item in self._read(path):
                totals[what][item] += 1
        return totals


def _complaint(what: str, items: set[str]) -> str:
    if not items:
        return ""
    shown = sorted(items, key=lambda item: (len(item), item))[:_SHOWN]
    more = f" and {len(items) - len(shown)} more" if len(items) > len(shown) else ""
    return f"{len(items)} {what}: {', '.join(shown)}{more}"


def _renew_locks_in_child() -> None:
    # Another thread may have been writing in the moment of the fork.
    for account in list(_open):
        account._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks_in_child)
