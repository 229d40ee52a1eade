"""Bundles (`pressure.bundles`) whose items are being handed out, one by one."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterable
from typing import Any

from pressure.session import Session

__all__ = ["Bundle", "Opened", "Part"]


class Part:
    """An item of a bundle on its way to a caller. `handed`: it counts as handed out."""

    __slots__ = ("body", "bundle", "handed")

    def __init__(self, bundle: Bundle, body: bytes) -> None:
        self.bundle = bundle
        self.body = body
        self.handed = False


class Bundle:
    """One whose items are being handed out. Until that is done, `mark` stands in its session's
    `opening`: it counts as seen, and is not acknowledged."""

    __slots__ = ("at", "bodies", "is_cut", "left", "life", "mark", "session")

    def __init__(
        self, session: Session[Any], mark: tuple[str, bytes], bodies: list[bytes], at: float
    ) -> None:
        self.session = session
        self.life = session.life
        self.mark = mark
        self.left = len(bodies)
        # The next one last.
        bodies.reverse()
        self.bodies = bodies
        # When it was opened (monotonic).
        self.at = at
        self.is_cut = False

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

    def next(self) -> Part | None:
        """The next item; None if there is none. Call `handed` or `take_back` then."""
        with self._lock:
            while self.bundles:
                bundle = self.bundles[0]
                if bundle.bodies and not bundle.is_lost():
                    return Part(bundle, bundle.bodies.pop())
                self.bundles.popleft()
                if bundle.is_lost():
                    self._over(bundle)
        return None

    def handed(self, part: Part) -> bool:
        """An item was handed out. Whether it was the last, and its bundle is to be acknowledged:
        call `over` then."""
        bundle = part.bundle
        with self._lock:
            bundle.left -= 1
            part.handed = True
            return bundle.left == 0 and not bundle.is_cut

    def take_back(self, part: Part) -> None:
        """An item did not reach its caller after all. If that was the last one, this must come
        before its bundle was acknowledged."""
        bundle, body = part.bundle, part.body
        session = bundle.session
        with self._lock:
            bundle.left += part.handed
            part.handed = False
            for owed in (session.pending, session.aside):
                if bundle.mark in owed:
                    owed.remove(bundle.mark)
                    session.opening.append(bundle.mark)
            bundle.bodies.append(body)
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

    def take_all(self) -> list[tuple[Bundle, list[bytes]]]:
        """The bundles, newest first, and what is left of each, oldest first: nobody else hands that
        out from now on."""
        taken = []
        with self._lock:
            while self.bundles:
                bundle = self.bundles.pop()
                taken.append((bundle, bundle.bodies[::-1]))
                bundle.bodies.clear()
        return taken

    def restore(self, taken: Iterable[tuple[Bundle, list[bytes]]]) -> None:
        """These, which `take_all` returned, are to be handed out after all."""
        with self._lock:
            for bundle, bodies in taken:
                bundle.bodies[:0] = bodies[::-1]
                self.bundles.appendleft(bundle)
