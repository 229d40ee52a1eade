"""Signatures of items: by which keys, over what, and bound to which queue."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from hmac import compare_digest
from typing import Any

from pressure import envelope
from pressure.envelope import Envelope

__all__ = ["BadSignature", "Seal", "Signer", "context_of", "key_id_of"]

_MAC_BYTES = 16
_DERIVATION = b"pressure derived"


class BadSignature(ValueError):
    """The signature of an item is missing, made with an unknown key, or wrong."""


def context_of(name: str, generation: bytes, direction: str) -> bytes:
    """What a signature is bound to besides the item: queue, its generation, and direction.

    The directions are `item`; for an executor's queue `task`, for its reply queues `result`, and
    `stored` for what the client keeps beside one of them for its tasks.
    """
    parts = (name.encode(), generation, direction.encode())
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def key_id_of(key: bytes) -> bytes:
    """What an envelope says of the key that signed it."""
    return hashlib.blake2b(_short(key), digest_size=4, person=b"pressure key id").digest()


def _short(key: bytes) -> bytes:
    """Longer keys are hashed first, since BLAKE2b takes at most 64 bytes."""
    return key if len(key) <= 64 else hashlib.blake2b(key).digest()


class Signer:
    """Signs with the first of some keys and accepts all of them, so that keys can be rotated.

    `context` is what the signatures are bound to besides the item (`context_of`).
    """

    def __init__(self, keys: Sequence[bytes], context: bytes) -> None:
        self._states: dict[bytes, Any] = {}
        for key in keys:
            # A key of its own for each queue, generation and direction: what was signed for one
            # can't be taken for another's.
            derived = hashlib.blake2b(context, key=_short(key), digest_size=32, person=_DERIVATION)
            state = hashlib.blake2b(key=derived.digest(), digest_size=_MAC_BYTES)
            self._states.setdefault(key_id_of(key), state)
        self.key_id = next(iter(self._states))

    def begin(self, part: bytes, key_id: bytes) -> Any:
        """A running hash to which content may be added; its digest is the signature."""
        state = self._states[key_id].copy()
        state.update(part)
        return state

    def sign(self, part: bytes, key_id: bytes) -> bytes:
        state = self._states[key_id].copy()
        state.update(part)
        mac: bytes = state.digest()
        return mac

    def begin_check(self, item: Envelope) -> Any:
        """As `begin`, of an item. Raises `BadSignature` if no key fits."""
        if not item.flags & envelope.SIGNED:
            raise BadSignature("it is not signed, and this client has a key")
        if item.key_id not in self._states:
            here = " or ".join(key_id.hex() for key_id in self._states)
            theirs = item.key_id.hex()
            raise BadSignature(f"it is signed with an unknown key (id {theirs}; {here} is known)")
        return self.begin(envelope.signed_part(item.item), item.key_id)


class Seal:
    """The signature of an item whose content, which lies beside the queue, passes by in pieces."""

    __slots__ = ("_item", "_state")

    def __init__(self, item: Envelope, state: Any) -> None:
        self._item = item
        self._state = state

    def update(self, piece: bytes | bytearray | memoryview) -> None:
        """Take in the next piece of the content."""
        if self._state is not None:
            self._state.update(piece)

    def item(self) -> bytes:
        """The bytes of the item, signed."""
        if self._state is None:
            return self._item.item
        return envelope.with_mac(self._item.item, self._state.digest())

    def check(self) -> None:
        """Raise `BadSignature` unless all that passed by is what was signed."""
        if self._state is None:
            return
        if not compare_digest(self._state.digest(), self._item.mac):
            raise BadSignature("its signature is wrong: it was altered, or is another queue's")
