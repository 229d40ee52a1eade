"""`python -m tests.soak`: run a soak, print the table; exit code 1 if anything was wrong."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tests.soak.soaking import soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="how long (default: 5)")
    parser.add_argument("--seed", type=int, default=1, help="decides what happens (default: 1)")
    parser.add_argument("--server", choices=("valkey", "redis"), default="valkey")
    parser.add_argument("--every", type=float, default=0.7, help="seconds from fault to fault")
    parser.add_argument("--lease", type=float, default=5.0, help="seconds (default: 5)")
    parser.add_argument("--json", type=Path, help="write the outcome to this file")
    parser.add_argument("--quiet", action="store_true", help="don't print each fault")
    options = parser.parse_args()
    outcome = soak(
        options.server,
        options.seed,
        options.minutes * 60,
        lease=options.lease,
        every=options.every,
        verbose=not options.quiet,
    )
    if options.json is not None:
        options.json.write_text(json.dumps(outcome.json(), indent=1) + "\n")
    print(outcome.table())
    print(outcome.problems(), file=sys.stderr)
    return 0 if outcome.sound else 1


if __name__ == "__main__":
    sys.exit(main())
