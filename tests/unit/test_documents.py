"""What the documents say is what the code does: scripts, keys, statuses, layouts, links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pressure import envelope
from pressure.blobs import CHUNK_BYTES, CROWDED_BYTES, INLINE_BYTES
from pressure.keys import Keys
from pressure.protocol import PROTOCOL_VERSION, Status

ROOT = Path(__file__).resolve().parents[2]
LUA = ROOT / "pressure" / "lua"
PROTOCOL = (ROOT / "protocol.md").read_text("utf-8")
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "protocol.md",
    "docs/consumers.md",
    "docs/acl.md",
    "docs/operations.md",
    "benchmarks/README.md",
)
OPERATIONS = sorted(path.stem for path in LUA.glob("*.lua") if path.stem != "prelude")


def rows(columns: str) -> list[list[str]]:
    """The rows of the table whose header has these columns, without back quotes."""
    table = PROTOCOL.split(f"| {columns} |\n", 1)[1].split("\n\n", 1)[0]
    cells = [line.split("|")[1:-1] for line in table.splitlines()[1:]]
    return [[cell.strip(" `") for cell in row] for row in cells]


def section(operation: str) -> str:
    return PROTOCOL.split(f"\n### {operation}\n", 1)[1].split("\n##", 1)[0]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_protocol_quotes_each_script(operation: str) -> None:
    lines = (LUA / f"{operation}.lua").read_text("utf-8").splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("-- KEYS"))
    header = []
    for line in lines[first:]:
        if not line.startswith("--"):
            break
        header.append(line[3:].rstrip())
    quoted = section(operation).split("```\n")[1].splitlines()
    assert quoted == header


def test_protocol_lists_each_key() -> None:
    keys = Keys("p", "n")
    listed = {row[0]: row[1] for row in rows("key | suffix | type | meaning")}
    taken = listed.pop("taken")
    assert keys.taken(b"consumer") == b"p:n" + taken.split("`")[0].encode() + b"consumer"
    # In the order of `fixed`, which `create` and `purge` rely on.
    assert [b"p:n" + suffix.encode() for suffix in listed.values()] == keys.fixed()
    for name, suffix in listed.items():
        assert getattr(keys, name) == b"p:n" + suffix.encode()


def test_protocol_lists_each_status() -> None:
    listed = {row[1]: int(row[0]) for row in rows("status | name | meaning")}
    assert listed == {status.name: status.value for status in Status}


def test_protocol_describes_the_envelope() -> None:
    item = envelope.pack(
        b"body",
        flags=envelope.SIGNED | envelope.BLOB,
        max_deliveries=0x0203,
        message_id=b"m" * 16,
        client_id=b"c" * 16,
        key_id=b"kkkk",
        mac=b"s" * 16,
    )
    parsed = envelope.Envelope.parse(item)
    end = 0
    for offset, size, field, _, _ in rows("offset | bytes | field | signed | meaning"):
        assert int(offset) == end
        part = item[end : end + int(size)] if size else item[end:]
        value = getattr(parsed, field)
        assert part == (value.to_bytes(int(size), "big") if isinstance(value, int) else value)
        end += len(part)
    assert end == len(item)
    assert envelope.HEADER_BYTES == 66
    assert f"more than {INLINE_BYTES // 1024} KiB" in PROTOCOL
    assert f"more than {CROWDED_BYTES // 1024} KiB" in PROTOCOL
    assert f"chunks of {CHUNK_BYTES // 1024} KiB" in PROTOCOL
    assert f"`{envelope.VERSION:#x}`: {PROTOCOL_VERSION}." in PROTOCOL


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ +(.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_each_benchmark_is_described() -> None:
    text = (ROOT / "benchmarks" / "README.md").read_text("utf-8")
    listed = set(re.findall(r"^\| `(\w+)\.py` \|", text, re.MULTILINE))
    programs = (
        path for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in path.read_text()
    )
    assert listed == {path.stem for path in programs}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        if not file.exists() or (anchor and anchor not in anchors(file.read_text("utf-8"))):
            broken.append(target)
    assert not broken, f"broken links in {name}: {broken}"
