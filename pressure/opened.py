"""Bundles (`pressure.bundles`) whose items are being handed out, one by one."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from typing import Any

from pressure.session import Session

__all__ = ["Bundle", "Opened", "Part"]

STOOD_STILL = 1.0
"""Whoever hands out a bundle is done after a fraction of this time (seconds), unless the process
was stopped: then its lease may be over."""


class Part:
    """An item of a bundle on its way to a caller, or not any more if it was taken `back`."""

    __slots__ = ("back", "body", "bundle")

    def __init__(self, bundle: Bundle, body: bytes) -> None:
        self.bundle = bundle
        self.body = body
        self.back = False


class Bundle:
    """One whose items are being handed out. Until that is done, `mark` stands in its session's
    `opening`: it counts as seen, and is not acknowledged.

    `bodies` are those that nobody has, the next one last, `in_hand` those that are on their way.
    Once it is `doubtful`, nobody gets any more of it: it may have been cut already.
    """

    __slots__ = ("at", "bodies", "doubtful", "in_hand", "life", "mark", "session")

    def __init__(
        self, session: Session[Any], mark: tuple[str, bytes], bodies: list[bytes], at: float
    ) -> None:
        self.session = session
        self.life = session.life
        self.mark = mark
        bodies.reverse()
        self.bodies = bodies
        self.in_hand: set[Part] = set()
        self.doubtful = False
        # When it was opened (monotonic).
        self.at = at

    def is_lost(self) -> bool:
        return self.life != self.session.life


class Opened:
    """The bundles of a handle whose items are being handed out, the oldest first. Thread-safe."""

    def __init__(self) -> None:
        self.bundles: deque[Bundle] = deque()
        # Reentrant, since a finalizer or a signal's handler may come in the midst.
        self._lock = threading.RLock()

    def add(self, bundle: Bundle) -> None:
        with self._lock:
            self.bundles.append(bundle)

    def has(self, mark: tuple[str, bytes]) -> bool:
        """Whether the bundle of this mark is among them."""
        return any(bundle.mark == mark for bundle in list(self.bundles))

    def next(self, now: float) -> Part | None:
        """The next item, of which the caller says `handed` or `take_back`. None if there is none;
        or if there is a bundle still, which is doubtful and has to be cut first."""
        part = None
        try:
            with self._lock:
                while self.bundles:
                    bundle = self.bundles[0]
                    if bundle.bodies and not bundle.is_lost():
                        if bundle.doubtful or now - bundle.at > STOOD_STILL:
                            bundle.doubtful = True
                            return None
                        part = Part(bundle, bundle.bodies[-1])
                        bundle.in_hand.add(part)
                        bundle.bodies.pop()
                        return part
                    self.bundles.popleft()
                    if bundle.is_lost():
                        self._over(bundle)
            return None
        except BaseException:
            # Wherever Ctrl-C came: the caller doesn't know of the item.
            if part is not None:
                self.take_back(part)
            raise

    def handed(self, part: Part) -> bool:
        """An item was handed out. Whether it was the last, and its bundle is to be acknowledged:
        say `over` then."""
        bundle = part.bundle
        with self._lock:
            bundle.in_hand.discard(part)
            return not (bundle.bodies or bundle.in_hand)

    def take_back(self, part: Part) -> None:
        """An item did not reach its caller after all."""
        bundle = part.bundle
        session = bundle.session
        with self._lock:
            if part.back:
                return
            part.back = True
            bundle.in_hand.discard(part)
            if not (bundle.bodies and bundle.bodies[-1] is part.body):
                bundle.bodies.append(part.body)
            for owed in (session.pending, session.aside):
                if bundle.mark in owed:
                    owed.remove(bundle.mark)
            if bundle.mark not in session.opening:
                session.opening.append(bundle.mark)
            if bundle not in self.bundles:
                self.bundles.appendleft(bundle)

    def over(self, bundle: Bundle) -> None:
        """It was acknowledged, or is about to be, or it is somebody else's."""
        with self._lock:
            self._over(bundle)

    def _over(self, bundle: Bundle) -> None:
        with contextlib.suppress(ValueError):
            bundle.session.opening.remove(bundle.mark)

    def since(self) -> float:
        """When the oldest was opened (monotonic); infinity if there is none."""
        try:
            return self.bundles[0].at
        except IndexError:
            return float("inf")

    def to_cut(self) -> list[tuple[Bundle, list[bytes]]]:
        """The bundles that can be cut, newest first, and what is left of each, oldest first. They
        are doubtful from now on. Of those that are not among them an item is on its way, which
        would be lost if its caller died now."""
        found = []
        with self._lock:
            for bundle in reversed(self.bundles):
                if not bundle.in_hand:
                    bundle.doubtful = True
                    found.append((bundle, bundle.bodies[::-1]))
        return found

    def was_cut(self, bundle: Bundle, count: int) -> list[bytes]:
        """It is no more. Returns what was taken back since, when `count` were left."""
        with self._lock:
            self._over(bundle)
            with contextlib.suppress(ValueError):
                self.bundles.remove(bundle)
            return bundle.bodies[count:]

    def clear(self) -> None:
        with self._lock:
            self.bundles.clear()
