"""One soak from start to end."""

from __future__ import annotations

import random
import time
import traceback

from tests.soak.books import settle
from tests.soak.report import Outcome
from tests.soak.stage import CAST, Stage, books
from tests.soak.troubles import TROUBLES, Trouble, inflict
from tests.support.servers import Kind

__all__ = ["soak"]


def soak(
    kind: Kind,
    seed: int,
    seconds: float,
    *,
    lease: float = 5.0,
    ttl: float = 15.0,
    every: float = 0.7,
    cast: tuple[str, ...] = CAST,
    troubles: tuple[Trouble, ...] = TROUBLES,
    patient: bool = True,
    verbose: bool = False,
) -> Outcome:
    """Run for `seconds`, with a trouble every `every` seconds on average; then end it, and settle.

    The seed decides what happens in which order. (Not to the millisecond: the machine has its say.)
    """
    dice = random.Random(seed)
    start = time.monotonic()

    def say(text: str) -> None:
        if verbose:
            print(f"{time.monotonic() - start:7.1f} {text}", flush=True)

    stage = Stage(kind, seed, lease, ttl, cast, say, patient)
    try:
        stage.open()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(dice.expovariate(1 / every))
            say(inflict(stage, dice, troubles))
            stage.check_players()
    except Exception:
        # Whatever ends it must not be hidden by how it ends.
        traceback.print_exc()
        raise
    finally:
        stage.close()
        verdict = settle(books(stage), stage.faults, lease + 5.0)
        if not verdict.lost:
            stage.directory.cleanup()
    return Outcome(
        settings=stage.settings_of(kind),
        seconds=time.monotonic() - start,
        faults=stage.faults,
        verdict=verdict,
        hung=stage.hung,
        complaints=stage.complaints,
    )
