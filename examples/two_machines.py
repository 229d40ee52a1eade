"""One program, two machines that work for it.

    python examples/two_machines.py

Here both machines are daemons on this one: `pressure-worker URL` started twice, under the names
"left" and "right", on a server of our own. With a Redis or Valkey that several hosts reach, the
same command on each of them, and the same program, make it two real ones.

The program counts the words of the standard library's modules and tells who counted what.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import as_completed
from contextlib import contextmanager
from pathlib import Path

import pressure

START_LIMIT = 40.0  # seconds for both daemons to start and to take their first task
STOP_LIMIT = 15.0


def count_words(text: str) -> tuple[str, int, Counter[str]]:
    """The words of `text`, and the machine and process that counted them."""
    machine = os.environ.get("MACHINE") or socket.gethostname()
    return machine, os.getpid(), Counter(re.findall(r"[A-Za-z]{4,}", text))


@contextmanager
def worker_daemon(url: str, machine: str) -> Iterator[subprocess.Popen[bytes]]:
    """A `pressure-worker` with two processes; on leaving it gets SIGTERM and ends in order."""
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    program = shutil.which("pressure-worker", path=search)
    if program is None:
        raise SystemExit("pressure-worker is not installed")
    command = [program, url, "--queue", "words", "--processes", "2"]
    daemon = subprocess.Popen(command, env={**os.environ, "MACHINE": machine})
    try:
        yield daemon
    finally:
        daemon.terminate()
        try:
            print(f"{machine} ended with code {daemon.wait(STOP_LIMIT)}")
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
            raise


def main() -> None:
    texts = [path.read_text("utf-8") for path in Path(sysconfig.get_path("stdlib")).glob("*.py")]
    files: Counter[tuple[str, int]] = Counter()
    with (
        pressure.local_server() as url,
        worker_daemon(url, "left"),
        worker_daemon(url, "right"),
        pressure.RedisExecutor(url=url, queue="words") as executor,
    ):
        deadline = time.monotonic() + START_LIMIT
        # One daemon may be done before the other has started: go on until both took part.
        while len({machine for machine, _ in files}) < 2:
            if time.monotonic() > deadline:
                raise SystemExit(f"only these took part: {dict(files)}")
            words: Counter[str] = Counter()
            futures = [executor.submit(count_words, text) for text in texts]
            for future in as_completed(futures, timeout=START_LIMIT):
                machine, pid, counted = future.result()
                files[machine, pid] += 1
                words += counted
    for (machine, pid), count in sorted(files.items()):
        print(f"{machine:6} process {pid}: {count:,} files")
    print("most used:", ", ".join(f"{word} {n:,}" for word, n in words.most_common(5)))


if __name__ == "__main__":
    main()
