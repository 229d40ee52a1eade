"""What is called: nothing, so that what is measured is all that is around it."""

from __future__ import annotations


def noop() -> None:
    pass
