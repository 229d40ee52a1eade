"""Faults of a server, inflicted on a `ServerProcess` of the test's own."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import redis

from tests.faults.kit.fault import PATIENCE, Fault
from tests.support.servers import ServerProcess
from tests.support.waiting import eventually

NOWHERE = ("127.0.0.1", "1")
"""Where no server is."""


class ServerFault(Fault):
    """A fault of `server`, inflicted by commands."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._client: redis.Redis | None = None

    def ask(self, *words: str) -> object:
        """Send one command as the operator would."""
        # One connection for all: no new one may be let in.
        if self._client is None:
            self._client = self._server.client()
        client: Any = self._client
        reply: object = client.execute_command(*words)
        return reply

    def set(self, setting: str, value: str) -> None:
        self.ask("CONFIG", "SET", setting, value)


# Its process


class ServerKilled(ServerFault):
    """SIGKILL; it comes back with its data (of an append-only file)."""

    def strike(self) -> None:
        self._server.kill()

    def heal(self) -> None:
        if not self._server.running:
            self._server.start()


class ServerFrozen(ServerFault):
    """SIGSTOP, until it is healed."""

    def strike(self) -> None:
        self._server.pause()

    def heal(self) -> None:
        self._server.resume()


class ServerForgets(ServerFault):
    """It restarts, and is empty."""

    def strike(self) -> None:
        self._server.restart(keep_data=False)


# Its connections


class ClientsKilled(ServerFault):
    """CLIENT KILL, all of them."""

    def strike(self) -> None:
        self.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


class ClientsPaused(ServerFault):
    """CLIENT PAUSE: nothing is carried out for so many seconds. (Nobody can end it sooner.)"""

    def __init__(self, server: ServerProcess, seconds: float = 0.3) -> None:
        super().__init__(server)
        self._seconds = seconds

    def strike(self) -> None:
        self.ask("CLIENT", "PAUSE", str(int(self._seconds * 1000)), "ALL")

    def heal(self) -> None:
        self.ask("PING")


class TooManyClients(ServerFault):
    """All connections end, and new ones are more than `maxclients`."""

    def strike(self) -> None:
        self.set("maxclients", "1")
        self.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def heal(self) -> None:
        self.set("maxclients", "1000")


# What it holds and may do


class ScriptsFlushed(ServerFault):
    """SCRIPT FLUSH: it knows no script any more."""

    def strike(self) -> None:
        self.ask("SCRIPT", "FLUSH")


class OutOfMemory(ServerFault):
    """`maxmemory` is reached: nothing can be stored."""

    def strike(self) -> None:
        self.set("maxmemory", "1")

    def heal(self) -> None:
        self.set("maxmemory", "0")


class DiskReadOnly(ServerFault):
    """MISCONF: a snapshot can't be written, whoever the user is, and so writing is refused."""

    def strike(self) -> None:
        # Where the snapshot has to go there is a folder.
        (self._server.directory / "dump.rdb").mkdir(exist_ok=True)
        self.set("save", "3600 1000000")
        self.set("stop-writes-on-bgsave-error", "yes")
        self._save()

    def heal(self) -> None:
        snapshot = self._server.directory / "dump.rdb"
        if snapshot.is_dir():
            snapshot.rmdir()
            self._save()
        self.set("save", "")

    def _save(self) -> None:
        with contextlib.suppress(redis.ResponseError):
            self.ask("BGSAVE")
        assert self._client is not None
        client = self._client

        def done() -> bool:
            return not client.info("persistence")["rdb_bgsave_in_progress"]

        assert eventually(done, PATIENCE), "the snapshot takes too long"


class TooFewReplicas(ServerFault):
    """NOREPLICAS: it may not write without a replica, and has none."""

    def strike(self) -> None:
        self.set("min-replicas-to-write", "1")

    def heal(self) -> None:
        self.set("min-replicas-to-write", "0")


class ReadOnlyReplica(ServerFault):
    """READONLY: it is a replica now, of a master that is not there."""

    def strike(self) -> None:
        self.ask("REPLICAOF", *NOWHERE)

    def heal(self) -> None:
        self.ask("REPLICAOF", "NO", "ONE")


class MasterDown(ServerFault):
    """MASTERDOWN: the same, and it may not even be read."""

    def strike(self) -> None:
        self.set("replica-serve-stale-data", "no")
        self.ask("REPLICAOF", *NOWHERE)

    def heal(self) -> None:
        self.ask("REPLICAOF", "NO", "ONE")
        self.set("replica-serve-stale-data", "yes")


class Busy(ServerFault):
    """BUSY: somebody's script does not end."""

    def __init__(self, server: ServerProcess) -> None:
        super().__init__(server)
        self._thread: threading.Thread | None = None

    def strike(self) -> None:
        self.set("busy-reply-threshold", "1")
        client = self._server.client()

        def occupy() -> None:
            with contextlib.suppress(redis.RedisError):
                client.eval("while true do end", 0)

        self._thread = threading.Thread(target=occupy, name="busy", daemon=True)
        self._thread.start()

        def busy() -> bool:
            try:
                self.ask("PING")
            except redis.ResponseError as exc:
                return str(exc).startswith("BUSY")
            return False

        assert eventually(busy, PATIENCE), "the script has ended"

    def heal(self) -> None:
        if self._thread is not None:
            with contextlib.suppress(redis.ResponseError):
                self.ask("SCRIPT", "KILL")
            self._thread.join(PATIENCE)
            assert not self._thread.is_alive(), "the script does not end"
            self._thread = None


class Loading(ServerFault):
    """LOADING: it was shut down with a snapshot, and takes long to read that. (Not for servers with
    an append-only file.)"""

    BALLAST = 300

    def strike(self) -> None:
        for number in range(self.BALLAST):
            self.ask("SET", f"ballast:{number}", "x")
        with contextlib.suppress(redis.ConnectionError):
            self.ask("SHUTDOWN", "SAVE")
        self._client = None
        assert eventually(lambda: not self._server.running, PATIENCE), "it does not end"
        config = self._server.directory / "server.conf"
        sound = config.read_text()
        # So many microseconds for each key, and a look at the clients now and then.
        config.write_text(
            f"{sound}key-load-delay 2000\nloading-process-events-interval-bytes 1024\n"
        )
        try:
            self._server.start(wait=False)
            assert eventually(self._answers, PATIENCE), "it does not answer"
        finally:
            config.write_text(sound)

    def heal(self) -> None:
        self._server.wait_ready(PATIENCE)

    def _answers(self) -> bool:
        try:
            self.ask("PING")
        except redis.BusyLoadingError:
            return True
        except redis.ConnectionError:
            return False
        raise AssertionError("it was read too quickly")
