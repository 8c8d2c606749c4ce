"""A run from end to end, in a process of its own: ``python -m simulations.benchmarks.updates_whole ROUNDS STEPS``."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from simulations.benchmarks.handover import POINTS
from simulations.download import cache_folder, silent
from simulations.sized import Size, measure_size


def main(rounds: str, steps: str) -> None:
    """1,000 users, cohort 100, 16 x 625 parameters, trust central, sums idealised: JSON on standard output.

    Args:
        rounds: that are timed.
        steps: local ones.
    """
    size = Size(
        1000, 625, 100, rounds=int(rounds), trust="central", buckets=625, rank=16, rows=POINTS, steps=int(steps)
    )
    with tempfile.TemporaryDirectory() as folder:
        found = measure_size(size, Path(folder) / "run", cache=cache_folder(), say=silent)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
