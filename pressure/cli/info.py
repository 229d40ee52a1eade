"""`pressure info`: what goes on at a server, once or again and again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import click

from pressure.channel.inventory import Client, Inventory, Queue, QueueName
from pressure.channel.registry import WorkerRecord
from pressure.cli.connecting import Server, server_options
from pressure.cli.program import EXIT_CODES
from pressure.cli.tables import duration, echo_json, rate, safe, size, table
from pressure.cli.workers import WORKER_HEADERS, worker_rows
from pressure.errors import ServerUnavailableError
from pressure.seconds import Seconds

__all__ = ["COMMANDS", "QUEUE_HEADERS", "queue_json", "queue_row"]

SAMPLE = 0.5
"""How far apart (seconds) the two looks are that one report's rates are from."""
CLEAR = "\x1b[H\x1b[2J\x1b[3J"
QUEUE_HEADERS = (
    *("QUEUE", "KIND", "STATE", "ITEMS", "BOUND", "OLDEST", "IN/S", "OUT/S"),
    *("CONSUMERS", "WORKERS", "CLIENTS", "DEAD"),
)
CLIENT_HEADERS = ("CLIENT", "QUEUE", "NAME", "UNREAD")
Looks = Mapping[QueueName, Queue]


@click.command(epilog=EXIT_CODES)
@click.option("--json", "as_json", is_flag=True, help="For programs; with --watch a line a look.")
@click.option(
    "--watch",
    type=Seconds(min=0.1),
    is_flag=False,
    flag_value=2.0,
    metavar="[SECONDS]",
    help="Look again every SECONDS (default 2), until Ctrl-C.",
)
@server_options
def info(server: Server, as_json: bool, watch: float | None) -> None:
    """Show the server's queues, the workers, the clients, and what has failed.

    Queues are found by walking over all keys of the database, which disturbs nobody and takes about
    a second for a million keys. Rates are over half a second, or since the last look of --watch.
    Raw items have no age.
    """
    inventory = Inventory(server.address, server.prefix)
    try:
        before = _look(inventory)[0]
        time.sleep(SAMPLE)
        while True:
            try:
                looks, clients = _look(inventory)
                report = Report(inventory, looks, clients, before)
            except ServerUnavailableError as exc:
                if watch is None:
                    raise
                click.echo(f"pressure: {safe(exc)}", err=True)
                time.sleep(watch)
                continue
            if as_json:
                echo_json(report.as_json(), indent=2 if watch is None else None)
            else:
                click.echo((CLEAR if watch is not None else "") + report.as_text())
            if watch is None:
                return
            before = looks
            time.sleep(watch)
    finally:
        inventory.close()


COMMANDS: tuple[click.Command, ...] = (info,)


def _look(inventory: Inventory) -> tuple[dict[QueueName, Queue], list[Client]]:
    names, clients = inventory.names()
    looks = {name: queue for name in names if (queue := inventory.queue(name)) is not None}
    found = [inventory.client(queue, id) for queue, id in clients]
    # A daemon hears its orders as a client would hear answers.
    daemons = {worker.daemon for queue in looks.values() for worker in queue.workers}
    living = [client for client in found if client is not None and client.id not in daemons]
    return looks, living


class Report:
    """One look at everything, and the one before it."""

    def __init__(
        self, inventory: Inventory, looks: Looks, clients: list[Client], before: Looks
    ) -> None:
        self._inventory = inventory
        self._server = inventory.server()
        self._looks = looks
        self._clients = clients
        self._before = before

    def as_json(self) -> dict[str, Any]:
        said = self._server
        return {
            "server": {
                "address": str(self._inventory.address),
                "software": _software(said),
                "memory_bytes": _number(said, "used_memory"),
                "max_memory_bytes": _number(said, "maxmemory"),
                "connections": _number(said, "connected_clients"),
            },
            "prefix": self._inventory.prefix,
            "queues": [
                queue_json(queue, self._before.get(name)) | {"clients": self._clients_of(name)}
                for name, queue in self._looks.items()
            ],
            "workers": [worker.as_dict() for worker in self._workers()],
            "clients": [
                asdict(client) | {"queue": client.queue.name, "expires_in": client.expires_in}
                for client in self._clients
            ],
        }

    def as_text(self) -> str:
        parts = [self._headline()]
        if not self._looks:
            parts.append(
                f"There is no queue with the prefix {safe(self._inventory.prefix)!s} here yet. "
                "Programs make them, and so does `pressure put NAME`."
            )
        else:
            rows = [
                queue_row(queue, self._before.get(name), self._clients_of(name))
                for name, queue in self._looks.items()
            ]
            parts.append(table(QUEUE_HEADERS, rows))
        workers = self._workers()
        if workers:
            parts.append(table(WORKER_HEADERS, worker_rows(workers)))
        elif any(queue.kind == "tasks" for queue in self._looks.values()):
            parts.append(
                "No pressure-worker serves these queues. (The local workers of an executor are "
                "not listed.)"
            )
        if self._clients:
            rows = [
                (client.id[:8], client.queue.name, client.name, client.unread)
                for client in self._clients
            ]
            parts.append(table(CLIENT_HEADERS, rows))
        broken = sum(queue.broken for queue in self._looks.values())
        if broken:
            parts.append(f"{broken} broken: `pressure doctor` names the keys.")
        dead = sum(queue.stats.dead_letters for queue in self._looks.values())
        if dead:
            parts.append(f"{dead} dead letters: see `pressure dead list`.")
        return "\n\n".join(parts)

    def _headline(self) -> str:
        said = self._server
        parts = [f"{_software(said) or 'a server'} at {self._inventory.address}"]
        used, most = _number(said, "used_memory"), _number(said, "maxmemory")
        if used is not None:
            parts.append(f"{size(used)} of memory" + (f" of {size(most)}" if most else ""))
        if "connected_clients" in said:
            parts.append(f"{said['connected_clients']} connections")
        return safe(", ".join(parts))

    def _workers(self) -> list[WorkerRecord]:
        """Each once, though it is in the registries of all its queues."""
        found = {w.id: w for queue in self._looks.values() for w in queue.workers}
        return sorted(found.values(), key=lambda w: (w.name, w.host, w.pid))

    def _clients_of(self, name: QueueName) -> int:
        return sum(client.queue == name for client in self._clients)


def queue_json(queue: Queue, before: Queue | None) -> dict[str, Any]:
    """A queue for programs; rates are None without an earlier look, and all that is not known of
    one that is broken."""
    stats = queue.stats
    known = {
        "name": queue.name.name,
        "kind": queue.kind,
        "state": queue.state,
    }
    facts = {
        "items": stats.length,
        "fetched_ahead": stats.fetched_ahead,
        "bound": stats.bound,
        "oldest_age": queue.oldest_age,
        "paused_for": queue.paused_for,
        "put_total": stats.produced_messages,
        "taken_total": stats.consumed_messages,
        "put_bytes_total": stats.produced_bytes,
        "taken_bytes_total": stats.consumed_bytes,
        "put_rate": _rates(queue, before)[0],
        "taken_rate": _rates(queue, before)[1],
        "consumers": stats.consumers,
        "workers": len(queue.workers),
        "dead_letters": stats.dead_letters,
        "orphans": stats.orphans,
        "last_producer": stats.last_producer,
        "last_consumer": stats.last_consumer,
    }
    return known | (dict.fromkeys(facts) if queue.broken else facts)


def queue_row(queue: Queue, before: Queue | None, clients: int | None) -> tuple[object, ...]:
    """A queue for people, under `QUEUE_HEADERS`."""
    stats = queue.stats
    put, taken = _rates(queue, before)
    state = queue.state
    if queue.broken:
        return (queue.name.name, queue.kind, state, *(None,) * (len(QUEUE_HEADERS) - 3))
    if queue.paused_for is not None:
        state += f" for {duration(queue.paused_for)}"
    return (
        queue.name.name,
        queue.kind,
        state,
        stats.length,
        stats.bound or "none",
        duration(queue.oldest_age),
        rate(put),
        rate(taken),
        stats.consumers,
        len(queue.workers),
        clients,
        stats.dead_letters,
    )


def _rates(queue: Queue, before: Queue | None) -> tuple[float | None, float | None]:
    """Items put and taken per second. What was given back counts as not taken."""
    seconds = queue.at - before.at if before is not None else 0.0
    if before is None or seconds <= 0:
        return None, None
    now, then = queue.stats, before.stats
    put = (now.produced_messages - then.produced_messages) / seconds
    taken = (now.consumed_messages - then.consumed_messages) / seconds
    return max(0.0, put), max(0.0, taken)


def _software(said: Mapping[str, str]) -> str:
    if "valkey_version" in said:
        return f"Valkey {said['valkey_version']}"
    return f"Redis {said['redis_version']}" if "redis_version" in said else ""


def _number(said: Mapping[str, str], name: str) -> int | None:
    text = said.get(name, "")
    return int(text) if text.isdigit() else None
