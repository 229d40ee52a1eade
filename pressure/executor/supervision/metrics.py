"""What a daemon tells Prometheus: of its queues, its tasks, its processes.

Everything is looked up when it is asked for: the queues at the server, over a connection of its
own; what the workers count, in their notes. So it costs nothing between two scrapes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pressure.address import Address
from pressure.channel.inventory import Inventory, Queue, QueueName
from pressure.errors import PressureError
from pressure.executor.measures import BOUNDS, Books, Measured
from pressure.executor.supervision.member import Member
from pressure.executor.supervision.memory import rss

if TYPE_CHECKING:
    from prometheus_client.core import Metric

try:
    import prometheus_client
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )
    from prometheus_client.registry import Collector, CollectorRegistry
except ImportError:  # pragma: no cover - depends on what is installed
    prometheus_client = None  # type: ignore[assignment]
    Collector = object  # type: ignore[assignment,misc]

__all__ = ["Exporter", "MetricsError", "Source"]

log = logging.getLogger("pressure.worker")


class MetricsError(PressureError):
    """The metrics can't be served."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where the numbers come from: the server and the queues of a daemon, its processes, and the
    books of those that have ended."""

    address: Address
    prefix: str
    queues: Sequence[str]
    members: Callable[[], Sequence[Member]]
    books: Books


class Exporter:
    """Serves metrics over HTTP, in a thread of its own, until the process ends or `close`."""

    def __init__(self, source: Source, host: str, port: int) -> None:
        """Raises `MetricsError` if the library is missing, or the port is taken."""
        if prometheus_client is None:
            raise MetricsError(
                "--metrics-port needs the Prometheus client: pip install 'pressure[metrics]'"
            )
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Numbers(source))
        try:
            self._server, self._thread = prometheus_client.start_http_server(
                port, host, registry=registry
            )
        except OSError as exc:
            raise MetricsError(f"metrics can't be served at {host}:{port}: {exc}") from exc
        self.port: int = self._server.server_port
        self._owner = os.getpid()
        # Worker processes are forked later, and must not keep the port.
        os.register_at_fork(after_in_child=self._leave)
        log.info("metrics are served at http://%s:%d/metrics", host, self.port)

    def _leave(self) -> None:
        if os.getpid() != self._owner:
            self._server.socket.close()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Numbers(Collector):
    def __init__(self, source: Source) -> None:
        self._source = source
        self._inventory = Inventory(source.address, source.prefix)
        self._lock = threading.Lock()
        self._taken: dict[str, tuple[int, int]] = {}
        self._last = Measured()

    def describe(self) -> list[Metric]:
        """Nothing: registering must not ask the server."""
        return []

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            yield from self._of_queues()
            yield from self._of_tasks()
            yield from self._of_processes()

    def _of_queues(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("pressure_server_up", "Whether the server answers.")
        queues = []
        try:
            for name in self._source.queues:
                queue = self._inventory.queue(QueueName(name, True))
                if queue is not None and not queue.broken:
                    queues.append(queue)
        except PressureError as exc:
            log.debug("no metrics of queues: %s", exc)
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        for name, about, value in _GAUGES:
            gauge = GaugeMetricFamily(f"pressure_queue_{name}", about, labels=["queue"])
            for queue in queues:
                number = value(queue)
                if number is not None:
                    gauge.add_metric([queue.name.name], number)
            yield gauge
        put = CounterMetricFamily("pressure_queue_put", "Tasks put.", labels=["queue"])
        taken = CounterMetricFamily("pressure_queue_taken", "Tasks taken.", labels=["queue"])
        for queue in queues:
            produced, consumed = self._counted(queue)
            put.add_metric([queue.name.name], produced)
            taken.add_metric([queue.name.name], consumed)
        yield from (put, taken)

    def _counted(self, queue: Queue) -> tuple[int, int]:
        """Tasks put and taken. What is given back counts as not taken at the server; here it does,
        since a counter must not fall, unless the queue was made anew."""
        produced, consumed = queue.stats.produced_messages, queue.stats.consumed_messages
        before, most = self._taken.get(queue.name.name, (0, 0))
        if produced >= before:
            consumed = max(consumed, most)
        self._taken[queue.name.name] = produced, consumed
        return produced, consumed

    def _of_tasks(self) -> Iterator[Metric]:
        total = self._measured()
        tasks = CounterMetricFamily("pressure_tasks", "Tasks run here.", labels=["outcome"])
        tasks.add_metric(["result"], max(0, total.done - total.failed))
        tasks.add_metric(["error"], total.failed)
        yield tasks
        seconds = HistogramMetricFamily("pressure_task_seconds", "How long tasks run.")
        seconds.add_metric([], _cumulated(total.buckets), total.seconds)
        yield seconds
        for name, about, count in (
            ("task_redeliveries", "Tasks that had been delivered in vain.", total.redelivered),
            ("leases_lost", "How often a worker lost its lease.", total.leases_lost),
            ("worker_deaths", "Worker processes that died unexpectedly.", total.deaths),
        ):
            yield CounterMetricFamily(f"pressure_{name}", about, value=count)

    def _measured(self) -> Measured:
        total = Measured()
        total.add(self._source.books.past)
        for member in self._source.members():
            try:
                measured, snapshot = member.notes.measures.read(), member.notes.read()
            except ValueError:
                # It has just ended, and its notes are closed.
                continue
            measured.done, measured.failed = snapshot.done, snapshot.failed
            total.add(measured)
        total.at_least(self._last)
        self._last = total
        return total

    def _of_processes(self) -> Iterator[Metric]:
        states = {"idle": 0, "busy": 0}
        sizes = []
        for member in self._source.members():
            with contextlib.suppress(ValueError):
                states["idle" if member.notes.read().task is None else "busy"] += 1
                sizes.append(rss(member.pid) or 0)
        workers = GaugeMetricFamily("pressure_workers", "Worker processes.", labels=["state"])
        for state, count in states.items():
            workers.add_metric([state], count)
        yield workers
        memory = GaugeMetricFamily(
            "pressure_memory_bytes", "Resident memory of all such processes.", labels=["process"]
        )
        memory.add_metric(["supervisor"], rss(os.getpid()) or 0)
        memory.add_metric(["workers"], sum(sizes))
        yield memory
        about = "Resident memory of the largest worker process."
        yield GaugeMetricFamily("pressure_largest_worker_bytes", about, value=max(sizes, default=0))


_GAUGES: tuple[tuple[str, str, Callable[[Queue], Any]], ...] = (
    ("items", "Tasks that wait.", lambda queue: queue.stats.length),
    ("bound", "The most that may wait; 0: no limit.", lambda queue: queue.stats.bound),
    ("oldest_age_seconds", "Since when the oldest waits.", lambda queue: queue.oldest_age or 0.0),
    ("dead_letters", "Dead letters.", lambda queue: queue.stats.dead_letters),
    ("consumers", "Worker processes, of all daemons.", lambda queue: queue.stats.consumers),
    ("paused", "Whether it is paused.", lambda queue: int(queue.paused_for is not None)),
)


def _cumulated(buckets: Sequence[int]) -> list[tuple[str, float]]:
    total, found = 0, []
    for bound, count in zip((*BOUNDS, float("inf")), buckets, strict=True):
        total += count
        found.append(("+Inf" if bound == float("inf") else str(bound), float(total)))
    return found
