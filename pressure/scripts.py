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
from functools import cache
from importlib import resources
from typing import NamedTuple

__all__ = ["SCRIPTS", "Script"]


class Script:
    """One operation. Most programs use a few of them, so each is put together when it is used.

    Attributes:
        text: what is sent to the server.
        sha: the SHA-1 of the text.
        keys: the keys that it takes, whatever is repeated or optional at their end aside.
    """

    text: str
    sha: str
    keys: tuple[str, ...]

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self._source = source

    def __getattr__(self, name: str) -> object:
        # No `cached_property`: before Python 3.12 that has a lock, and a process that is forked
        # while another thread holds it could never use a script.
        if name not in ("text", "sha", "keys"):
            raise AttributeError(name)
        value: object = getattr(self, f"_make_{name}")()
        setattr(self, name, value)
        return value

    def _make_text(self) -> str:
        # A script with a `#!lua` line is checked by the server before it starts (flags, memory).
        shebang, body = self._source.split("\n", 1)
        return "\n".join([shebang, *_with_prelude(body)])

    def _make_sha(self) -> str:
        return hashlib.sha1(self.text.encode()).hexdigest()

    def _make_keys(self) -> tuple[str, ...]:
        header = re.search(r"^-- KEYS[ ]*(.*)$", self._source, re.MULTILINE)
        keys = re.sub(r"\(.*?\)(\.\.\.)?|\S+\.\.\.", "", header.group(1)) if header else ""
        return tuple(keys.split())


def _sources() -> dict[str, str]:
    return {
        file.name.removesuffix(".lua"): file.read_text("utf-8")
        for file in resources.files("pressure").joinpath("lua").iterdir()
        if file.name.endswith(".lua")
    }


class _Part(NamedTuple):
    """A statement of the prelude, the names that it defines, and the words that are in it."""

    text: str
    names: frozenset[str]
    words: frozenset[str]


@cache
def _parts() -> list[_Part]:
    """The prelude's statements, each of which begins with `local` at the start of a line."""
    parts = []
    for text in re.split(r"^(?=local )", _compact(_prelude), flags=re.MULTILINE)[1:]:
        names = re.match(r"local (?:function )?([\w, ]+)", text)
        assert names is not None
        parts.append(_Part(text.rstrip(), _words(names.group(1)), _words(text)))
    return parts


def _words(source: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", source))


def _with_prelude(body: str) -> list[str]:
    first, *rest = (_compact(part) for part in re.split(r"^-- prelude\n", body, flags=re.MULTILINE))
    early = _used(first)
    lines = [*early, first]
    for part in rest:
        lines += [*(one for one in _used(part) if one not in early), part]
    return lines


def _used(body: str) -> list[str]:
    """The parts that a script needs, in their order. A part uses only what stands before it."""
    used: list[str] = []
    words = _words(body)
    for part in reversed(_parts()):
        if not part.names.isdisjoint(words):
            used.insert(0, part.text)
            words |= part.words
    return used


def _compact(source: str) -> str:
    """The source without its comments: less to send when a server has not seen the script yet."""
    lines = (line for line in source.splitlines() if not line.lstrip().startswith("--"))
    return "\n".join(line for line in lines if line.strip())


_files = _sources()
_prelude = _files.pop("prelude")
SCRIPTS = {name: Script(name, source) for name, source in _files.items()}
