"""Find where messages of the Redis protocol end, without understanding what they say.

Used by the proxy to tell which reply belongs to which command. RESP2 and RESP3 are understood, and
inline commands; streamed aggregates (`*?`), which no server sends, are not.
"""

from __future__ import annotations

from dataclasses import dataclass

_LINES = frozenset(b"+-:_#,(")
_BULKS = frozenset(b"$!=")
_AGGREGATES = {ord("*"): 1, ord("~"): 1, ord(">"): 1, ord("%"): 2, ord("|"): 2}
_ATTRIBUTE = ord("|")


class MalformedMessageError(ValueError):
    """The bytes are not the Redis protocol (perhaps TLS, which the proxy can't look into)."""


@dataclass(frozen=True)
class Message:
    """One whole message as it was on the wire."""

    raw: bytes

    @property
    def is_push(self) -> bool:
        """Whether it is an out-of-band message of RESP3, which answers no command."""
        return self.raw[:1] == b">"

    def arguments(self) -> tuple[bytes, ...]:
        """The words of a command, its name first; of an inline command as well."""
        if self.raw[:1] != b"*":
            return tuple(self.raw.split())
        words = []
        position = self.raw.index(b"\r\n") + 2
        while position < len(self.raw):
            start = self.raw.index(b"\r\n", position) + 2
            length = int(self.raw[position + 1 : start - 2])
            words.append(self.raw[start : start + length])
            position = start + length + 2
        return tuple(words)


class Splitter:
    """Cuts one direction of a connection into whole messages.

    Args:
        inline: whether a line that starts with no type byte is a message (commands, not replies).
    """

    def __init__(self, *, inline: bool = False) -> None:
        self._inline = inline
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """Add what arrived, and return the messages that are complete by now.

        Raises:
            MalformedMessageError: this is another protocol.
        """
        self._buffer += data
        messages = []
        start = 0
        while (end := self._end_of_message(start)) is not None:
            messages.append(Message(bytes(self._buffer[start:end])))
            start = end
        del self._buffer[:start]
        return messages

    def rest(self) -> bytes:
        """What arrived of a message that is not complete."""
        return bytes(self._buffer)

    def _end_of_message(self, position: int) -> int | None:
        # `missing` counts the values that must still follow before the message is whole.
        missing = 1
        while missing:
            line_end = self._buffer.find(b"\r\n", position)
            if line_end < 0:
                return None
            kind = self._buffer[position]
            line = bytes(self._buffer[position + 1 : line_end])
            position = line_end + 2
            missing -= 1
            if kind in _AGGREGATES:
                missing += max(_number(line), 0) * _AGGREGATES[kind]
                # An attribute precedes the value that it describes.
                missing += kind == _ATTRIBUTE
            elif kind in _BULKS:
                length = _number(line)
                position += length + 2 if length >= 0 else 0
                if position > len(self._buffer):
                    return None
            elif kind not in _LINES and not self._inline:
                raise MalformedMessageError(f"no reply starts with {bytes([kind])!r}")
        return position


def _number(line: bytes) -> int:
    try:
        return int(line)
    except ValueError:
        raise MalformedMessageError(f"{line!r} is not a length") from None
