"""What can be told of an item without believing it: no byte of it is unpickled."""

from __future__ import annotations

import pickletools
from typing import Any

from pressure.channel.inventory import is_envelope
from pressure.envelope import BLOB, SIGNED, Envelope
from pressure.executor.records import STORED, unpack_task

__all__ = ["dissected", "hexdump", "names_in"]

WIDTH = 16
MOST_NAMES = 20


def dissected(item: bytes, *, task: bool) -> dict[str, Any]:
    """What the item's envelope says, and for a task which names its pickles mention."""
    if not is_envelope(item):
        return {"form": "raw bytes, or no envelope of pressure's"}
    parsed = Envelope.parse(item)
    facts: dict[str, Any] = {
        "form": "an envelope",
        "client": parsed.client_id.hex(),
        "max_deliveries": parsed.max_deliveries,
        "signed": f"with key {parsed.key_id.hex()}" if parsed.flags & SIGNED else "no",
    }
    if parsed.flags & BLOB:
        return facts | {"body": "beside the queue, since it is large"}
    if not task:
        return facts | {"names": names_in(parsed.body)}
    try:
        record = unpack_task(parsed.body)
    except ValueError:
        return facts | {"body": "is no task"}
    if record.flags & STORED:
        facts["function"] = f"stored under {record.function.hex()}"
    else:
        facts["function"] = names_in(record.function)
    return facts | {"arguments": names_in(bytes(record.arguments))}


def names_in(payload: bytes) -> list[str]:
    """What a pickle would import if it were loaded, as far as it can be read."""
    if payload[:1] == b"V":
        payload = payload[3:]
    names: list[str] = []
    strings: list[str] = []
    memo: list[object] = []
    last: object = None
    try:
        for opcode, found, _ in pickletools.genops(payload):
            argument: Any = found
            name = opcode.name
            if name == "GLOBAL":
                names.append(str(argument).replace(" ", "."))
            elif name == "STACK_GLOBAL" and len(strings) >= 2:
                names.append(".".join(strings[-2:]))
            elif name == "MEMOIZE":
                memo.append(last)
                continue
            elif name in ("BINGET", "LONG_BINGET"):
                argument = memo[argument] if argument < len(memo) else None
            last = argument
            if isinstance(argument, str) and name != "GLOBAL":
                strings.append(argument)
            if len(names) == MOST_NAMES:
                break
    except Exception:
        # It is no pickle, or a broken one; what was found is something.
        pass
    return list(dict.fromkeys(names))


def hexdump(data: bytes) -> str:
    """Sixteen bytes a line: where, in digits, and as ASCII."""
    lines = []
    for at in range(0, len(data), WIDTH):
        row = data[at : at + WIDTH]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"{at:08x}  {row.hex(' '):<{WIDTH * 3}} {text}")
    return "\n".join(lines)
