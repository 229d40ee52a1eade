"""`pressure-worker`: the daemon's command line."""

from __future__ import annotations

import logging
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import click

from pressure._version import __version__
from pressure.address import Address
from pressure.checks import Severity, check_key, check_server
from pressure.credentials import read_key_file, resolve_keys
from pressure.errors import PressureError
from pressure.executor.notes import MOST_QUEUES
from pressure.executor.supervision.first_process import leave_to_child
from pressure.executor.supervision.health import check_health
from pressure.executor.supervision.logs import FORMATS, configure_logging
from pressure.executor.supervision.memory import parse_size
from pressure.executor.supervision.preload import PreloadError, preload
from pressure.executor.supervision.supervisor import (
    RECONNECT_TIMEOUT,
    Plan,
    Supervisor,
    default_processes,
)
from pressure.keys import DEFAULT_PREFIX, validate_name
from pressure.seconds import Seconds
from pressure.settings import Settings

__all__ = ["main"]

log = logging.getLogger("pressure.worker")

MOST_NAME = 100
EPILOG = """\b
Signals:
  SIGTERM, SIGINT  running tasks may finish (see --grace), the others go back
                   to their queue; a second one kills the tasks that run
  SIGHUP           replace the worker processes, each when it has finished its
                   task; preloaded modules stay as they are
  SIGUSR1          write the stacks of all processes to the log

\b
Exit codes:
  0  stopped by a signal or an order, or nothing was left to do;
     --check: healthy
  1  no server there, or it refused, or is too old; --check: not healthy
  2  wrong usage, or a module that can't be preloaded

Each option can be given as a variable, too: PRESSURE_URL, PRESSURE_QUEUE="a b", PRESSURE_PROCESSES,
PRESSURE_MAX_MEMORY_PER_CHILD and so on; PRESSURE_KEY has the key itself."""


def _size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    try:
        return None if value is None else parse_size(value)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc


def _checked_name(context: click.Context, parameter: click.Parameter, name: str) -> str:
    """It stands in logs, tables and the name of a file."""
    if len(name) > MOST_NAME or not name.isprintable():
        raise click.BadParameter(f"a name has up to {MOST_NAME} printable characters, no others")
    return name


@click.command(
    epilog=EPILOG,
    context_settings={"auto_envvar_prefix": "PRESSURE", "help_option_names": ["-h", "--help"]},
)
@click.argument("url", required=False, envvar="PRESSURE_URL")
@click.argument("more", nargs=-1, metavar="")
@click.option(
    "--queue",
    "queues",
    envvar="PRESSURE_QUEUE",
    multiple=True,
    default=("default",),
    show_default=True,
    help="A queue to serve. May be given several times; none of them starves another.",
)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    default=None,
    help="Worker processes. Default: the number of CPUs.",
)
@click.option(
    "--name",
    default="",
    callback=_checked_name,
    help="What to call this daemon. Default: host:pid.",
)
@click.option(
    "--preload",
    "modules",
    envvar="PRESSURE_PRELOAD",
    metavar="MODULE",
    multiple=True,
    help="Import a module once, before the worker processes are forked. May be given several "
    "times.",
)
@click.option(
    "--max-tasks-per-child",
    type=click.IntRange(min=1),
    default=None,
    help="Replace a process after so many tasks.",
)
@click.option(
    "--max-memory-per-child",
    callback=_size,
    metavar="SIZE",
    default=None,
    help="Replace a process that uses more memory (RSS), such as 500M, after its task; at once if "
    "its task makes it use more than twice as much.",
)
@click.option("--burst", is_flag=True, help="Exit when the queues are empty.")
@click.option(
    "--max-idle-time",
    type=Seconds(min=0, min_open=True),
    metavar="SECONDS",
    default=None,
    help="Exit when no task has run for so long.",
)
@click.option(
    "--grace",
    type=Seconds(min=0),
    metavar="SECONDS",
    default=None,
    help="How long running tasks may take to finish when stopping. Default: as long as they need.",
)
@click.option(
    "--lease",
    type=Seconds(min=0.5),
    metavar="SECONDS",
    default=15.0,
    show_default=True,
    help="After how long the tasks of a machine that is gone run elsewhere.",
)
@click.option(
    "--prefix", default=DEFAULT_PREFIX, show_default=True, help="What all keys begin with."
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
@click.option(
    "--metrics-port",
    type=click.IntRange(min=0, max=65535),
    default=None,
    help="Serve metrics for Prometheus on this port (needs the extra `metrics`).",
)
@click.option(
    "--metrics-host",
    default="127.0.0.1",
    show_default=True,
    help="The address to serve them at. Whoever reaches it can read them.",
)
@click.option(
    "--log-format",
    type=click.Choice(FORMATS),
    default=FORMATS[0],
    show_default=True,
    help="Lines for people, or one JSON object a line.",
)
@click.option(
    "--check",
    is_flag=True,
    allow_from_autoenv=False,
    help="Start nothing, and tell by the exit code whether the daemon called --name (default: all "
    "that run here) is well: its workers have run a task or looked for one within 30 seconds.",
)
@click.version_option(__version__, prog_name="pressure-worker")
def main(
    url: str | None,
    more: tuple[str, ...],
    queues: tuple[str, ...],
    processes: int | None,
    name: str,
    modules: tuple[str, ...],
    max_tasks_per_child: int | None,
    max_memory_per_child: int | None,
    burst: bool,
    max_idle_time: float | None,
    grace: float | None,
    lease: float,
    prefix: str,
    key_file: Path | None,
    insecure: bool,
    metrics_port: int | None,
    metrics_host: str,
    log_format: str,
    check: bool,
) -> None:
    """Run the tasks of queues at the server URL in worker processes.

    URL is redis://host:port/db, rediss://... (TLS), unix:///path, redis+sentinel://host,host/service
    or redis+cluster://host,host; default: PRESSURE_URL, else redis://127.0.0.1:6379/0. Modules are
    found in the current directory, too.
    """
    if more:
        # In words of its own: click's would show what may hold a password.
        raise click.UsageError("it takes one URL, and several queues as --queue A --queue B")
    if check:
        _check(name)
    _open_standard_streams()
    if os.getpid() == 1:
        leave_to_child()
    sink = configure_logging(log_format)
    plan = Plan(
        address=_address(url),
        queues=_checked_queues(queues),
        prefix=prefix,
        processes=processes or default_processes(),
        settings=Settings(lease=lease, reconnect_timeout=RECONNECT_TIMEOUT),
        grace=grace,
        max_tasks=max_tasks_per_child,
        max_memory=max_memory_per_child,
        name=name,
        burst=burst,
        max_idle_time=max_idle_time,
        metrics_port=metrics_port,
        metrics_host=metrics_host,
    )
    plan = _with_keys(plan, key_file, insecure)
    _outlive_signals()
    # As `python -m` does: the program lies elsewhere.
    sys.path.insert(0, os.getcwd())
    try:
        preload(modules)
    except PreloadError as exc:
        raise click.UsageError(str(exc)) from None
    _look_at_server(plan.address)
    try:
        Supervisor(plan, sink).run()
    except PressureError as exc:
        _give_up(str(exc))


def _check(name: str) -> NoReturn:
    well, sentences = check_health(name or None)
    for sentence in sentences:
        click.echo(sentence)
    sys.exit(0 if well else 1)


def _address(url: str | None) -> Address:
    try:
        return Address.of(url)
    except ValueError as exc:
        raise click.UsageError(str(exc)) from exc


def _checked_queues(queues: tuple[str, ...]) -> tuple[str, ...]:
    try:
        checked = tuple(dict.fromkeys(validate_name(queue) for queue in queues))
    except ValueError as exc:
        raise click.UsageError(str(exc)) from exc
    if len(checked) > MOST_QUEUES:
        raise click.UsageError(f"at most {MOST_QUEUES} queues can be served, not {len(checked)}")
    return checked


def _with_keys(plan: Plan, key_file: Path | None, insecure: bool) -> Plan:
    try:
        keys = read_key_file(key_file) if key_file is not None else None
        settings = resolve_keys(plan.settings, keys, plan.address)
    except (ValueError, OSError) as exc:
        raise click.UsageError(str(exc)) from exc
    for finding in check_key(plan.address, settings.signing_keys):
        if finding.severity is Severity.WARNING:
            log.warning("%s", finding)
        elif not insecure:
            raise click.UsageError(str(finding))
    return replace(plan, settings=settings)


def _open_standard_streams() -> None:
    """A connection must not get the number of a stream that is closed: what is logged would go
    there."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # It gets the lowest number that is free, which is this one.
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _outlive_signals() -> None:
    """What is meant for workers does not end a daemon that has none yet."""
    for number in (signal.SIGHUP, signal.SIGUSR1):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def _look_at_server(address: Address) -> None:
    """Exit if the server is of no use; warn if it is for now."""
    for finding in check_server(address):
        if finding.severity is Severity.REFUSAL:
            _give_up(str(finding))
        level = logging.WARNING if finding.severity is Severity.WARNING else logging.INFO
        log.log(level, "%s", finding)


def _give_up(why: str) -> NoReturn:
    click.echo(f"pressure-worker: {why}", err=True)
    sys.exit(1)
