"""Client updates of this project, in a process of their own: training, clipping to the grid, and the sum.

``python -m simulations.benchmarks.updates_own CASE SECONDS REPEATS FOLDER``: measures, and leaves in the folder what a
peer is given and the sum that the peer must find.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from server.exchange import RunningSum
from shared.errors import RunError
from shared.privacy.clipping import clip_to_grid, grid_steps
from simulations.benchmarks.handover import Case, Material, contributions, material, peer_task
from simulations.benchmarks.peers.task import Terms, write_task

TASK: Final = "task.npz"
SUM: Final = "sum.npy"


def measure(case: Case, seconds: float, repeats: int, folder: Path) -> dict[str, Any]:
    """Rates of a case, as JSON values.

    Args:
        case: what is trained.
        seconds: processor time that one measurement takes at least.
        repeats: measurements, after one that is not counted.
        folder: for :data:`TASK` and :data:`SUM`.

    Raises:
        RunError: the sum over the grid is not the sum of the clipped contributions.
    """
    torch.set_num_threads(1)
    made = material(case)
    first = np.concatenate([rows.copy() for rows in contributions(made, slice(0, case.cohort), 1)])
    norms = np.linalg.norm(first.astype(np.float64), axis=1)
    clip = float(np.median(norms))  # half of the users are clipped
    real = (first * np.minimum(1.0, clip / norms)[:, None]).sum(0, dtype=np.float64)
    _check(made, clip, real)
    batch, epochs = (1, 1) if case.kind == "mean" else (0, case.steps)
    terms = Terms(case.kind, epochs, batch, made.training.learning_rate, clip, case.cohort, repeats, seconds)
    write_task(folder / TASK, peer_task(made, terms))
    np.save(folder / SUM, real)
    return {"rates": _rates(made, clip, seconds, repeats), "parameters": case.spec.trained, "clip": clip}


def summed(made: Material, users: slice, round_: int, clip: float) -> NDArray[np.int64]:
    """Training, clipping and sum, as the product does them: (trained,) on the integer grid."""
    steps = grid_steps(made.case.spec.trained)
    total = RunningSum(made.case.spec.trained, steps)
    for rows in contributions(made, users, round_):
        for row in clip_to_grid(rows, clip, steps):
            total.add(row)
    return total.total()


def _check(made: Material, clip: float, real: NDArray[np.float64]) -> None:
    unit = clip / grid_steps(len(real))
    on_grid = summed(made, slice(0, made.case.cohort), 1, clip) * unit
    # Truncation costs less than one grid unit a user.
    if not (np.abs(on_grid - real) <= made.case.cohort * unit).all():
        raise RunError(f"{made.case}: the sum over the grid is not that of the clipped contributions")


def _rates(made: Material, clip: float, seconds: float, repeats: int) -> list[float]:
    """Updates a second of processor time."""
    case, rates, round_ = made.case, [], 0
    for repeat in range(repeats + 1):
        gc.collect()
        began, users = time.process_time(), 0
        while (taken := time.process_time() - began) < seconds:
            start = round_ * case.cohort % case.users
            summed(made, slice(start, start + case.cohort), round_ + 1, clip)
            round_, users = round_ + 1, users + case.cohort
        if repeat:
            rates.append(users / taken)
    return rates


def main(case: str, seconds: str, repeats: str, folder: str) -> None:
    """The command line: JSON in, JSON out."""
    result = measure(Case(**json.loads(case)), float(seconds), int(repeats), Path(folder))
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
