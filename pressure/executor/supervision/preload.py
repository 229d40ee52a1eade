"""Modules that are imported once, before the workers are forked."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable

__all__ = ["PreloadError", "preload"]

log = logging.getLogger("pressure.worker")


class PreloadError(Exception):
    """A module could not be imported; the text is a sentence."""


def preload(modules: Iterable[str]) -> None:
    """Raises `PreloadError`."""
    for name in modules:
        if not name or name.startswith("."):
            raise PreloadError(f"{name!r} is no name of a module to preload")
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as exc:
            if exc.name is not None and f"{name}.".startswith(f"{exc.name}."):
                raise PreloadError(
                    f"there is no module {exc.name!r} to preload: it is neither in the current "
                    "directory nor installed for this Python"
                ) from None
            _report(name, exc)
        except (Exception, SystemExit) as exc:
            _report(name, exc)


def _report(name: str, exc: Exception | SystemExit) -> None:
    log.error("%r could not be imported", name, exc_info=exc)
    raise PreloadError(
        f"the module {name!r} can't be preloaded: importing it raised {type(exc).__name__}: {exc}"
    ) from None
