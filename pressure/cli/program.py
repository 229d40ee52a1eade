"""How every command ends: with an exit code, and one sentence on stderr instead of a traceback."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

import click
from click.exceptions import Exit

from pressure.cli.tables import safe
from pressure.errors import (
    PressureError,
    QueueClosedError,
    QueueDoesNotExistError,
    QueueEmptyError,
    QueueFullError,
    QueueInUseError,
    ServerRefusedError,
)

__all__ = ["ERROR", "EXIT_CODES", "TIMED_OUT", "Group", "Program", "Terminated", "exit_on_sigterm"]

ERROR = 1
TIMED_OUT = 3
NO_QUEUE = 4
CLOSED = 5
INTERRUPTED, BROKEN_PIPE, TERMINATED = 130, 141, 143
"""As a shell sees it when the signal itself ends a program."""

EXIT_CODES = """\b
Exit codes:
    0  done
    1  an error: no server there, an item too large, ...
    2  wrong usage
    3  the time-out ran out
    4  the queue does not exist, or was deleted meanwhile
    5  the queue is closed, so nothing can be put
  130  Ctrl-C; 141: nobody reads the output any more; 143: SIGTERM"""
"""The last paragraph of a command's help."""
ADMISSION = (
    "give a user name and a password in the URL (--url, PRESSURE_URL) that the server accepts, and "
    "that user the commands that it needs (docs/acl.md)"
)


class Terminated(BaseException):
    """SIGTERM came."""


class Group(click.Group):
    """Commands of which one must be named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and self.no_args_is_help and not ctx.resilient_parsing:
            # click before 8.2 prints this on stdout, and takes it for a success.
            click.echo(ctx.get_help(), err=True, color=ctx.color)
            ctx.exit(2)
        return super().parse_args(ctx, args)


class Program(Group):
    """A group of commands that maps what they raise to exit codes."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PressureError as exc:
            _say(exc)
            code = _code(exc)
        except BrokenPipeError:
            code = BROKEN_PIPE
        except (OSError, ValueError) as exc:
            _say(exc)
            code = ERROR
        except KeyboardInterrupt:
            code = INTERRUPTED
        except Terminated:
            code = TERMINATED
        _flush_stdout()
        raise Exit(code)


def _flush_stdout() -> None:
    """Python does so at its end: what can't be written makes it complain, and choose another exit
    code."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def exit_on_sigterm() -> None:
    """Let SIGTERM unwind the program, so that what is held goes back at once and not when a lease
    runs out."""
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


def _say(exc: Exception) -> None:
    text = str(exc)
    if isinstance(exc, ServerRefusedError) and " refused: " in text:
        text = f"{text.rstrip('.')}: {ADMISSION}"
    print(f"pressure: {safe(text)}", file=sys.stderr)


def _code(exc: PressureError) -> int:
    if isinstance(exc, QueueFullError | QueueEmptyError | QueueInUseError):
        return TIMED_OUT
    if isinstance(exc, QueueDoesNotExistError):
        return NO_QUEUE
    if isinstance(exc, QueueClosedError):
        return CLOSED
    return ERROR
