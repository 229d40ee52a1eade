"""`pressure-worker`: the daemon's command line."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click

from pressure._version import __version__
from pressure.address import Address
from pressure.core import Settings
from pressure.credentials import resolve_keys
from pressure.errors import PressureError
from pressure.executor.supervisor import RECONNECT_TIMEOUT, Plan, Supervisor, default_processes
from pressure.keys import validate_name

__all__ = ["main"]

EPILOG = """Exit codes: 0 stopped by SIGTERM or SIGINT; 1 no server, or it refused; 2 wrong usage.

SIGTERM or SIGINT lets running tasks finish; a second one kills them."""


@click.command(epilog=EPILOG, context_settings={"auto_envvar_prefix": "PRESSURE"})
@click.argument("url", required=False, envvar="PRESSURE_URL")
@click.option("--queue", default="default", show_default=True, help="The queue to serve.")
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    default=None,
    help="Worker processes. Default: the number of CPUs.",
)
@click.option(
    "--prefix", default="__pressure__", show_default=True, help="What all keys begin with."
)
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=None,
    help="Seconds that running tasks get to finish when stopping. Default: as long as they take.",
)
@click.option(
    "--lease",
    type=click.FloatRange(min=0.5),
    default=15.0,
    show_default=True,
    help="Seconds after which the tasks of a machine that is gone run elsewhere.",
)
@click.option(
    "--max-tasks-per-child",
    type=click.IntRange(min=1),
    default=None,
    help="Replace a process after so many tasks.",
)
@click.option(
    "--key-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=None,
    help="File with the key that signs tasks and results; several lines: all are accepted.",
)
@click.option(
    "--insecure",
    is_flag=True,
    help="Serve a server that other machines can reach without a key. Whoever can write to it can "
    "then run code here.",
)
@click.version_option(__version__, prog_name="pressure-worker")
def main(
    url: str | None,
    queue: str,
    processes: int | None,
    prefix: str,
    grace: float | None,
    lease: float,
    max_tasks_per_child: int | None,
    key_file: Path | None,
    insecure: bool,
) -> None:
    """Run the tasks of a queue at the server URL in worker processes.

    URL is redis://host:port/db, rediss://... (TLS) or unix:///path; default: PRESSURE_URL, else
    redis://127.0.0.1:6379/0.
    """
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(process)d %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    try:
        validate_name(queue)
        address = Address.of(url)
        keys = key_file.read_text().split() if key_file is not None else None
        settings = Settings(lease=lease, reconnect_timeout=RECONNECT_TIMEOUT)
        settings = resolve_keys(settings, keys, address)
    except ValueError as exc:
        raise click.UsageError(str(exc)) from exc
    if not settings.signing_keys and not address.is_local and not insecure:
        raise click.UsageError(
            f"the server at {address} can be reached by other machines, and whoever can write to "
            "it could run code here: give a key (--key-file or PRESSURE_KEY), or --insecure"
        )
    plan = Plan(
        address=address,
        queue=queue,
        prefix=prefix,
        processes=processes or default_processes(),
        settings=settings,
        grace=grace,
        max_tasks=max_tasks_per_child,
    )
    try:
        Supervisor(plan).run()
    except PressureError as exc:
        click.echo(f"pressure-worker: {exc}", err=True)
        sys.exit(1)
