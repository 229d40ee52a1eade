"""`pressure worker`: list the worker processes, and give orders to their daemons."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import click
from click.exceptions import Exit

from pressure.channel.inventory import Inventory
from pressure.channel.registry import WorkerRecord
from pressure.cli.connecting import Server, server_options, signing_server_options
from pressure.cli.program import ERROR, EXIT_CODES, TIMED_OUT, Group
from pressure.cli.tables import duration, echo_json, safe, size, table
from pressure.errors import PressureError
from pressure.executor.orders import OrderKind, give_orders
from pressure.seconds import Seconds

__all__ = ["COMMANDS", "SHOWN", "WORKER_HEADERS", "order_daemons", "roll", "worker_rows"]

WORKER_HEADERS = (
    *("WORKER", "DAEMON", "HOST", "PID", "QUEUES", "STATE", "TASK", "FOR"),
    *("DONE", "FAILED", "MEMORY", "UP", "VERSION"),
)
SHOWN = 8
"""How many digits of an id are shown, and so many are enough to name it."""
Answers = dict[bytes, dict[str, Any] | None]


@click.group(cls=Group)
def worker() -> None:
    """List worker processes; stop or ping the daemons (pressure-worker) that run them."""


@worker.command("list", epilog=EXIT_CODES)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@server_options
def list_(server: Server, as_json: bool) -> None:
    """List the worker processes of all daemons that serve queues here.

    One line for each process. What ends disappears at once; what is on a machine that has died, a
    few seconds later.
    """
    records = roll(server)
    if as_json:
        echo_json([record.as_dict() for record in records])
    elif records:
        click.echo(table(WORKER_HEADERS, worker_rows(records)))
    else:
        click.echo(f"No pressure-worker serves a queue with the prefix {safe(server.prefix)} here.")


names_argument = click.argument("names", metavar="[DAEMON]...", nargs=-1)
all_option = click.option("--all", "everybody", is_flag=True, help="All daemons.")
timeout_option = click.option(
    "--timeout",
    type=Seconds(min=0.1),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for their answers.",
)


@worker.command(epilog=EXIT_CODES)
@names_argument
@all_option
@click.option(
    "--grace",
    type=Seconds(min=0),
    metavar="SECONDS",
    help="How long running tasks get to end. Default: what the daemon was started with.",
)
@timeout_option
@signing_server_options
def stop(
    server: Server, names: Sequence[str], everybody: bool, grace: float | None, timeout: float
) -> None:
    """Have daemons finish what runs, give back the rest, and end.

    DAEMON is a name (all daemons of that name are meant), or the beginning of the id of a daemon
    or of one of its workers. The order is signed, if tasks are. Returns when each has said that it
    obeys.
    """
    answers = order_daemons(server, names, everybody, OrderKind.STOP, grace, timeout)
    _report(answers, "stops")


@worker.command(epilog=EXIT_CODES)
@names_argument
@all_option
@timeout_option
@signing_server_options
def ping(server: Server, names: Sequence[str], everybody: bool, timeout: float) -> None:
    """Ask daemons whether they are there, all of them by default. DAEMON is as for `stop`."""
    everybody = everybody or not names
    answers = order_daemons(server, names, everybody, OrderKind.PING, None, timeout)
    _report(answers, "is there")
    if not answers:
        raise Exit(ERROR)


COMMANDS: tuple[click.Command, ...] = (worker,)


def worker_rows(records: Iterable[WorkerRecord]) -> list[tuple[object, ...]]:
    """Workers for people, under `WORKER_HEADERS`."""
    return [
        (
            record.id[:SHOWN],
            record.name,
            record.host,
            record.pid,
            ",".join(record.queues),
            record.state,
            # All tasks of a client begin alike; they are counted at the end.
            f"{record.task.id[:SHOWN]}..{record.task.id[-6:]}" if record.task is not None else None,
            duration(record.task.age) if record.task is not None else None,
            record.done,
            record.failed,
            size(record.memory),
            duration(record.age),
            record.version,
        )
        for record in records
    ]


def roll(server: Server) -> list[WorkerRecord]:
    """All workers, each once."""
    inventory = Inventory(server.address, server.prefix)
    with contextlib.closing(inventory):
        names, _ = inventory.names()
        looks = [look for name in names if (look := inventory.queue(name)) is not None]
    found = {record.id: record for look in looks for record in look.workers}
    return sorted(found.values(), key=lambda record: (record.name, record.host, record.pid))


def order_daemons(
    server: Server,
    names: Sequence[str],
    everybody: bool,
    kind: OrderKind,
    grace: float | None,
    timeout: float,
) -> Answers:
    """Give an order; returns what each daemon said, by its id. See `give_orders`."""
    if not names and not everybody:
        raise click.UsageError("name the daemons, or give --all")
    chosen = _choose(roll(server), None if everybody else names)
    by_queue: dict[str, list[bytes]] = {}
    for daemon, record in chosen.items():
        by_queue.setdefault(record.queues[0], []).append(bytes.fromhex(daemon))
    answers: Answers = {}
    for queue, daemons in by_queue.items():
        channel = server.channel(queue)
        try:
            answers |= give_orders(channel, daemons, kind, grace=grace, timeout=timeout)
        finally:
            channel.disconnect()
    return answers


def _choose(
    records: Sequence[WorkerRecord], names: Sequence[str] | None
) -> dict[str, WorkerRecord]:
    """One record of each daemon that is meant, by the daemon's id."""
    daemons = {record.daemon: record for record in records if record.queues}
    if names is None:
        return daemons
    chosen: dict[str, WorkerRecord] = {}
    for name in names:
        found = {
            record.daemon
            for record in records
            if name == record.name
            or (len(name) >= 4 and (record.daemon.startswith(name) or record.id.startswith(name)))
        }
        if not found:
            raise PressureError(f"there is no daemon {name!r}: see `pressure worker list`")
        chosen |= {daemon: daemons[daemon] for daemon in found if daemon in daemons}
    return chosen


def _report(answers: Answers, does: str) -> None:
    """Say what each said; ends the program if one said nothing."""
    if not answers:
        click.echo("no pressure-worker is there")
    for daemon, said in sorted(answers.items()):
        if said is None:
            click.echo(
                f"{daemon.hex()[:SHOWN]} did not answer (it hangs, or has another key)", err=True
            )
        else:
            click.echo(
                f"{safe(said.get('name'))} {does}: {safe(said.get('host'))}, pid "
                f"{safe(said.get('pid'))}, {safe(said.get('processes'))} processes "
                f"({float(said['seconds']) * 1000:.0f} ms)"
            )
    if None in answers.values():
        raise Exit(TIMED_OUT)
