"""Payloads that betray whoever unpickles them, and items that nobody may open.

A canary's pickle makes a folder in its cage. `forgeries` are the items that an attacker may try who
can write to the server, and has no key.
"""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import redis

from pressure import envelope
from pressure.codec import Codec
from pressure.keys import Keys
from pressure.signing import context_of

__all__ = ["KEY", "Cage", "Forgery", "Target", "forgeries"]

KEY = "a key that both sides have"
OTHER_KEY = "the key of somebody else"


class _Canary:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self._path),)


class Cage:
    """An empty folder. It stays empty unless a canary is unpickled, in whatever process."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder

    def canary(self, *, padding: int = 0) -> bytes:
        """A pickle that must not be loaded. It is a tuple, whose second part is padding."""
        return pickle.dumps((_Canary(self._folder / os.urandom(8).hex()), bytes(padding)), 5)

    def escaped(self) -> list[str]:
        return os.listdir(self._folder)


class Target(NamedTuple):
    """A queue to attack: its key names, what its true signatures are bound to, and the client that
    the attacker claims to be (none: any)."""

    keys: Keys
    name: str
    generation: bytes
    direction: str
    client_id: bytes = b""

    def codec(self, key: str = KEY, **changes: Any) -> Codec:
        bound = {"name": self.name, "generation": self.generation, "direction": self.direction}
        return Codec(
            client_id=self.client_id or os.urandom(16),
            max_deliveries=0,
            keys=(key.encode(),) if key else (),
            context=context_of(**(bound | changes)),
        )


class Forgery(NamedTuple):
    what: str
    item: bytes


REGIONS = {
    "version": 0,
    "flags": 1,
    "max_deliveries": 3,
    "message_id": 20,
    "client_id": 45,
    "key_id": 46,
    "mac": 65,
    "body": -2,
}


def forgeries(
    target: Target, client: redis.Redis, body: bytes, message_id: bytes | None = None
) -> Iterator[Forgery]:
    """Items with this body that the target's reader must not open.

    `message_id` is what they claim to be (a task that somebody waits for, say).
    """

    def pack(codec: Codec) -> bytes:
        return codec.pack(message_id or os.urandom(16), body)

    codec = target.codec()
    for region, at in REGIONS.items():
        # The last bit: a body stays a pickle, and a version stays one that is understood.
        true = pack(codec)
        altered = bytearray(true)
        altered[at] ^= 4 if region == "flags" else 1
        yield Forgery(f"tampered {region}", bytes(altered))
    yield Forgery("another major version", b"\x20" + pack(codec)[1:])
    yield Forgery("cut off", pack(codec)[:-1])
    yield Forgery("no header", pack(codec)[:40])
    yield Forgery("nothing", b"")
    yield Forgery("only a pickle", body)
    yield Forgery("unsigned", pack(target.codec(key="")))
    yield Forgery("flagged as signed", envelope.with_mac(pack(codec), bytes(16)))
    true = pack(codec)
    yield Forgery("not flagged as signed", true[:1] + b"\0" + true[2:])
    yield Forgery("another key", pack(target.codec(key=OTHER_KEY)))
    false = pack(target.codec(key=OTHER_KEY))
    yield Forgery("another key by the right name", false[:46] + true[46:50] + false[50:])
    yield Forgery("another queue", pack(target.codec(name=target.name + "2")))
    yield Forgery("another generation", pack(target.codec(generation=b"0" * 32)))
    for direction in {"item", "task", "result", "stored"} - {target.direction}:
        yield Forgery(f"direction {direction}", pack(target.codec(direction=direction)))
    yield from _blobs(target, client, body, message_id)


def _blobs(
    target: Target, client: redis.Redis, body: bytes, message_id: bytes | None
) -> Iterator[Forgery]:
    """References to what lies beside the queue."""

    def stored(content: bytes) -> bytes:
        blob_id = os.urandom(16)
        client.hset(target.keys.blobs, blob_id + bytes(4), content)
        return blob_id

    def reference(codec: Codec, content: bytes, chunks: int = 1, size: int | None = None) -> bytes:
        size = len(content) if size is None else size
        said = struct.pack(">IQ16s", chunks, size, stored(content))
        seal = codec.seal(message_id or os.urandom(16), said, flags=envelope.BLOB)
        seal.update(content)
        return seal.item()

    codec = target.codec()
    yield Forgery("an unsigned blob", reference(target.codec(key=""), body))
    yield Forgery("a blob of another queue", reference(target.codec(name="other"), body))
    altered = bytearray(reference(codec, body))
    altered[-16:] = stored(body[:-2] + bytes([body[-2] ^ 1]) + body[-1:])
    yield Forgery("a blob exchanged for another", bytes(altered))
    true = reference(codec, b"x" * len(body))
    client.hset(target.keys.blobs, true[-16:] + bytes(4), body)
    yield Forgery("an altered blob", true)
    yield Forgery("a blob with more chunks", reference(codec, body, chunks=2))
    yield Forgery("a blob with endless chunks", reference(codec, body, chunks=2**32 - 1))
    yield Forgery("a blob without end", reference(codec, body, size=2**63))
    yield Forgery("a blob without chunks", reference(codec, body, chunks=0, size=0))
    yield Forgery("a blob that is not there", reference(codec, body)[:-16] + os.urandom(16))
    id = message_id or os.urandom(16)
    yield Forgery("an inline item as a blob", codec.pack(id, body, flags=envelope.BLOB))
    packed = codec.pack(message_id or id[::-1], struct.pack(">IQ16s", 1, len(body), stored(body)))
    yield Forgery("a blob as an inline item", packed[:1] + b"\3" + packed[2:])
