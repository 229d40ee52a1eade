"""Bundles (`pressure.bundles`) whose items are being handed out, one by one."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from pressure.session import Session

__all__ = ["Bundle", "Opened", "Part"]

STOOD_STILL = 1.0
"""Whoever hands out a bundle is done after a fraction of this time (seconds), unless the process
was stopped: then its lease may be over."""


class Part:
    """An item of a bundle on its way to a caller. If it is `revoked`, its bundle was cut meanwhile,
    and it is in the queue again: the caller must not get it."""

    __slots__ = ("back", "body", "bundle", "handed", "revoked")

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.body: bytes | None = None
        self.handed = self.back = self.revoked = False


class Bundle:
    """One whose items are being handed out. Until that is done, `mark` stands in its session's
    `opening`: it counts as seen, and is not acknowledged.

    `bodies` are those that nobody has, the next one last, `in_hand` those that are on their way.
    Once it is `doubtful`, nobody gets any more of it: it may have been cut already, into what is
    `named`. `late` is what was taken back after that, and has to be put again.
    """

    __slots__ = (
        *("at", "bodies", "doubtful", "gone", "in_hand"),
        *("late", "life", "mark", "named", "session"),
    )

    def __init__(
        self,
        session: Session[Any],
        life: int,
        mark: tuple[str, bytes],
        bodies: list[bytes],
        at: float,
    ) -> None:
        self.session = session
        self.life = life
        self.mark = mark
        bodies.reverse()
        self.bodies = bodies
        self.in_hand: list[Part] = []
        self.doubtful = self.gone = False
        self.named: list[bytes] = []
        self.late: list[bytes] = []
        # When it was opened (monotonic).
        self.at = at

    def is_lost(self) -> bool:
        return self.life != self.session.life


class Opened:
    """The bundles of a handle whose items are being handed out, the oldest first. Thread-safe.

    Its lock is reentrant, since a finalizer or a signal's handler may use the queue in the midst of
    all this: what was looked at before a call is looked at again after it.
    """

    def __init__(self) -> None:
        self.bundles: deque[Bundle] = deque()
        self._lock = threading.RLock()

    def add(self, bundle: Bundle) -> None:
        with self._lock:
            self.bundles.append(bundle)

    def has(self, mark: tuple[str, bytes]) -> bool:
        """Whether the bundle of this mark is among them."""
        return any(bundle.mark == mark for bundle in list(self.bundles))

    def next(self, now: float) -> Part | None:
        """The next item, of which the caller says `handed` or `take_back`. None if there is none;
        or if a bundle `is_doubtful`, which has to be cut first."""
        part = None
        try:
            with self._lock:
                while (bundle := self._first()) is not None:
                    if bundle.doubtful or now - bundle.at > STOOD_STILL:
                        bundle.doubtful = True
                        return None
                    if bundle.is_lost() or not bundle.bodies:
                        self._drop(bundle, over=bundle.is_lost())
                        continue
                    part = Part(bundle)
                    bundle.in_hand.append(part)
                    bodies = bundle.bodies
                    if not bodies or bundle.doubtful:
                        bundle.in_hand.remove(part)
                        continue
                    # Python runs signal handlers after calls: both is done then, or neither.
                    part.body = bodies[-1]
                    del bodies[-1]
                    return part
            return None
        except BaseException:
            # Wherever Ctrl-C came: the caller doesn't know of the item.
            if part is not None:
                self.take_back(part)
            raise

    def _first(self) -> Bundle | None:
        """The oldest, but for those whose last items are on their way to other callers."""
        if not self.bundles:
            return None
        bundle = self.bundles[0]
        if bundle.bodies or not bundle.in_hand:
            return bundle
        for bundle in list(self.bundles):
            if bundle.bodies or bundle.doubtful or not bundle.in_hand:
                return bundle
        return None

    @property
    def is_doubtful(self) -> bool:
        return any(bundle.doubtful for bundle in list(self.bundles))

    def handed(self, part: Part) -> bool:
        """An item is handed out, unless it is revoked. Whether it was the last, and its bundle is
        to be acknowledged: say `over` then."""
        bundle = part.bundle
        with self._lock:
            if part.revoked:
                return False
            part.handed = True
            _discard(bundle.in_hand, part)
            return not (bundle.bodies or bundle.in_hand or bundle.doubtful)

    def take_back(self, part: Part) -> None:
        """An item did not reach its caller after all."""
        bundle = part.bundle
        session = bundle.session
        with self._lock:
            if part.back or part.revoked or part.body is None:
                _discard(bundle.in_hand, part)
                return
            held = bundle.mark in session.opening
            for owed in (session.pending, session.aside):
                with contextlib.suppress(ValueError):
                    owed.remove(bundle.mark)
                    held = True
            if bundle.doubtful or not held:
                # The bundle has been cut without it, or was acknowledged.
                bundle.gone = bundle.gone or not held
                bundle.doubtful = True
                bundle.late.append(part.body)
            else:
                bundle.bodies.append(part.body)
                if bundle.mark not in session.opening:
                    session.opening.append(bundle.mark)
            if bundle not in self.bundles:
                self.bundles.appendleft(bundle)
            _discard(bundle.in_hand, part)
            part.back = True

    def over(self, bundle: Bundle) -> None:
        """It was acknowledged, or is about to be."""
        with self._lock:
            _discard(bundle.session.opening, bundle.mark)

    def _drop(self, bundle: Bundle, *, over: bool) -> None:
        with contextlib.suppress(ValueError):
            self.bundles.remove(bundle)
        if over:
            _discard(bundle.session.opening, bundle.mark)

    def since(self) -> float:
        """When the oldest was opened (monotonic); infinity if there is none."""
        try:
            return self.bundles[0].at
        except IndexError:
            return float("inf")

    def to_cut(self) -> list[Bundle]:
        """The bundles, newest first, to be cut into what is `named`: all that was not handed out.
        What is in hand is revoked, for it would be lost if its process died now."""
        with self._lock:
            for bundle in self.bundles:
                if not bundle.doubtful or (bundle.bodies or bundle.in_hand):
                    bundle.doubtful = True
                    for part in bundle.in_hand:
                        if part.body is not None:
                            part.revoked = True
                    in_hand = [part.body for part in bundle.in_hand if part.body is not None]
                    bundle.named += [*in_hand, *reversed(bundle.bodies)]
                    bundle.in_hand.clear()
                    bundle.bodies.clear()
            return list(reversed(self.bundles))

    def was_cut(self, bundle: Bundle) -> list[bytes]:
        """It is no more. Returns what was taken back too late for that; say `done` once that is in
        the queue, too."""
        with self._lock:
            bundle.gone = True
            _discard(bundle.session.opening, bundle.mark)
            return list(bundle.late)

    def done(self, bundle: Bundle, count: int) -> None:
        """The first `count` of what was late are in the queue again, or are another's."""
        with self._lock:
            del bundle.late[:count]
            if not bundle.late:
                self._drop(bundle, over=True)

    def forget(self, outlived: Callable[[Session[Any]], bool]) -> None:
        """What is of these sessions is gone."""
        with self._lock:
            for bundle in list(self.bundles):
                if outlived(bundle.session):
                    self._drop(bundle, over=True)


def _discard(found: Any, one: object) -> None:
    # This is done for each item, and the other way takes longer.
    try:  # noqa: SIM105
        found.remove(one)
    except ValueError:
        pass
