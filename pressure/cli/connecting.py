"""Which server, which prefix, which queue: what most commands have in common."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from pressure.address import Address
from pressure.channel import Channel
from pressure.core import Settings
from pressure.credentials import resolve_keys
from pressure.errors import QueueDoesNotExistError
from pressure.inventory import QueueName
from pressure.keys import DEFAULT_PREFIX, validate_name
from pressure.queue import PressureQueue
from pressure.replies import Opaque

__all__ = [
    "Server",
    "checked_name",
    "prefix_option",
    "server_options",
    "signing_server_options",
    "url_option",
]

Function = TypeVar("Function", bound=Callable[..., Any])
PATIENCE = 5.0
"""How long (seconds) a server is sought that is gone in the middle of a command."""

url_option = click.option(
    "--url",
    metavar="URL",
    help="The server. Default: PRESSURE_URL, else redis://127.0.0.1:6379/0. (A password is "
    "safer in PRESSURE_URL, since others can see the arguments of a process.)",
)
prefix_option = click.option(
    "--prefix",
    envvar="PRESSURE_PREFIX",
    default=DEFAULT_PREFIX,
    show_default=True,
    help="What the keys of all queues begin with.",
)
key_option = click.option(
    "--key-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="PRESSURE_KEY_FILE",
    help="A file with the key that signs (or several, of which the first signs). Default: "
    "PRESSURE_KEY.",
)


def checked_name(context: click.Context, parameter: click.Parameter, name: str) -> str:
    try:
        return validate_name(name)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc


class Server:
    """The server that the options name."""

    def __init__(self, url: str | None, prefix: str, key_file: Path | None = None) -> None:
        self.url = url
        self.prefix = prefix
        self.address = Address.of(url)
        self._keys = key_file.read_text().split() if key_file is not None else None

    def find(self, name: str) -> QueueName:
        """The queue called `name`; in braces if an executor's queue is meant that shares its name
        with a plain one. Raises `QueueDoesNotExistError`."""
        if name.startswith("{") and name.endswith("}"):
            candidates = [QueueName(name[1:-1], True)]
        else:
            candidates = [QueueName(name, False), QueueName(name, True)]
        for candidate in candidates:
            validate_name(candidate.name)
            with self.queue(candidate) as queue:
                if queue.exists:
                    return candidate
        raise QueueDoesNotExistError(name)

    def queue(self, name: QueueName) -> PressureQueue[Any]:
        """A handle to manage a queue with. It never reads items."""
        tag = name.name if name.tagged else ""
        settings = Settings(hash_tag=tag, reconnect_timeout=PATIENCE)
        return PressureQueue(name.name, url=self.url, prefix=self.prefix, settings=settings)

    def queue_of_bytes(self, name: str) -> PressureQueue[bytes]:
        """A handle to use a queue with: its items are signed, if there is a key, and no pickles."""
        settings = Settings(reconnect_timeout=PATIENCE)
        return PressureQueue(
            name,
            url=self.url,
            prefix=self.prefix,
            codec=Opaque(),
            key=self.signing_keys or None,
            settings=settings,
        )

    @property
    def signing_keys(self) -> tuple[bytes, ...]:
        return resolve_keys(Settings(), self._keys, self.address).signing_keys

    def channel(self, queue: str) -> Channel:
        """A handle to an executor's queue, to talk to those who use it."""
        settings = resolve_keys(Settings(reconnect_timeout=PATIENCE), self._keys, self.address)
        return Channel(queue, self.address, tag=queue, prefix=self.prefix, settings=settings)


def server_options(function: Function) -> Function:
    """`--url` and `--prefix`, as the argument `server`."""

    @functools.wraps(function)
    def command(*, url: str | None, prefix: str, **options: Any) -> Any:
        return function(server=Server(url, prefix), **options)

    return cast(Function, url_option(prefix_option(command)))


def signing_server_options(function: Function) -> Function:
    """`--url`, `--prefix` and `--key-file`, as the argument `server`."""

    @functools.wraps(function)
    def command(*, url: str | None, prefix: str, key_file: Path | None, **options: Any) -> Any:
        return function(server=Server(url, prefix, key_file), **options)

    return cast(Function, url_option(prefix_option(key_option(command))))
