"""The standard library's modules by this package's name, so that an import need only be renamed::

    from pressure.multiprocessing.shared_memory import SharedMemory

They are the same modules, and imported only when they are asked for. For type checkers there are
stubs (`.pyi`) of those whose names stand in annotations; the others they know by their standard
names only.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["install_aliases"]

_OURS, _STANDARD = f"{__package__}.", "multiprocessing."


class _Aliases(MetaPathFinder, Loader):
    """A finder, and its own loader. One comes last, and so is asked only for what there is no file
    of in this package. The other comes first, for modules `within` the standard library's packages,
    where Python would find the files and load them once more."""

    def __init__(self, *, within: bool) -> None:
        self._within = within

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        if not fullname.startswith(_OURS):
            return None
        rest = fullname.removeprefix(_OURS)
        if ("." in rest) != self._within:
            return None
        name = _STANDARD + rest
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as exc:
            if exc.name != name:
                raise
            return None
        return ModuleSpec(fullname, self)

    def create_module(self, spec: ModuleSpec) -> None:
        """One that is replaced at once."""

    def exec_module(self, module: ModuleType) -> None:
        # The import system takes what it finds here then, and leaves it as it is.
        name = module.__name__
        sys.modules[name] = sys.modules[_STANDARD + name.removeprefix(_OURS)]


def install_aliases() -> None:
    """From now on they can be imported."""
    sys.meta_path.insert(0, _Aliases(within=True))
    sys.meta_path.append(_Aliases(within=False))
