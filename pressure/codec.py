"""Objects to bytes and back, signed.

A `Codec` belongs to one queue and generation. What it writes can be read only from that queue: the
signature covers the queue's name, its generation and the direction, so an item copied elsewhere is
refused. The signature is checked before anything is unpickled.
"""

from __future__ import annotations

import hashlib
import pickle
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hmac import compare_digest as _same
from typing import Any, Protocol

from pressure import envelope
from pressure.copying import RefusedError, dumps_by_value
from pressure.envelope import Envelope
from pressure.python_versions import marked, unmarked

__all__ = [
    "RAW",
    "BadSignature",
    "Codec",
    "Seal",
    "Serializer",
    "Signer",
    "context_of",
    "key_id_of",
    "serializer_for",
]

RAW = "raw"
_MAC_BYTES = 16
_DERIVATION = b"pressure derived"
_PROTOCOL = 5
_PLAIN = pickle.PROTO
_HEADER_BYTES = envelope.HEADER_BYTES
_PARTS = struct.Struct(">HHQ16s16s")


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
                return marked(dumps_by_value(obj))
            except RefusedError:
                raise
            except Exception:
                # The plain error is the one that users of the standard library know.
                raise plain from None

    def loads(self, data: bytes, /) -> Any:
        return pickle.loads(data if data[:1] == _PLAIN else unmarked(data))


class _Given:
    """One of the user's own. What it makes must be bytes: `json`, say, makes text."""

    def __init__(self, codec: Serializer) -> None:
        self._codec = codec
        self.loads = codec.loads

    def dumps(self, obj: Any, /) -> bytes:
        data: object = self._codec.dumps(obj)
        if not isinstance(data, bytes | bytearray | memoryview):
            kind = type(data).__name__
            raise TypeError(f"dumps() of codec {self._codec!r} returned {kind}, not bytes")
        return bytes(data)


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
    return _Given(codec)


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
        if not _same(self._state.digest(), self._item.mac):
            raise BadSignature("its signature is wrong: it was altered, or is another queue's")


class Codec:
    """Items of one queue: `pack` makes an item's bytes of a body; `parse` and `check` go back.

    Where the body refers to content that lies beside the queue, the signature covers that as well:
    `seal` and `unseal` are shown it piece by piece.
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
        # The parts of a plain item that are always the same, and how it begins when it comes back
        # from its first delivery.
        flags = envelope.SIGNED if keys else 0
        self._prefix = envelope.prefix(flags, max_deliveries)
        self._fresh = self._prefix + b"\0\0"
        self._key_id = self._signer.key_id if self._signer is not None else envelope.NO_KEY
        # The same for records, whose most deliveries differ.
        self._flags = flags
        self._start = self._prefix[:2]
        self._starts: dict[int, bytes] = {}
        self._state = None if self._signer is None else self._signer.begin(b"", self._key_id)

    def pack(
        self,
        message_id: bytes,
        body: bytes,
        *,
        flags: int = 0,
        max_deliveries: int | None = None,
        server: bytes = b"",
    ) -> bytes:
        """An item's bytes. `server`: it is to say that it was put there (`Link.server`)."""
        if server:
            flags, body = flags | envelope.SERVER, body + server
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
        part = b"".join((envelope.prefix(flags, cap), message_id, self._client_id, body))
        return envelope.pack(
            body,
            flags=flags,
            max_deliveries=cap,
            message_id=message_id,
            client_id=self._client_id,
            key_id=signer.key_id,
            mac=signer.sign(part, signer.key_id),
        )

    def pack_plain(self, message_id: bytes, body: bytes) -> bytes:
        """As `pack`, for bodies that travel inline: the quick way."""
        prefix = self._prefix
        ids = message_id + self._client_id
        mac = envelope.NO_MAC
        if self._state is not None:
            state = self._state.copy()
            state.update(prefix + ids + body)
            mac = state.digest()
        return b"".join((prefix, envelope.FILLED_IN_LATER, ids, self._key_id, mac, body))

    def open_plain(self, item: bytes) -> bytes | None:
        """The body of an item like those of `pack_plain`; None for any other, good or bad."""
        if not (item.startswith(self._fresh) and item.startswith(self._key_id, 46)):
            return None
        body = item[_HEADER_BYTES:]
        if self._state is not None:
            state = self._state.copy()
            state.update(self._prefix + item[14:46] + body)
            if not _same(state.digest(), item[50:_HEADER_BYTES]):
                return None
        return body

    def open_plain_all(self, items: Iterable[bytes]) -> list[bytes | None]:
        """`open_plain` of many."""
        fresh, prefix, key_id = self._fresh, self._prefix, self._key_id
        copy = None if self._state is None else self._state.copy
        bodies: list[bytes | None] = []
        for item in items:
            body: bytes | None = None
            if item.startswith(fresh) and item.startswith(key_id, 46):
                body = item[_HEADER_BYTES:]
                if copy is not None:
                    state = copy()
                    state.update(prefix + item[14:46] + body)
                    if not _same(state.digest(), item[50:_HEADER_BYTES]):
                        body = None
            bodies.append(body)
        return bodies

    def open_bundle(self, item: bytes) -> bytes | None:
        """The body of a bundle; None if it is none, or is not sound."""
        try:
            parsed = self.parse(item)
            self.check(parsed)
        except ValueError:
            return None
        return parsed.body if parsed.flags & envelope.BUNDLE else None

    def pack_record(self, message_id: bytes, body: bytes, max_deliveries: int) -> bytes:
        """As `pack`, for bodies that travel inline: the quick way."""
        start = self._starts.get(max_deliveries)
        if start is None:
            start = self._starts[max_deliveries] = envelope.prefix(self._flags, max_deliveries)
        ids = message_id + self._client_id
        mac = envelope.NO_MAC
        if self._state is not None:
            state = self._state.copy()
            state.update(start + ids + body)
            mac = state.digest()
        return b"".join((start, envelope.FILLED_IN_LATER, ids, self._key_id, mac, body))

    def open_record(self, item: bytes) -> tuple[int, int, int, bytes, bytes, bytes] | None:
        """The parts of an item like those of `pack_record`: the most deliveries, those so far, the
        server's time, its id, its client's, and its body. None for any other, good or bad."""
        if not (item.startswith(self._start) and item.startswith(self._key_id, 46)):
            return None
        if len(item) < _HEADER_BYTES:
            return None
        body = item[_HEADER_BYTES:]
        if self._state is not None:
            state = self._state.copy()
            state.update(item[:4] + item[14:46] + body)
            if not _same(state.digest(), item[50:_HEADER_BYTES]):
                return None
        most, deliveries, put_ms, message_id, client_id = _PARTS.unpack_from(item, 2)
        return most, deliveries, put_ms, message_id, client_id, body

    def parse(self, item: bytes) -> Envelope:
        """The item's parts, unchecked. Raises `ValueError` if it is no envelope of ours."""
        return Envelope.parse(item)

    def check(self, item: Envelope) -> None:
        """Raise `BadSignature` unless the item, which has no content, may be unpickled here."""
        self.unseal(item).check()

    def unseal(self, item: Envelope) -> Seal:
        """To check an item with its content. Raises `BadSignature` if it can't be good."""
        if self._signer is not None:
            return Seal(item, self._signer.begin_check(item))
        if item.flags & envelope.SIGNED:
            raise BadSignature("it is signed, and this client has no key (PRESSURE_KEY, key=)")
        return Seal(item, None)

    def seal(
        self,
        message_id: bytes,
        body: bytes,
        *,
        flags: int,
        max_deliveries: int | None = None,
        server: bytes = b"",
    ) -> Seal:
        """To sign an item together with its content. `server`: as for `pack`."""
        if server:
            flags, body = flags | envelope.SERVER, body + server
        cap = self._max_deliveries if max_deliveries is None else max_deliveries
        signer = self._signer
        if signer is not None:
            flags |= envelope.SIGNED
        item = Envelope.parse(
            envelope.pack(
                body,
                flags=flags,
                max_deliveries=cap,
                message_id=message_id,
                client_id=self._client_id,
                key_id=self._key_id,
            )
        )
        return Seal(item, None if signer is None else signer.begin_check(item))


def context_of(name: str, generation: bytes, direction: str) -> bytes:
    """What a signature is bound to besides the item: queue, its generation, and direction.

    The directions are `item`; for an executor's queue `task`, for its reply queues `result`, and
    `stored` for what the client keeps beside one of them for its tasks.
    """
    parts = (name.encode(), generation, direction.encode())
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)
