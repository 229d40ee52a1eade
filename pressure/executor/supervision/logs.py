"""The daemon's log: lines for people, or one JSON object a line."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime

__all__ = ["FORMATS", "Sink", "configure_logging", "to_stderr"]

FORMATS = ("text", "json")

Sink = Callable[[int, bytes], None]
"""Is given what the worker process of that pid wrote to stderr, in whatever pieces it comes, and
nothing when it has closed that."""

_TEXT = "%(asctime)s %(process)d %(levelname)s %(message)s"
_OWN = b'{"time": '
_STDERR = "pressure.worker.stderr"


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with time (UTC), level, logger, pid, message, and exception."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC)
        said = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said)


def configure_logging(log_format: str) -> Sink:
    """Log to stderr in one of `FORMATS`, and return where the workers' stderr is to go."""
    handler = logging.StreamHandler(sys.stderr)
    json_lines = log_format == "json"
    handler.setFormatter(JsonFormatter() if json_lines else logging.Formatter(_TEXT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    return _JsonSink() if json_lines else to_stderr


def to_stderr(pid: int, data: bytes) -> None:
    """Pass it on as it comes."""
    with contextlib.suppress(OSError):
        os.write(2, data)


class _JsonSink:
    """Makes records of the lines that are none, such as what a task prints, or a traceback."""

    def __init__(self) -> None:
        self._partial: dict[int, bytes] = {}

    def __call__(self, pid: int, data: bytes) -> None:
        begun = self._partial.pop(pid, b"")
        *lines, partial = (begun + data).split(b"\n")
        if partial and data:
            self._partial[pid] = partial
        elif partial:
            lines.append(partial)
        foreign: list[bytes] = []
        for line in lines:
            if line.startswith(_OWN):
                self._report(pid, foreign)
                to_stderr(pid, line + b"\n")
            else:
                foreign.append(line)
        self._report(pid, foreign)

    def _report(self, pid: int, lines: list[bytes]) -> None:
        text = b"\n".join(lines).decode(errors="replace").strip("\n")
        lines.clear()
        if text:
            said = {"name": _STDERR, "levelno": logging.INFO, "levelname": "INFO"}
            record = logging.makeLogRecord(said | {"msg": text, "process": pid})
            logging.getLogger(_STDERR).handle(record)
