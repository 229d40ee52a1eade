"""Seconds that somebody gives on a command line."""

from __future__ import annotations

import threading
from typing import Any

import click

__all__ = ["Seconds"]


class Seconds(click.FloatRange):
    """A number of seconds that can be waited for: neither infinite nor NaN."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        seconds = float(super().convert(value, param, ctx))
        # A NaN is never less than anything.
        if not seconds <= threading.TIMEOUT_MAX:
            self.fail(f"{value!r} is no number of seconds that anybody can wait for.", param, ctx)
        return seconds
