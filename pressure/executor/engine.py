"""What does an executor's work, and ends after it."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

from pressure.address import Address
from pressure.channel import Channel
from pressure.core import Settings
from pressure.executor.crew import Crew
from pressure.executor.dispatcher import Dispatcher
from pressure.executor.errors import InitializerError
from pressure.executor.post import Post

__all__ = ["Engine", "exiting"]

log = logging.getLogger("pressure.executor")

WINDOW = 2000
BOUND = 10_000
GRACE = 5.0


class Engine:
    """What does an executor's work: the dispatcher, and the local workers if there are any.

    Nothing here refers to the executor, so that one may be collected while its work goes on.
    """

    def __init__(
        self,
        address: Address,
        queue: str,
        prefix: str,
        settings: Settings,
        *,
        local_workers: int | None,
        mp_context: Any,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        max_tasks_per_child: int | None,
    ) -> None:
        self._channel = Channel(queue, address, tag=queue, prefix=prefix, settings=settings)
        self.dispatcher = Dispatcher(self._channel, bound=BOUND, window=WINDOW)
        self._crew: Crew | None = None
        self._crew_thread: threading.Thread | None = None
        self._start_lock = threading.Lock()
        self._started = False
        self._ended = threading.Event()
        if local_workers is not None:
            self._crew_channel = Channel(
                queue, address, tag=queue, prefix=prefix, settings=settings
            )

            def post(notes: str, stderr: int | None) -> Post:
                return Post(
                    address=address,
                    queue=queue,
                    prefix=prefix,
                    settings=settings,
                    notes=notes,
                    max_tasks=max_tasks_per_child,
                    stderr=stderr,
                    initializer=initializer,
                    initargs=initargs,
                )

            context = mp_context
            if context is None:
                method = "spawn" if max_tasks_per_child is not None else None
                context = multiprocessing.get_context(method)
            self._crew = Crew(
                local_workers, self._crew_channel, post, context=context, broken=self._break
            )

    @property
    def processes(self) -> dict[int, Any]:
        return self._crew.processes if self._crew is not None else {}

    def start(self) -> None:
        """Start all that is needed, once."""
        if not self._started:
            with self._start_lock:
                self._start_once()

    def _start_once(self) -> None:
        if not self._started:
            if self._crew is not None:
                # Processes first, while this one has few threads: they may be forked.
                self._channel.ensure(BOUND)
                self._crew.start()
            self.dispatcher.start()
            self._started = True
            _engines.add(self)
            if self._crew is not None:
                self._crew_thread = threading.Thread(
                    target=self._watch, args=(self._crew,), name="pressure crew", daemon=True
                )
                self._crew_thread.start()
            else:
                threading.Thread(target=self._wait_and_close, daemon=True).start()

    def _watch(self, crew: Crew) -> None:
        """Supervise until the work is done, then stop the workers and clean up."""
        try:
            while not self.dispatcher.wait(0):
                crew.step()
            crew.stop(None if self.dispatcher.failure is None else GRACE)
            self._delete_queue()
        except BaseException:
            log.exception("the supervisor of local workers failed")
            crew.kill()
        finally:
            self._close()

    def _wait_and_close(self) -> None:
        self.dispatcher.wait()
        self._close()

    def _delete_queue(self) -> None:
        try:
            self._crew_channel.delete()
        except Exception as exc:
            log.debug("the queue could not be deleted: %s", exc)
        self._crew_channel.disconnect()

    def _close(self) -> None:
        try:
            self.dispatcher.close()
        finally:
            _engines.discard(self)
            self._ended.set()

    def _break(self, why: str) -> None:
        self.dispatcher.fail(InitializerError(why))

    def finish(self) -> None:
        """No more tasks will come."""
        self.dispatcher.on_idle = self._wake_crew
        self.dispatcher.finish()
        self._wake_crew()

    def interrupt(self) -> None:
        """Cancel what has not begun, and give what runs a bounded time."""
        self.dispatcher.cancel_all()
        self.finish()
        if not self._ended.wait(GRACE):
            self.dispatcher.fail(CancelledError("interrupted"))

    def _wake_crew(self) -> None:
        if self._crew is not None:
            self._crew.wake()

    def wait(self) -> None:
        """Wait until all is done and nothing is left behind."""
        if self._started:
            self._ended.wait()


_engines: set[Engine] = set()
_exiting = False


def exiting() -> bool:
    """Whether the interpreter is on its way out."""
    return _exiting


def _at_exit() -> None:
    """Interpreter exit waits for the work, as the standard library's executors do."""
    global _exiting
    _exiting = True
    for engine in list(_engines):
        engine.finish()
    for engine in list(_engines):
        engine.wait()


def _after_fork() -> None:
    # The parent's engines are the parent's to end.
    _engines.clear()


# As concurrent.futures does: before non-daemon threads are joined, while threads can still start.
threading._register_atexit(_at_exit)  # type: ignore[attr-defined]
os.register_at_fork(after_in_child=_after_fork)
