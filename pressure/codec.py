"""Bodies to items and back, signed.

A `Codec` belongs to one queue and generation. What it writes can be read only from that queue: the
signature covers the queue's name, its generation and the direction, so an item copied elsewhere is
refused. The signature is checked before anything is unpickled.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from hmac import compare_digest as _same

from pressure import envelope
from pressure.envelope import Envelope
from pressure.signing import BadSignature, Seal, Signer

__all__ = ["Codec"]

_HEADER_BYTES = envelope.HEADER_BYTES
_PARTS = struct.Struct(">HHQ16s16s")


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
