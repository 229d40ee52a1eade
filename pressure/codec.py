"""Objects to bytes and back, signed.

A `Codec` belongs to one queue and generation. What it writes can be read only from that queue: the
signature covers the queue's name, its generation and the direction, so an item copied elsewhere is
refused. The signature is checked before anything is unpickled.
"""

from __future__ import annotations

import hashlib
import hmac
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cloudpickle

from pressure import envelope
from pressure.envelope import Envelope

__all__ = ["RAW", "BadSignature", "Codec", "Serializer", "Signer", "context_of", "serializer_for"]

RAW = "raw"
_MAC_BYTES = 16
_PROTOCOL = 5


class BadSignature(ValueError):
    """The signature of an item is missing, made with an unknown key, or wrong."""


class Serializer(Protocol):
    """What `codec=` takes besides a name: an object with `dumps` and `loads`."""

    def dumps(self, obj: Any, /) -> bytes: ...

    def loads(self, data: bytes, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class _Pickle:
    """Plain pickle, and cloudpickle only for what that can't do (lambdas, local classes)."""

    def dumps(self, obj: Any, /) -> bytes:
        try:
            return pickle.dumps(obj, _PROTOCOL)
        except (pickle.PicklingError, AttributeError, TypeError) as plain:
            try:
                return bytes(cloudpickle.dumps(obj, _PROTOCOL))
            except Exception:
                # The plain error is the one that users of the standard library know.
                raise plain from None

    def loads(self, data: bytes, /) -> Any:
        return pickle.loads(data)


def serializer_for(codec: str | Serializer) -> Serializer | None:
    """The serializer that `codec` names; None for raw bytes. Raises `ValueError`/`TypeError`."""
    if codec == RAW:
        return None
    if codec == "pickle":
        return _Pickle()
    if isinstance(codec, str):
        raise ValueError(f"unknown codec {codec!r}: use 'pickle', 'raw', or an object")
    if not callable(getattr(codec, "dumps", None)) or not callable(getattr(codec, "loads", None)):
        raise TypeError("a codec is 'pickle', 'raw', or an object with dumps() and loads()")
    return codec


class Signer:
    """Signs with the first of some keys and accepts all of them, so that keys can be rotated."""

    def __init__(self, keys: Sequence[bytes], context: bytes) -> None:
        self._states: dict[bytes, Any] = {}
        for key in keys:
            # Longer keys are hashed first, since BLAKE2b takes at most 64 bytes.
            short = key if len(key) <= 64 else hashlib.blake2b(key).digest()
            key_id = hashlib.blake2b(short, digest_size=4, person=b"pressure key id").digest()
            state = hashlib.blake2b(key=short, digest_size=_MAC_BYTES)
            state.update(len(context).to_bytes(4, "big") + context)
            self._states.setdefault(key_id, state)
        self.key_id = next(iter(self._states))

    def sign(
        self, fields: bytes, body: bytes | memoryview, content: bytes, key_id: bytes | None = None
    ) -> bytes:
        state = self._states[key_id or self.key_id].copy()
        state.update(fields)
        state.update(body)
        if content:
            state.update(content)
        mac: bytes = state.digest()
        return mac

    def check(self, item: Envelope, content: bytes) -> None:
        """Raise `BadSignature` unless the item was signed with one of the keys."""
        if not item.flags & envelope.SIGNED:
            raise BadSignature("it is not signed, and this client has a key")
        if item.key_id not in self._states:
            raise BadSignature(f"it is signed with an unknown key (id {item.key_id.hex()})")
        fields = _signed_fields(item.flags, item.max_deliveries, item.message_id, item.client_id)
        mac = self.sign(fields, item.body, content, item.key_id)
        if not hmac.compare_digest(mac, item.mac):
            raise BadSignature("its signature is wrong: it was altered, or is another queue's")


def _signed_fields(flags: int, max_deliveries: int, message_id: bytes, client_id: bytes) -> bytes:
    return (
        bytes((envelope.VERSION, flags))
        + max_deliveries.to_bytes(2, "big")
        + message_id
        + client_id
    )


class Codec:
    """Items of one queue: `pack` makes an item's bytes of a body; `parse` and `check` go back.

    `content` is what a body refers to, where it lies beside the queue: the signature covers it.
    """

    def __init__(
        self,
        *,
        client_id: bytes,
        max_deliveries: int,
        keys: Sequence[bytes] = (),
        context: bytes = b"",
    ) -> None:
        self._client_id = client_id
        self._max_deliveries = max_deliveries
        self._signer = Signer(keys, context) if keys else None

    def pack(
        self,
        message_id: bytes,
        body: bytes,
        *,
        flags: int = 0,
        content: bytes = b"",
        max_deliveries: int | None = None,
    ) -> bytes:
        signer = self._signer
        cap = self._max_deliveries if max_deliveries is None else max_deliveries
        if signer is None:
            return envelope.pack(
                body,
                flags=flags,
                max_deliveries=cap,
                message_id=message_id,
                client_id=self._client_id,
            )
        flags |= envelope.SIGNED
        fields = _signed_fields(flags, cap, message_id, self._client_id)
        return envelope.pack(
            body,
            flags=flags,
            max_deliveries=cap,
            message_id=message_id,
            client_id=self._client_id,
            key_id=signer.key_id,
            mac=signer.sign(fields, body, content),
        )

    def parse(self, item: bytes) -> Envelope:
        """The item's parts, unchecked. Raises `ValueError` if it is no envelope of ours."""
        return Envelope.parse(item)

    def check(self, item: Envelope, content: bytes) -> None:
        """Raise `BadSignature` unless the item may be unpickled here."""
        if self._signer is not None:
            self._signer.check(item, content)
        elif item.flags & envelope.SIGNED:
            raise BadSignature("it is signed, and this client has no key (PRESSURE_KEY, key=)")


def context_of(name: str, generation: bytes, direction: str) -> bytes:
    """What a signature is bound to besides the item: queue, its generation, and direction."""
    parts = (name.encode(), generation, direction.encode())
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)
