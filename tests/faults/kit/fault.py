"""What all faults have in common, and a fault that strikes again and again."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

PATIENCE = 20.0


class Fault:
    """Something that goes wrong. `strike` inflicts it; `heal` ends it, if it doesn't by itself."""

    @property
    def name(self) -> str:
        """What it is called in a report."""
        return type(self).__name__

    def strike(self) -> None:
        raise NotImplementedError

    def heal(self) -> None:
        """Harmless if it was not struck, or has been healed."""

    def __enter__(self) -> Self:
        self.strike()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.heal()


class Repeatedly(Fault):
    """`fault` strikes and heals every `every` seconds, each time for `lasting` seconds.

    `struck` counts. What a strike raises is raised by `heal`.
    """

    def __init__(self, fault: Fault, every: float = 0.02, lasting: float = 0.0) -> None:
        self.struck = 0
        self._fault = fault
        self._every = every
        self._lasting = lasting
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    @property
    def name(self) -> str:
        return f"{self._fault.name} again and again"

    def strike(self) -> None:
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    def heal(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(PATIENCE)
            assert not self._thread.is_alive(), f"{self.name}: it does not end"
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                self._fault.strike()
                try:
                    self._over.wait(self._lasting)
                finally:
                    self._fault.heal()
                self.struck += 1
                self._over.wait(self._every)
        except BaseException as exc:
            self._failure = exc
