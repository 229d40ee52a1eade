"""The Lua scripts, one file per operation, loaded when the package is imported.

Each script is sent with the prelude (`lua/prelude.lua`) in front of it. Its header names the keys
it takes; `Script.keys` is that list, so that code and script cannot disagree on the order.
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
    prelude = files.pop("prelude")
    scripts = {}
    for name, source in files.items():
        # A script with a `#!lua` line is checked by the server before it starts (flags, memory).
        shebang, body = source.split("\n", 1)
        text = f"{shebang}\n{_compact(prelude)}\n{_compact(body)}"
        header = re.search(r"^-- KEYS[ ]*(.*)$", source, re.MULTILINE)
        keys = re.sub(r"\(.*?\)(\.\.\.)?|\S+\.\.\.", "", header.group(1)) if header else ""
        scripts[name] = Script(
            name, text, hashlib.sha1(text.encode()).hexdigest(), tuple(keys.split())
        )
    return scripts


def _compact(source: str) -> str:
    """The source without its comments: less to send when a server has not seen the script yet."""
    lines = (line for line in source.splitlines() if not line.lstrip().startswith("--"))
    return "\n".join(line for line in lines if line.strip())


SCRIPTS = _load()
