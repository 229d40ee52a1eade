"""Which server, which prefix, which queue: what most commands have in common."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from pressure.address import Address
from pressure.channel import Channel
from pressure.channel.inventory import QueueName
from pressure.channel.replies import Opaque
from pressure.cli.tables import safe
from pressure.credentials import read_key_file, resolve_keys
from pressure.errors import QueueDoesNotExistError, QueueError, ServerRefusedError
from pressure.keys import DEFAULT_PREFIX, validate_name
from pressure.queue import PressureQueue
from pressure.settings import Settings

__all__ = [
    "Server",
    "checked_name",
    "prefix_option",
    "server_options",
    "signing_server_options",
    "url_option",
]

Function = TypeVar("Function", bound=Callable[..., Any])
PLAIN = "plain:"
"""Before a name: the plain queue is meant, though an executor's may be called so, too."""
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
        validate_name(name.removeprefix(PLAIN))
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc
    return name


class Server:
    """The server that the options name."""

    def __init__(self, url: str | None, prefix: str, key_file: Path | None = None) -> None:
        self.url = url
        self.prefix = prefix
        self.address = Address.of(url)
        self._keys = read_key_file(key_file) if key_file is not None else None

    def find(self, name: str) -> QueueName:
        """The queue called `name`; `{name}` is an executor's, `plain:name` a plain one.

        Raises `QueueDoesNotExistError`, and `QueueError` if both kinds of queue are called so.
        """
        if name.startswith("{") and name.endswith("}"):
            candidates = [QueueName(name[1:-1], True)]
        elif name.startswith(PLAIN):
            candidates = [QueueName(name.removeprefix(PLAIN), False)]
        else:
            candidates = [QueueName(name, False), QueueName(name, True)]
        found = [candidate for candidate in candidates if self._exists(candidate)]
        if not found:
            raise QueueDoesNotExistError(name, "it does not exist: see `pressure queue list`")
        if len(found) > 1 and not self.address.is_cluster:
            raise QueueError(
                name,
                f"a task queue and a plain queue are called so: say {{{name}}} for the task queue, "
                f"{PLAIN}{name} for the plain one",
            )
        return found[0]

    def find_plain(self, name: str) -> str:
        """The name of the plain queue that `name` means, whether it exists or not. Raises
        `QueueError` if an executor's queue is called so, unless it is `plain:name`."""
        if name.startswith(PLAIN):
            return name.removeprefix(PLAIN)
        # Who may use the plain queue alone may not ask for the other.
        with contextlib.suppress(ServerRefusedError):
            if not self.address.is_cluster and self._exists(QueueName(name, True)):
                raise QueueError(
                    name, f"a task queue is called so: say {PLAIN}{name} for a plain one beside it"
                )
        return name

    def described(self, queue: QueueName) -> str:
        """What a queue is called in an answer. In a Cluster names don't tell the kind."""
        kind = "" if self.address.is_cluster else "task " if queue.tagged else "plain "
        return f"the {kind}queue {safe(queue.name)}"

    def _exists(self, name: QueueName) -> bool:
        validate_name(name.name)
        with self.queue(name) as queue:
            return queue.exists

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
