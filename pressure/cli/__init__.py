"""The program `pressure`. Each group of commands has a module of its own; `COMMANDS` lists them."""

from __future__ import annotations

import click

from pressure._version import __version__
from pressure.cli.dead import COMMANDS as DEAD
from pressure.cli.doctor import COMMANDS as DOCTOR
from pressure.cli.info import COMMANDS as INFO
from pressure.cli.program import Program, exit_on_sigterm
from pressure.cli.queues import COMMANDS as QUEUES
from pressure.cli.serve import COMMANDS as SERVE
from pressure.cli.transfer import COMMANDS as TRANSFER
from pressure.cli.workers import COMMANDS as WORKERS

__all__ = ["main"]

COMMANDS = (*INFO, *QUEUES, *DEAD, *WORKERS, *SERVE, *DOCTOR, *TRANSFER)


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def program() -> None:
    """Bounded, blocking queues on Redis or Valkey, for programs and shells."""


for command in COMMANDS:
    program.add_command(command)


def main() -> None:
    """Run the program with the arguments of this process, and end the process."""
    exit_on_sigterm()
    program(prog_name="pressure")
