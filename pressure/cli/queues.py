"""`pressure queue`: list, pause, resume, purge and delete queues."""

from __future__ import annotations

import click

from pressure.channel.inventory import Inventory
from pressure.cli.connecting import Server, server_options, signing_server_options
from pressure.cli.info import QUEUE_HEADERS, queue_json, queue_row
from pressure.cli.program import EXIT_CODES, Group
from pressure.cli.tables import echo_json, safe, table
from pressure.executor.purging import end_waiting_tasks

__all__ = ["COMMANDS"]

COLUMNS = [
    at for at, header in enumerate(QUEUE_HEADERS) if header not in ("IN/S", "OUT/S", "CLIENTS")
]
"""Without what needs a second look, or a look at the clients."""
name_argument = click.argument("name", metavar="QUEUE")
yes_option = click.option("--yes", "-y", is_flag=True, help="Don't ask.")


@click.group(cls=Group)
def queue() -> None:
    """List, pause, resume, purge and delete queues.

    Where a plain queue and the task queue of an executor have the same name, QUEUE is plain:NAME or
    {NAME} (in braces: the task queue).
    """


@queue.command("list", epilog=EXIT_CODES)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@server_options
def list_(server: Server, as_json: bool) -> None:
    """List the queues, as `pressure info` does."""
    inventory = Inventory(server.address, server.prefix)
    try:
        names, _ = inventory.names()
        looks = [look for name in names if (look := inventory.queue(name)) is not None]
    finally:
        inventory.close()
    if as_json:
        echo_json([queue_json(look, None) for look in looks])
    elif looks:
        rows = [[queue_row(look, None, None)[at] for at in COLUMNS] for look in looks]
        click.echo(table([QUEUE_HEADERS[at] for at in COLUMNS], rows))
    else:
        click.echo(f"There is no queue with the prefix {safe(server.prefix)} here.")


@queue.command(epilog=EXIT_CODES)
@name_argument
@server_options
def pause(server: Server, name: str) -> None:
    """Have consumers and workers begin nothing new of QUEUE, until `resume`.

    What was begun goes on, and so does putting. The queue stays paused whoever restarts. Clients of
    protocol 0.15 don't heed it.
    """
    found = server.find(name)
    with server.queue(found) as queue:
        queue.pause()
        click.echo(f"paused {server.described(found)}, with {queue.qsize()} items waiting")


@queue.command(epilog=EXIT_CODES)
@name_argument
@server_options
def resume(server: Server, name: str) -> None:
    """End a pause. Whoever waits goes on at once."""
    found = server.find(name)
    with server.queue(found) as queue:
        was = queue.paused
        queue.resume()
        which = server.described(found)
        click.echo(f"resumed {which}" if was else f"{which} was not paused")


@queue.command(epilog=EXIT_CODES)
@name_argument
@yes_option
@signing_server_options
def purge(server: Server, name: str, yes: bool) -> None:
    """Drop all that waits in QUEUE.

    What consumers and workers have begun is not touched, nor are the dead letters. The futures of
    an executor's dropped tasks get an error: if its tasks are signed, the key is needed for that.
    """
    found = server.find(name)
    with server.queue(found) as queue:
        count = queue.qsize()
        _confirm(yes, f"Drop the {count} items that wait in {server.described(found)}?")
        dropped = _end_tasks(server, found.name, count) if found.tagged else queue.purge()
    click.echo(f"dropped {dropped} items of {server.described(found)}")


@queue.command(epilog=EXIT_CODES)
@name_argument
@yes_option
@server_options
def delete(server: Server, name: str, yes: bool) -> None:
    """Delete QUEUE with all its data, dead letters included.

    Whoever waits at it is woken with an error. Executors that still wait for tasks of theirs make
    the queue anew, and send these again.
    """
    found = server.find(name)
    with server.queue(found) as queue:
        stats = queue.stats()
        _confirm(
            yes,
            f"Delete {server.described(found)} with {stats.length} items and "
            f"{stats.dead_letters} dead letters?",
        )
        queue.delete()
    click.echo(f"deleted {server.described(found)}")


COMMANDS: tuple[click.Command, ...] = (queue,)


def _end_tasks(server: Server, name: str, count: int) -> int:
    channel = server.channel(name)
    try:
        return end_waiting_tasks(channel, count)
    finally:
        channel.disconnect()


def _confirm(yes: bool, question: str) -> None:
    if not yes:
        click.confirm(question, abort=True, err=True)
