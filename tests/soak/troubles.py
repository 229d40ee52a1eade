"""What goes wrong in a soak: each trouble is inflicted at random, and recorded."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import redis

from tests.soak.books import FaultRecord
from tests.soak.stage import Player, Stage

__all__ = ["TROUBLES", "Trouble", "inflict"]

Victims = tuple[str, ...]
MOVES = ("EVALSHA", "BLMOVE", "BLPOP")


@dataclass(frozen=True)
class Trouble:
    """`strike` inflicts it and says who its victims were (empty: everybody). `weight`: how often;
    `costly`: it may cost a lease, so its victims' items may come again."""

    name: str
    strike: Callable[[Stage, random.Random], Victims]
    weight: int = 3
    costly: bool = True


def inflict(stage: Stage, dice: random.Random, troubles: tuple[Trouble, ...]) -> str:
    """Let one trouble happen; returns its name."""
    trouble = dice.choices(troubles, [one.weight for one in troubles])[0]
    start = time.time()
    victims = trouble.strike(stage, dice)
    stage.faults.append(FaultRecord(trouble.name, start, time.time(), victims, trouble.costly))
    return trouble.name


# Connections


def cut(stage: Stage, dice: random.Random) -> Victims:
    dice.choice(stage.proxies).cut(reset=dice.random() < 0.5)
    return ("nobody",)


def lose_replies(stage: Stage, dice: random.Random) -> Victims:
    for _ in range(dice.randint(1, 5)):
        dice.choice(stage.proxies).drop_next_reply(dice.choice(MOVES))
    return ("nobody",)


def lose_requests(stage: Stage, dice: random.Random) -> Victims:
    for _ in range(dice.randint(1, 5)):
        dice.choice(stage.proxies).drop_next_request(dice.choice(MOVES))
    return ("nobody",)


def out_of_reach(stage: Stage, dice: random.Random) -> Victims:
    proxy = dice.choice(stage.proxies)
    proxy.refuse()
    proxy.cut()
    time.sleep(dice.uniform(0.1, 1.0))
    proxy.accept()
    return ()


def stall(stage: Stage, dice: random.Random) -> Victims:
    proxy = dice.choice(stage.proxies)
    proxy.stall(dice.uniform(0.05, 1.0))
    return ()


def black_hole(stage: Stage, dice: random.Random) -> Victims:
    dice.choice(stage.proxies).black_hole()
    return ()


# The server's connections and scripts


def kill_clients(stage: Stage, dice: random.Random) -> Victims:
    with contextlib.suppress(redis.RedisError):
        stage.operate("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    return ("nobody",)


def kill_a_client(stage: Stage, dice: random.Random) -> Victims:
    with contextlib.suppress(redis.RedisError):
        number = dice.choice(stage.admin.client_list())["id"]
        stage.operate("CLIENT", "KILL", "ID", number)
    return ("nobody",)


def pause_clients(stage: Stage, dice: random.Random) -> Victims:
    with contextlib.suppress(redis.RedisError):
        milliseconds = dice.randint(50, 500)
        kind = dice.choice(["ALL", "WRITE"])
        stage.operate("CLIENT", "PAUSE", str(milliseconds), kind)
    return ("nobody",)


def flush_scripts(stage: Stage, dice: random.Random) -> Victims:
    for _ in range(dice.randint(1, 20)):
        with contextlib.suppress(redis.RedisError):
            stage.admin.script_flush()
    return ("nobody",)


# The server


def kill_server(stage: Stage, dice: random.Random) -> Victims:
    stage.server.kill()
    time.sleep(dice.uniform(0.0, 1.0))
    stage.server.start()
    return ()


def freeze_server(stage: Stage, dice: random.Random) -> Victims:
    stage.server.pause()
    time.sleep(dice.uniform(0.1, 1.5))
    stage.server.resume()
    return ()


# Processes

MORTAL = frozenset(
    {"producer", "batch-producer", "consumer", "batch-consumer", "iterator", "leaser", "asyncio"}
    | {"worker", "executor", "local-executor"}
)


def _one_of(stage: Stage, dice: random.Random, roles: frozenset[str]) -> Player:
    return dice.choice([player for player in stage.players if player.role in roles])


def kill_actor(stage: Stage, dice: random.Random) -> Victims:
    player = _one_of(stage, dice, MORTAL)
    player.child.kill()
    stage.leave(player)
    stage.enter(player.role)
    return (player.name,)


def freeze_actor(stage: Stage, dice: random.Random) -> Victims:
    player = _one_of(stage, dice, MORTAL | {"mp-producer", "mp-consumer"})
    with _frozen([player.child.pid]):
        # Now and then for longer than its lease.
        time.sleep(dice.choice([0.1, 0.5, stage.lease + 0.5]))
    return (player.name,)


def _workers(stage: Stage, dice: random.Random) -> list[int]:
    player = _one_of(stage, dice, frozenset({"worker", "local-executor"}))
    return [pid for pid in player.child.family() if pid != player.child.pid]


def kill_worker(stage: Stage, dice: random.Random) -> Victims:
    player = _one_of(stage, dice, frozenset({"worker"}))
    family = [pid for pid in player.child.family() if pid != player.child.pid]
    if family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(dice.choice(family), signal.SIGKILL)
    return ("nobody",)


def freeze_worker(stage: Stage, dice: random.Random) -> Victims:
    family = _workers(stage, dice)
    if family:
        with _frozen([dice.choice(family)]):
            time.sleep(dice.choice([0.1, 0.5, stage.lease + 0.5]))
    return ("nobody",)


def kill_machine(stage: Stage, dice: random.Random) -> Victims:
    """A daemon and all its workers at once."""
    player = _one_of(stage, dice, frozenset({"worker"}))
    family = player.child.family()
    player.child.kill()
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    stage.leave(player)
    stage.enter(player.role)
    return ("nobody",)


@contextlib.contextmanager
def _frozen(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


TROUBLES: tuple[Trouble, ...] = (
    Trouble("connections cut", cut, 4, costly=False),
    Trouble("replies lost", lose_replies, 6, costly=False),
    Trouble("requests lost", lose_requests, 4, costly=False),
    Trouble("server out of reach", out_of_reach, 2),
    Trouble("network stalled", stall, 2),
    Trouble("connections swallowed", black_hole, 1),
    Trouble("CLIENT KILL of all", kill_clients, 2, costly=False),
    Trouble("CLIENT KILL of one", kill_a_client, 4, costly=False),
    Trouble("CLIENT PAUSE", pause_clients, 2, costly=False),
    Trouble("SCRIPT FLUSH", flush_scripts, 3, costly=False),
    Trouble("server SIGKILLed and restarted", kill_server, 1),
    Trouble("server SIGSTOPped", freeze_server, 1),
    Trouble("process SIGKILLed", kill_actor, 5),
    Trouble("process SIGSTOPped", freeze_actor, 3),
    Trouble("worker SIGKILLed", kill_worker, 3),
    Trouble("worker SIGSTOPped", freeze_worker, 2),
    Trouble("daemon and workers SIGKILLed", kill_machine, 1),
)
