"""A proxy that delays what passes by, as a network does: the bytes keep order and rate."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from urllib.parse import urlsplit, urlunsplit

__all__ = ["DelayingProxy"]


class DelayingProxy:
    """Stands in front of the server at `url` while the block runs; half of `round_trip` (seconds)
    is added in each direction. Yields the url to use."""

    def __init__(self, url: str, round_trip: float) -> None:
        parts = urlsplit(url)
        self._parts = parts
        self._target = parts.hostname or "127.0.0.1", parts.port or 6379
        self._delay = round_trip / 2
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        port = server.sockets[0].getsockname()[1]
        credentials = self._parts.netloc.rpartition("@")[0]
        netloc = f"{credentials}@127.0.0.1:{port}" if credentials else f"127.0.0.1:{port}"
        return urlunsplit(self._parts._replace(netloc=netloc))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*self._target)
        await asyncio.gather(self._pump(reader, back), self._pump(there, writer))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Pass bytes on, each `delay` after it came."""
        loop = asyncio.get_running_loop()
        due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                when, data = await due.get()
                await asyncio.sleep(max(0.0, when - loop.time()))
                if not data:
                    sink.close()
                    return
                sink.write(data)

        delivery = loop.create_task(deliver())
        try:
            while data := await source.read(1 << 16):
                due.put_nowait((loop.time() + self._delay, data))
        except ConnectionError:
            pass
        due.put_nowait((loop.time(), b""))
        await delivery
