"""Where an embedded server listens, and a few words with it before there is a client."""

from __future__ import annotations

import re
import secrets
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

LOOPBACK = "127.0.0.1"
CONVERSATION_TIMEOUT = 1.0

_PROCESS_ID = re.compile(rb"\r\nprocess_id:(\d+)\r\n")
_REFUSAL = re.compile(rb"(?:\A|\A\+OK\r\n)-")


@dataclass(frozen=True)
class Endpoint:
    """An address: the url for clients, the server's arguments, and the password.

    `password` may be empty. The url contains it, so neither shows in the repr.
    """

    url: str = field(repr=False)
    arguments: tuple[str, ...]
    address: str | tuple[str, int]
    password: str = field(repr=False)

    @classmethod
    def on_socket(cls, path: Path, password: str = "") -> Endpoint:
        """A unix socket, and no TCP port."""
        return cls(
            url=f"unix://{_credentials(password)}{quote(str(path))}?db=0",
            arguments=("--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700"),
            address=str(path),
            password=password,
        )

    @classmethod
    def on_port(cls, port: int, password: str | None = None) -> Endpoint:
        """A port of 127.0.0.1 (0: any that is free now). A password of None: a random one."""
        if password is None:
            password = secrets.token_urlsafe(24)
        port = port or _free_port()
        return cls(
            url=f"redis://{_credentials(password)}{LOOPBACK}:{port}/0",
            arguments=("--port", str(port), "--bind", LOOPBACK),
            address=(LOOPBACK, port),
            password=password,
        )

    def answers(self, pid: int) -> bool:
        """Whether the server that answers here is the process `pid`, not a stranger."""
        with suppress(OSError), self._connect() as connection:
            return self._is(pid, connection)
        return False

    def shut_down(self, pid: int) -> None:
        """End the server here, if there is one and it is the process `pid`."""
        with suppress(OSError), self._connect() as connection:
            if self._is(pid, connection):
                connection.sendall(_command("SHUTDOWN", "NOSAVE"))
                connection.recv(1)  # returns when it has gone

    def _connect(self) -> socket.socket:
        family = socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            connection.settimeout(CONVERSATION_TIMEOUT)
            connection.connect(self.address)
        except BaseException:
            connection.close()
            raise
        return connection

    def _is(self, pid: int, connection: socket.socket) -> bool:
        login = _command("AUTH", self.password) if self.password else b""
        connection.sendall(login + _command("INFO", "server"))
        reply = b""
        while chunk := connection.recv(4096):
            reply += chunk
            if found := _PROCESS_ID.search(reply):
                return int(found[1]) == pid
            if _REFUSAL.search(reply):
                return False
        return False


def _credentials(password: str) -> str:
    return f":{quote(password, safe='')}@" if password else ""


def _command(*words: str) -> bytes:
    parts = [word.encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(p), p) for p in parts)


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
