"""The stage of a soak: the server, the networks in front of it, and the actors, who are replaced
when they die."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pressure
import pressure.multiprocessing as mp
from pressure import Settings
from tests.soak.actors import PATIENCE, Scene, act, stop_file
from tests.soak.books import Book, FaultRecord
from tests.support.processes import Child, spawn
from tests.support.proxy import FaultyProxy
from tests.support.servers import Kind, ServerProcess

__all__ = ["CAST", "Player", "Stage"]

CAST = (
    *("producer", "producer", "batch-producer"),
    *("consumer", "batch-consumer", "iterator", "leaser", "leaser", "asyncio"),
    *("mp-producer", "mp-consumer", "mp-consumer"),
    *("worker", "worker", "executor", "executor", "local-executor"),
)
PUTTING = ("producer", "batch-producer", "mp-producer", "executor", "local-executor")
TAKING = ("consumer", "batch-consumer", "iterator", "leaser", "asyncio")


@dataclass
class Player:
    """An actor's process."""

    name: str
    role: str
    child: Child


class Stage:
    """All that a soak consists of. `open` starts it, `close` ends it and finds what is wrong.

    Args:
        lease: of all consumers and workers (seconds).
        ttl: how long what a killed client leaves behind may live (seconds).
        cast: the roles.
        say: is told what happens.
        patient: wait until all that expires is gone; otherwise it must be about to.
    """

    def __init__(
        self,
        kind: Kind,
        seed: int,
        lease: float,
        ttl: float,
        cast: tuple[str, ...],
        say: Callable[[str], None],
        patient: bool = True,
    ) -> None:
        self.say, self.patient = say, patient
        self.seed, self.lease, self.ttl, self.cast = seed, lease, ttl, cast
        self.name = f"soak-{seed}"
        self.directory = tempfile.TemporaryDirectory(prefix="soak-")
        self.faults: list[FaultRecord] = []
        self.players: list[Player] = []
        self.complaints: list[str] = []
        self.hung: list[str] = []
        self.started: Counter[str] = Counter()
        self._gone: list[Player] = []
        self._descriptors = _descriptors()
        self._threads = threading.active_count()
        self.server = ServerProcess(kind, appendonly=True)
        self.proxies = [FaultyProxy(self.server.url) for _ in range(2)]
        self.admin = self.server.client()
        self._book = Book(self.directory.name, "stage")

    # Its actors

    def open(self) -> None:
        with self._handle() as q:
            q.create(100)
        for role in self.cast:
            self.enter(role)
        for player in self.players:
            player.child.wait_for("ready", PATIENCE)

    def enter(self, role: str) -> Player:
        """Start one more actor."""
        number = self.started[role]
        self.started[role] += 1
        name = f"{role}-{number}"
        proxy = self.proxies[sum(self.started.values()) % len(self.proxies)]
        scene = Scene(
            proxy.url, self.name, self.directory.name, self.lease, self.ttl, name, self.seed
        )
        player = Player(name, role, spawn(act, role, scene))
        self.players.append(player)
        return player

    def leave(self, player: Player) -> None:
        """It is dead, or will be at once; what it has started must end by itself."""
        self.players.remove(player)
        self._gone.append(player)
        for one in list(self._gone):
            if not one.child.running and not one.child.family():
                one.child.close()
                self._gone.remove(one)

    def check_players(self) -> None:
        """Nobody may end who was not told to."""
        for player in list(self.players):
            if not player.child.running:
                # A daemon that finds no server at its start says so, and ends.
                if player.role != "worker" or "no usable server" not in player.child.output:
                    self._complain_of(player, f"ended with {player.child.wait()}")
                self.leave(player)
                self.enter(player.role)

    def operate(self, *words: str | bytes) -> Any:
        """Send one command to the server, as its operator would."""
        send: Callable[..., Any] = self.admin.execute_command
        return send(*words)

    # The end

    def close(self) -> None:
        """End everything in good order. What is not as it should be is in `complaints`."""
        try:
            stop_file(self.directory.name).touch()
            for role in PUTTING:
                self._await(role)
            for player in self.players:
                if player.role == "asyncio":
                    self._guarded(player, lambda one: one.child.wait_for("puts no more", PATIENCE))
            self._end_queues()
            self._await("worker", signal.SIGTERM)
            self._delete_tasks()
            self._check_leftovers()
        finally:
            for player in [*self.players, *self._gone]:
                player.child.close()
            self._book.close()
            self.admin.close()
            for proxy in self.proxies:
                proxy.close()
            self.server.close()
        self._check_self()

    def _handle(self, name: str = "", hash_tag: str = "") -> pressure.PressureQueue[Any]:
        settings = Settings(lease=self.lease, reconnect_timeout=PATIENCE, hash_tag=hash_tag)
        return pressure.PressureQueue(name or self.name, url=self.server.url, settings=settings)

    def _end_queues(self) -> None:
        with self._handle() as q:
            q.close()
            for role in TAKING:
                self._await(role)
            # What a killed consumer held comes back when its lease ends.
            until = time.monotonic() + PATIENCE
            while q.unfinished_tasks and time.monotonic() < until:
                try:
                    with q.lease(timeout=0.2) as (item, _):
                        self._book.note("delivered", item)
                except (pressure.QueueEmptyError, pressure.QueueClosedError):
                    time.sleep(0.05)
                    self._forget_fetched(q)
            stats = q.stats()
            self.say(f"drained: {stats}")
            if stats.length or stats.fetched_ahead or stats.dead_letters:
                self.complaints.append(f"left in the queue: {stats}")
            q.delete()
        shim: Any = mp.Queue(100, name=f"{self.name}-mp", url=self.server.url)
        for player in self.players:
            if player.role == "mp-consumer":
                shim.put(None, timeout=PATIENCE)
        self._await("mp-consumer")
        while not shim.empty():
            got = shim.get(timeout=PATIENCE)
            if got is not None:
                self._book.note("delivered", got[0])
        shim.delete()
        shim.close()
        shim.join_thread()

    def _forget_fetched(self, q: pressure.PressureQueue[Any]) -> None:
        """Nobody here calls task_done for what get() returned."""
        with contextlib.suppress(ValueError):
            for _ in range(100):
                q.task_done()

    def _delete_tasks(self) -> None:
        with self._handle(f"{self.name}-x", f"{self.name}-x") as q:
            if q.exists:
                q.delete()

    def _check_leftovers(self) -> None:
        self.say("waiting for what expires")
        # A killed daemon's own queue lives for a minute.
        until = time.monotonic() + (max(self.ttl, 60.0) + PATIENCE / 2 if self.patient else 5.0)
        left = self._lifetimes()
        while time.monotonic() < until:
            left = self._lifetimes()
            if not left or (not self.patient and min(left.values()) >= 0):
                break
            time.sleep(0.1)
        for_ever = [key for key, ttl in left.items() if ttl < 0]
        if for_ever or (left and self.patient):
            self.complaints.append(f"{len(left)} keys left: {dict(list(left.items())[:10])}")
        for player in self._gone:
            until = time.monotonic() + PATIENCE / 2
            while (family := player.child.family()) and time.monotonic() < until:
                time.sleep(0.1)
            if family:
                self._complain_of(player, f"left processes behind: {family}")
        if any(fault.name == "connections swallowed" for fault in self.faults):
            # Such connections stay half open until the proxy ends them.
            for proxy in self.proxies:
                proxy.cut()
        # The last ones are ended by the proxies and the server a moment after the processes.
        until = time.monotonic() + PATIENCE / 2
        while (clients := self._clients()) and time.monotonic() < until:
            time.sleep(0.1)
        if clients:
            self.complaints.append(f"connections left: {clients}")

    def _clients(self) -> list[dict[str, Any]]:
        """The connections to the server, but for the operator's own."""
        return [one for one in self.admin.client_list() if one["cmd"] != "client|list"]

    def _keys(self) -> list[bytes]:
        keys: Any = self.admin.keys("*")
        return sorted(keys)

    def _lifetimes(self) -> dict[bytes, int]:
        """How long (milliseconds) the keys on the server will live; below 0: for ever."""
        lives = {key: int(self.admin.pttl(key)) for key in self._keys()}
        return {key: ttl for key, ttl in lives.items() if ttl != -2}

    def _check_self(self) -> None:
        until = time.monotonic() + PATIENCE
        while (left := self._left_open()) and time.monotonic() < until:
            time.sleep(0.1)
        if left:
            self.complaints.append(f"file descriptors left open here: {', '.join(left)}")

    def _left_open(self) -> list[str]:
        """What is open here that was not before. Connections to other servers are of tests that
        ran earlier in this process, whose threads in the background make them anew."""
        now = _descriptors()
        if len(now) <= len(self._descriptors):
            return []
        ours = [self.server.url, *(proxy.url for proxy in self.proxies)]
        new = [(what, _address(int(name))) for name, what in now - self._descriptors]
        return [f"{what} {at}" for what, at in new if not at or any(at in url for url in ours)]

    def _await(self, role: str, order: int = 0) -> None:
        """Wait until the actors of a role have ended by themselves."""
        for player in [one for one in self.players if one.role == role]:
            if order:
                os.kill(player.child.pid, order)
            self._guarded(player, self._expect_end)
            self.leave(player)

    def _expect_end(self, player: Player) -> None:
        self.say(f"waiting for {player.name}")
        code = player.child.wait(PATIENCE * 2)
        if code:
            self._complain_of(player, f"ended with {code}")
        elif player.role != "worker":
            left = player.child.wait_for("ended", PATIENCE)
            # The embedded server's lifeline and the keeper's control connections may stay.
            if left["descriptors"] > 4:
                self._complain_of(player, f"left open: {left}")

    def _guarded(self, player: Player, wait: Any) -> None:
        try:
            wait(player)
        except AssertionError as exc:
            # Have it say where it stands.
            with contextlib.suppress(ProcessLookupError):
                os.kill(player.child.pid, signal.SIGUSR1)
            time.sleep(1.0)
            self.hung.append(
                f"{player.name}: {str(exc).splitlines()[0]}\n{self._inventory()}\n"
                f"{player.child.output}"
            )
            self.say(f"hung: {self.hung[-1]}")
            player.child.kill()

    def _inventory(self) -> str:
        """What lies on the server now."""
        sizes = {"list": "llen", "hash": "hgetall", "zset": "zcard", "string": "get"}
        lines = []
        for key in self._keys():
            kind = str(self.operate("TYPE", key), "ascii")
            size = getattr(self.admin, sizes[kind])(key)
            lines.append(f"{key!r} {str(size)[:200]} ({self.admin.pttl(key)} ms)")
        return "\n".join(lines)

    def _complain_of(self, player: Player, text: str) -> None:
        self.complaints.append(f"{player.name} {text}\n{player.child.output[-3000:]}")

    def settings_of(self, kind: Kind) -> dict[str, Any]:
        return {"server": kind, "seed": self.seed, "lease": self.lease, "ttl": self.ttl}


def books(stage: Stage) -> Path:
    return Path(stage.directory.name)


def _descriptors() -> set[tuple[str, str]]:
    """The open file descriptors of this process, and what each is."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add((name, os.readlink(f"/proc/self/fd/{name}")))
    return found


def _address(descriptor: int) -> str:
    """The server's end of a connection; empty if it is none, or has no name."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as opened:
            ends = opened.getpeername(), opened.getsockname()
    except OSError:
        return ""
    named = [end if isinstance(end, str) else f"{end[0]}:{end[1]}" for end in ends if end]
    return named[0] if named else ""
