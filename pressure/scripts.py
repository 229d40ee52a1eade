"""The Lua scripts, one file per operation, loaded when the package is imported.

Each script is sent with the parts of the prelude (`lua/prelude.lua`) that it uses in front of it:
the server makes all of a script's local functions anew at each call. A line `-- prelude` in a
script says where those are put that only the rest of it uses, so that what goes before does
without. Its header names the keys it takes; `Script.keys` is that list, so that code and script
cannot disagree on the order.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib import resources

__all__ = ["SCRIPTS", "Script"]


@dataclass(frozen=True, slots=True)
class Script:
    """One operation: its name, the text sent to the server, that text's SHA-1, and its keys."""

    name: str
    text: str
    sha: str
    keys: tuple[str, ...]


def _load() -> dict[str, Script]:
    files = {
        file.name.removesuffix(".lua"): file.read_text("utf-8")
        for file in resources.files("pressure").joinpath("lua").iterdir()
        if file.name.endswith(".lua")
    }
    parts = _parts(_compact(files.pop("prelude")))
    scripts = {}
    for name, source in files.items():
        # A script with a `#!lua` line is checked by the server before it starts (flags, memory).
        shebang, body = source.split("\n", 1)
        text = "\n".join([shebang, *_with_prelude(parts, body)])
        header = re.search(r"^-- KEYS[ ]*(.*)$", source, re.MULTILINE)
        keys = re.sub(r"\(.*?\)(\.\.\.)?|\S+\.\.\.", "", header.group(1)) if header else ""
        scripts[name] = Script(
            name, text, hashlib.sha1(text.encode()).hexdigest(), tuple(keys.split())
        )
    return scripts


def _parts(prelude: str) -> list[str]:
    """The statements of the prelude: each begins with `local` at the start of a line."""
    return re.split(r"^(?=local )", prelude, flags=re.MULTILINE)[1:]


def _with_prelude(parts: list[str], body: str) -> list[str]:
    first, *rest = (_compact(part) for part in re.split(r"^-- prelude\n", body, flags=re.MULTILINE))
    early = _used(parts, first)
    lines = [*early, first]
    for part in rest:
        lines += [*(one for one in _used(parts, part) if one not in early), part]
    return lines


def _used(parts: list[str], body: str) -> list[str]:
    """The parts that a script needs, in their order. A part uses only what stands before it."""
    used: list[str] = []
    for part in reversed(parts):
        names = re.match(r"local (?:function )?([\w, ]+)", part)
        assert names is not None
        words = "|".join(names.group(1).replace(" ", "").split(","))
        if re.search(rf"\b(?:{words})\b", "\n".join([*used, body])):
            used.insert(0, part.rstrip())
    return used


def _compact(source: str) -> str:
    """The source without its comments: less to send when a server has not seen the script yet."""
    lines = (line for line in source.splitlines() if not line.lstrip().startswith("--"))
    return "\n".join(line for line in lines if line.strip())


SCRIPTS = _load()
