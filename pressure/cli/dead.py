"""`pressure dead`: what could not be delivered. Nothing is unpickled to show it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import click

from pressure.channel.inventory import Inventory, QueueName, age_of
from pressure.cli.autopsy import dissected, hexdump
from pressure.cli.connecting import Server, server_options
from pressure.cli.program import EXIT_CODES, Group
from pressure.cli.tables import duration, echo_json, safe, size, table
from pressure.errors import PressureError
from pressure.letters import DeadLetter
from pressure.retry import is_about_one_queue

__all__ = ["COMMANDS"]

HEADERS = ("QUEUE", "ID", "REASON", "DEAD FOR", "DELIVERIES", "SIZE", "ERROR")
ERROR_WIDTH = 60
PREVIEW = 256
SHORTEST = 4

queue_argument = click.argument("name", metavar="QUEUE")
ids_argument = click.argument("ids", metavar="[ID]...", nargs=-1)
all_option = click.option("--all", "everything", is_flag=True, help="All dead letters of QUEUE.")
json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")


@click.group(cls=Group)
def dead() -> None:
    """Look at dead letters, put them back, or drop them.

    A dead letter is an item that was delivered too often in vain, can't be read, has a wrong
    signature, or is a task whose workers died each time. An ID may be shortened. QUEUE is as for
    `pressure queue`.
    """


@dead.command("list", epilog=EXIT_CODES)
@click.argument("name", metavar="[QUEUE]", required=False)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="List so many at most.",
)
@json_option
@server_options
def list_(server: Server, name: str | None, limit: int, as_json: bool) -> None:
    """List the newest dead letters of QUEUE, or of all queues."""
    with _inventory(server) as inventory:
        queues = [server.find(name)] if name is not None else inventory.names()[0]
        now_ms = inventory.now_ms()
        letters: list[tuple[QueueName, DeadLetter]] = []
        more = False
        for queue in queues:
            try:
                for letter in inventory.letters(queue):
                    if len(letters) == limit:
                        more = True
                        break
                    letters.append((queue, letter))
            except PressureError as exc:
                if name is not None or not is_about_one_queue(exc):
                    raise
                # The others have theirs all the same.
                click.echo(f"pressure: queue {safe(repr(str(queue)))}: {safe(exc)}", err=True)
    if as_json:
        echo_json([_facts(queue, letter, now_ms) for queue, letter in letters])
        return
    if not letters:
        click.echo("There are no dead letters.")
        return
    click.echo(table(HEADERS, [_row(queue, letter, now_ms) for queue, letter in letters]))
    if more:
        click.echo(f"(There are more than these {limit}: see --limit.)")


@dead.command(epilog=EXIT_CODES)
@queue_argument
@click.argument("id")
@click.option(
    "--bytes",
    "count",
    type=click.IntRange(min=0),
    default=PREVIEW,
    show_default=True,
    help="How much of the item to show.",
)
@json_option
@server_options
def show(server: Server, name: str, id: str, count: int, as_json: bool) -> None:
    """Show what is known of one dead letter, and its first bytes. It is not unpickled."""
    with _inventory(server) as inventory:
        queue = server.find(name)
        letter = _one(inventory, queue, id)
        now_ms = inventory.now_ms()
    facts = _facts(queue, letter, now_ms) | dissected(letter.payload, task=queue.tagged)
    if as_json:
        echo_json(facts | {"hex": letter.payload[:count].hex()})
        return
    width = max(map(len, facts))
    for key, value in facts.items():
        if value not in (None, "", {}, []):
            click.echo(f"{key.replace('_', ' ').ljust(width)}  {_shown(key, value)}")
    if count:
        click.echo(f"\n{hexdump(letter.payload[:count])}")
    if len(letter.payload) > count:
        click.echo(f"({len(letter.payload) - count} bytes more: see --bytes)")


@dead.command(epilog=EXIT_CODES)
@queue_argument
@ids_argument
@all_option
@server_options
def replay(server: Server, name: str, ids: Sequence[str], everything: bool) -> None:
    """Put dead letters back into QUEUE, with their deliveries forgotten.

    An executor's future has had its error already: its task runs, if its client still lives, and
    its outcome is dropped.
    """
    with _inventory(server) as inventory:
        queue = server.find(name)
        chosen = _choose(inventory, queue, ids, everything)
        # The oldest were the first.
        count = inventory.replay(queue, [letter.id for letter in reversed(chosen)])
    click.echo(f"put {count} dead letters back into {server.described(queue)}")


@dead.command(epilog=EXIT_CODES)
@queue_argument
@ids_argument
@all_option
@click.option("--yes", "-y", is_flag=True, help="Don't ask.")
@server_options
def purge(server: Server, name: str, ids: Sequence[str], everything: bool, yes: bool) -> None:
    """Drop dead letters of QUEUE for good."""
    with _inventory(server) as inventory:
        queue = server.find(name)
        chosen = _choose(inventory, queue, ids, everything)
        if not yes:
            question = f"Drop {len(chosen)} dead letters of {server.described(queue)} for good?"
            click.confirm(question, abort=True, err=True)
        count = inventory.discard(queue, [letter.id for letter in chosen])
    click.echo(f"dropped {count} dead letters of {server.described(queue)}")


COMMANDS: tuple[click.Command, ...] = (dead,)


@contextlib.contextmanager
def _inventory(server: Server) -> Iterator[Inventory]:
    with contextlib.closing(Inventory(server.address, server.prefix)) as inventory:
        yield inventory


def _one(inventory: Inventory, queue: QueueName, id: str) -> DeadLetter:
    return _named(list(inventory.letters(queue)), queue, id)[0]


def _choose(
    inventory: Inventory, queue: QueueName, ids: Sequence[str], everything: bool
) -> list[DeadLetter]:
    if bool(ids) == everything:
        raise click.UsageError("give the ids of dead letters, or --all")
    letters = list(inventory.letters(queue))
    if everything:
        return letters
    chosen = {letter.id: letter for id in ids for letter in _named(letters, queue, id)}
    return [letter for letter in letters if chosen.pop(letter.id, None) is not None]


def _named(letters: Sequence[DeadLetter], queue: QueueName, id: str) -> list[DeadLetter]:
    """Those with an id that begins so: one, or equal ones."""
    id = id.lower()
    found = [each for each in letters if len(id) >= SHORTEST and each.id.startswith(id)]
    if not found:
        raise click.UsageError(
            f"{safe(queue.name)} has no dead letter {id!r}: see `pressure dead list`"
        )
    if len({each.id for each in found}) > 1:
        raise click.UsageError(f"{len(found)} dead letters have ids that begin with {id!r}")
    return found


def _row(queue: QueueName, letter: DeadLetter, now_ms: float) -> tuple[object, ...]:
    error = safe(letter.error)
    return (
        queue.name,
        letter.id,
        letter.reason,
        duration(age_of(letter.buried_at, now_ms)),
        letter.deliveries,
        size(letter.size),
        error if len(error) <= ERROR_WIDTH else error[: ERROR_WIDTH - 3] + "...",
    )


def _facts(queue: QueueName, letter: DeadLetter, now_ms: float) -> dict[str, Any]:
    return {
        "queue": queue.name,
        "kind": "tasks" if queue.tagged else "items",
        "id": letter.id,
        "reason": letter.reason,
        "error": letter.error,
        "dead_for": age_of(letter.buried_at, now_ms),
        "age": age_of(letter.put_at, now_ms),
        "deliveries": letter.deliveries,
        "size": letter.size,
        "details": letter.details,
    }


def _shown(key: str, value: Any) -> str:
    if key in ("dead_for", "age"):
        return str(duration(value))
    if isinstance(value, dict):
        return safe(", ".join(f"{name}: {one}" for name, one in value.items()))
    if isinstance(value, list):
        return safe(", ".join(map(str, value)))
    return safe(value)
