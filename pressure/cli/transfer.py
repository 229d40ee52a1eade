"""`pressure put` and `pressure get`: lines between a pipe and a queue.

The items are the lines without their newlines, as bytes, so that clients of protocol 0.15 can be at
the other end.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import click

from pressure.arguments import MAX_BOUND
from pressure.cli.connecting import Server, checked_name, prefix_option, url_option
from pressure.cli.program import EXIT_CODES
from pressure.errors import (
    QueueAlreadyExistsError,
    QueueClosedError,
    QueueDoesNotExistError,
    QueueEmptyError,
    QueueFullError,
)
from pressure.queue import PressureQueue
from pressure.seconds import Seconds

__all__ = ["COMMANDS"]

BOUND = 5
READ_BYTES = 64 * 1024
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _queue_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What both directions have in common: which queue, where, and whether to create it."""
    options: tuple[Decorator, ...] = (
        click.argument("name", callback=checked_name),
        url_option,
        prefix_option,
        click.option(
            "--bound",
            type=click.IntRange(0, MAX_BOUND),
            default=BOUND,
            show_default=True,
            help="The bound to create the queue with if there is none; 0: no limit.",
        ),
        click.option("--no-create", is_flag=True, help="Fail if the queue does not exist."),
        click.option(
            "--timeout",
            type=Seconds(min=0),
            metavar="SECONDS",
            help="Give up when nothing moves for so long. Default: wait for ever.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.command(epilog=EXIT_CODES)
@_queue_options
@click.option("--keep-open", is_flag=True, help="Don't close the queue at the end of the input.")
def put(
    name: str,
    url: str | None,
    prefix: str,
    bound: int,
    no_create: bool,
    timeout: float | None,
    keep_open: bool,
) -> None:
    """Put each line of stdin into the queue NAME, and close the queue at the end of the input.

    Each line is put as soon as it is read. If the queue is full, put waits, and reads no further.
    The queue stays open after an error. If an executor's task queue has the same name, NAME is
    plain:NAME.
    """
    with _open(name, url, prefix, None if no_create else bound) as queue:
        for lines in _read_lines(sys.stdin.buffer):
            _put_all(queue, lines, timeout)
        if not keep_open:
            queue.shutdown()  # does no harm if another producer was faster


@click.command(epilog=EXIT_CODES)
@_queue_options
@click.option("--count", type=click.IntRange(min=0), metavar="N", help="Get N lines and stop.")
@click.option("--delete", is_flag=True, help="Delete the queue once it is closed and drained.")
def get(
    name: str,
    url: str | None,
    prefix: str,
    bound: int,
    no_create: bool,
    timeout: float | None,
    count: int | None,
    delete: bool,
) -> None:
    """Write each item of the queue NAME to stdout as a line, until the queue is closed and drained.

    What was written into a pipe whose reader has ended is gone, and so is the one line that could
    not be written because, say, the disk is full; the lines after it stay in the queue. To get no
    more lines than are wanted, use --count. NAME is as for `put`.
    """
    with _open(name, url, prefix, None if no_create else bound) as queue:
        drained = _write_all(queue, sys.stdout.buffer, timeout, count)
        if drained and delete:
            # Another consumer may have been faster.
            with contextlib.suppress(QueueDoesNotExistError):
                queue.delete()


COMMANDS: tuple[click.Command, ...] = (put, get)


def _open(name: str, url: str | None, prefix: str, bound: int | None) -> PressureQueue[bytes]:
    name = Server(url, prefix).find_plain(name)
    queue: PressureQueue[bytes] = PressureQueue(name, url=url, prefix=prefix, codec="raw")
    if bound is not None:
        with contextlib.suppress(QueueAlreadyExistsError):
            queue.create(bound)
    elif not queue.exists:
        raise QueueDoesNotExistError(name, "it does not exist, and --no-create was given")
    return queue


def _read_lines(stream: BinaryIO) -> Iterator[list[bytes]]:
    """The lines of a stream without their newlines, as many at a time as there are to read."""
    begun: list[bytes] = []
    while chunk := stream.read1(READ_BYTES):  # type: ignore[attr-defined]
        *lines, rest = chunk.split(b"\n")
        if lines:
            lines[0] = b"".join((*begun, lines[0]))
            begun = [rest] if rest else []
            yield lines
        else:
            begun.append(rest)
    if begun:
        yield [b"".join(begun)]


def _put_all(queue: PressureQueue[bytes], lines: list[bytes], timeout: float | None) -> None:
    while True:
        try:
            queue.put_many(lines, timeout)
            return
        except QueueFullError as exc:
            if not exc.accepted:
                raise
            lines = lines[exc.accepted :]


def _write_all(
    queue: PressureQueue[bytes], stream: BinaryIO, timeout: float | None, count: int | None
) -> bool:
    """Returns whether the queue is closed and drained."""
    if count == 0:
        return False
    for written, item in enumerate(_items(queue, timeout), 1):
        stream.write(item + b"\n")
        stream.flush()
        if written == count:
            return False
    return True


def _items(queue: PressureQueue[bytes], timeout: float | None) -> Iterator[bytes]:
    if timeout is None:
        yield from queue
        return
    try:
        while True:
            yield queue.get(timeout=timeout)
    except QueueClosedError:
        return
    except QueueEmptyError as exc:
        if queue.paused:
            raise QueueEmptyError(queue.name, "it is paused") from exc
        raise
