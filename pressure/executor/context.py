"""What the code of a task can know of the worker process that runs it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from pressure.channel import Delivery, Verdict
from pressure.executor.interrupts import Guard
from pressure.executor.notes import Notes
from pressure.executor.post import Post

__all__ = ["Here", "before_outcomes", "enter", "here", "leave", "outstanding"]

before_outcomes: list[Callable[[], None]] = []
"""Called in a worker before the outcomes of tasks are sent, in any thread: to bring to its end what
tasks have left to the background. Who has an outcome may have the worker killed. They must neither
raise nor take long."""


@dataclass(slots=True)
class Here:
    """`run` runs a task in the thread that calls it; `queue` names the queue that the running task
    came from; `outstanding` tell whether there are tasks of tasks that have not ended; `at_exit`
    is called when the worker ends."""

    post: Post
    notes: Notes
    guard: Guard
    run: Callable[[Delivery], Verdict]
    queue: Callable[[], str]
    outstanding: list[Callable[[], object]] = field(default_factory=list)
    at_exit: list[Callable[[], None]] = field(default_factory=list)
    process: int = field(default_factory=os.getpid)


_here: list[Here] = []


def enter(place: Here) -> None:
    """This process runs tasks from now on."""
    _here[:] = [place]


def here() -> Here | None:
    """None in a process that runs no tasks; so in the child that a task forks."""
    if _here and _here[0].process == os.getpid():
        return _here[0]
    return None


def outstanding() -> bool:
    """Whether tasks that this process's tasks have submitted have not ended."""
    place = here()
    return place is not None and any(one() for one in place.outstanding)


def leave() -> None:
    """The worker ends: what tasks have left behind is cleaned up."""
    place = here()
    _here.clear()
    if place is not None:
        for clean_up in place.at_exit:
            clean_up()
