"""`pressure serve`: a server in the foreground, to try two machines within a minute."""

from __future__ import annotations

import contextlib
import errno
import getpass
import os
import secrets
import shlex
import socket
import stat
import time
from pathlib import Path

import click
import redis

from pressure.cli.program import Terminated
from pressure.cli.tables import safe
from pressure.errors import ServerStartError
from pressure.server import LocalServer

__all__ = ["COMMANDS"]

KEY_FILE, PASSWORD_FILE = "pressure.key", "pressure.password"
EVERYWHERE = ("0.0.0.0", "::")
LOOK = 0.5
"""How often (seconds) it is looked whether the server is still there."""
SHUT_DOWN = 10.0
"""How long (seconds) it may take to write all to the disk."""
SOMEWHERE = ("192.0.2.1", 9)
"""An address that nobody has: no packet is sent to it."""


EXIT_CODES = """\b
Exit codes:
  0  stopped by Ctrl-C or SIGTERM
  1  the server could not be started, or ended by itself
  2  wrong usage"""


@click.command(epilog=EXIT_CODES)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="The address to listen at. 0.0.0.0 is all of this machine's.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=6379,
    show_default=True,
    help="0: any that is free.",
)
@click.option(
    "--key-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The key that signs all items; it is made if it does not exist. Default: pressure.key, "
    "in --dir or here.",
)
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the data there, and the password. Default: the data is gone when this ends.",
)
def serve(host: str, port: int, key_file: Path | None, directory: Path | None) -> None:
    """Run a server until Ctrl-C, and say how a second machine works for it.

    It has a password, which is in the URL, and a key. Whoever has both can run code on the
    workers; who has the URL alone can read what is in the queues. What travels is not encrypted:
    for more than a trial, see docs/operations.md.
    """
    hosts = dict.fromkeys(("0.0.0.0", host) if host in EVERYWHERE else ("127.0.0.1", host))
    for each in hosts:
        port = _free_port(each, port)
    if directory is not None:
        _make(directory)
    home = directory or Path()
    key_file = key_file or home / KEY_FILE
    _keep_secret(key_file, secrets.token_hex(32))
    password = secrets.token_urlsafe(24)
    if directory is not None:
        password = _keep_secret(directory / PASSWORD_FILE, password)
    arguments = ["--bind", *hosts]
    if directory is not None:
        arguments += ["--dir", str(directory.resolve()), "--appendonly", "yes"]
    server = LocalServer(port=port, password=password, extra_args=arguments)
    with contextlib.suppress(KeyboardInterrupt, Terminated), server:
        click.echo(_welcome(server.url, host, key_file.resolve(), directory))
        try:
            while server.is_running():
                time.sleep(LOOK)
        finally:
            if directory is not None:
                _write_all(server.url)
        raise ServerStartError("the server has ended by itself")
    click.echo(
        "\nThe server has ended."
        if directory is None
        else f"\nThe server has ended; its data is in {safe(directory)}."
    )


COMMANDS: tuple[click.Command, ...] = (serve,)


def _welcome(url: str, host: str, key_file: Path, directory: Path | None) -> str:
    address = _own_address() if host in EVERYWHERE else host
    bracketed = f"[{address}]" if ":" in address else address
    url = url.replace("127.0.0.1", bracketed, 1)
    quoted, key, copy = shlex.quote(url), shlex.quote(str(key_file)), key_file.name
    where = shlex.quote(f"{getpass.getuser()}@{address}:{key_file}")
    kept = "and its data is gone" if directory is None else "and its data is kept"
    lines = [
        f"A server runs at {url}",
        f"Its key is in {safe(key_file)}. Ctrl-C ends it, {kept}.",
        "",
        "A program that sends tasks, in another shell here:",
        f'    export PRESSURE_URL={quoted} PRESSURE_KEY="$(cat {key})"',
        "",
    ]
    if _is_loopback(address):
        return "\n".join(
            [
                *lines,
                "A worker, in another shell here:",
                f"    PRESSURE_URL={quoted} pressure-worker --key-file {key}",
                "",
                "Only this machine can reach it: for a second one, start it with --host 0.0.0.0.",
            ]
        )
    return "\n".join(
        [
            *lines,
            "A worker on a second machine:",
            f"    scp {where} .",
            f"    PRESSURE_URL={quoted} pressure-worker --key-file {shlex.quote(copy)}",
        ]
    )


def _keep_secret(path: Path, secret: str) -> str:
    """What the file holds; it is made with `secret`, for this user alone, if it isn't there."""
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w") as file:
            file.write(f"{secret}\n")
    held = path.read_text().strip()
    if not held:
        raise ValueError(f"{path} is empty: remove it, and it is made anew")
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise ValueError(f"others can read {path}: chmod 600 it, or remove it")
    return held


def _make(directory: Path) -> None:
    """Raises `ServerStartError` if no data can be kept there."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as exc:
        raise ServerStartError(
            f"no data can be kept in {directory} ({exc.strerror}): give another --dir"
        ) from exc


def _free_port(host: str, port: int) -> int:
    """The port, or any that is free for 0. Raises `ServerStartError` if the server could not listen
    at it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As the server does: what an earlier one has left behind is no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            why = f"port {port} at {host} is taken: give another --port (0: any free)"
        elif exc.errno == errno.EACCES:
            why = f"port {port} is not permitted to you: give a --port of 1024 or more"
        else:
            why = f"{host} is no address of this machine ({exc.strerror}): give another --host"
        raise ServerStartError(why) from exc


def _write_all(url: str) -> None:
    """Have the server end itself: it may put off writing for two seconds while the disk is busy,
    and what it has not written would be lost if it were killed."""
    with (
        contextlib.suppress(redis.RedisError),
        redis.Redis.from_url(url, socket_timeout=SHUT_DOWN) as client,
    ):
        client.shutdown()


def _own_address() -> str:
    """Where others most likely reach this machine."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(SOMEWHERE)
        return str(probe.getsockname()[0])
    return socket.gethostname()


def _is_loopback(address: str) -> bool:
    return address in ("localhost", "::1") or address.startswith("127.")
