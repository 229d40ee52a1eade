"""What a user does first, with nothing but the installed package and an ordinary server.

    python tools/smoke.py URL [--worker PYTHON]

Prints "ok" at the end. PYTHON runs the worker, and may be another version than this one: what needs
the same version on both sides must then be refused with a sentence that says so.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import platform
import subprocess
import sys
import uuid
from typing import Any

import pressure
import pressure.aio
import pressure.multiprocessing as mp
from pressure import PressureQueue, RedisExecutor, Settings
from pressure.executor import TaskPayloadError

WAIT = 60.0
KEY = uuid.uuid4().hex
VERSION = "{}.{}".format(*sys.version_info[:2])


def use_queues(url: str, name: str) -> None:
    with PressureQueue[Any](name, url=url) as q:
        q.create(10)
        q.put("text")
        q.put(bytes(100_000))
        q.put(lambda: 42)
        assert q.get() == "text"
        with q.lease() as item:
            assert len(item) == 100_000
        assert q.get()() == 42
        q.delete()
    shared: Any = mp.Queue(url=url)
    shared.put("shared")
    assert shared.get(timeout=WAIT) == "shared"
    shared.close()
    shared.join_thread()
    shared.delete()

    async def main() -> None:
        async with pressure.aio.PressureQueue[Any](name, url=url) as q:
            await q.create()
            await q.put("awaited")
            assert await q.get(timeout=WAIT) == "awaited"
            await q.delete()

    asyncio.run(main())


def use_programs(url: str, name: str) -> None:
    pressure_command = [sys.executable, "-m", "pressure"]
    environment = {**os.environ, "PRESSURE_URL": url}
    subprocess.run(
        [*pressure_command, "put", name, "--bound", "0"],
        input=b"one\ntwo\n",
        env=environment,
        timeout=WAIT,
        check=True,
    )
    got = subprocess.run(
        [*pressure_command, "get", name, "--delete"],
        stdout=subprocess.PIPE,
        env=environment,
        timeout=WAIT,
        check=True,
    )
    assert got.stdout == b"one\ntwo\n", got.stdout


def use_executor(url: str, name: str, python: str) -> None:
    code = "from pressure.executor.cli import main; main()"
    worker = subprocess.Popen(
        [python, "-c", code, "--queue", name, "--processes", "1"],
        env={**os.environ, "PRESSURE_URL": url, "PRESSURE_KEY": KEY},
    )
    try:
        with RedisExecutor(url=url, queue=name, key=KEY) as executor:
            assert list(executor.map(math.factorial, range(5))) == [1, 1, 2, 6, 24]
            version = ".".join(executor.submit(platform.python_version_tuple).result(WAIT)[:2])
            lambdas = executor.submit(lambda: 42)
            if version == VERSION:
                assert lambdas.result(WAIT) == 42
            else:
                refused = lambdas.exception(WAIT)
                assert isinstance(refused, TaskPayloadError), refused
                assert VERSION in str(refused) and version in str(refused), refused
                print(refused)
            wrong = executor.submit(math.sqrt, -1)
            assert isinstance(wrong.exception(WAIT), ValueError)
    finally:
        worker.terminate()
        assert worker.wait(WAIT) == 0
        # It has outlived its clients, as it should.
        with PressureQueue[Any](name, url=url, settings=Settings(hash_tag=name)) as q:
            q.delete()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--worker", default=sys.executable, metavar="PYTHON")
    arguments = parser.parse_args()
    name = f"smoke-{uuid.uuid4().hex[:8]}"
    print(f"pressure {pressure.__version__} from {pressure.__file__}, Python {VERSION}")
    use_queues(arguments.url, name)
    use_programs(arguments.url, name)
    use_executor(arguments.url, name, arguments.worker)
    print("ok")


if __name__ == "__main__":
    main()
