"""Client updates a CPU-second: this project's beside pfl, Flower's Ray simulation with Opacus, and the machine's bound.

Every side trains the same model on the same users for the same number of steps, on one thread in a process of its own;
where a peer clips as we do its sum is compared with ours, for a fast wrong sum is no figure.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from shared.errors import FedrecallError, RunError
from simulations.benchmarks.handover import Case, peer_sum
from simulations.benchmarks.measure import bar_of, in_child, machine, spread_of
from simulations.benchmarks.peers.make import pfl_environment, run_flower, run_pfl
from simulations.benchmarks.peers.task import PeerTask, Terms, write_task
from simulations.benchmarks.roofline import bound_of, copy_rate, product_rate, work_of
from simulations.benchmarks.updates_own import SUM, TASK
from simulations.download import cache_folder

Say = Callable[[str], None]
Peer = Callable[[str, str], dict[str, Any]]
NEAR: Final = 1e-4  # relative distance of a peer's sum from ours
PLACES: Final = 10  # items that a step of a two-tower encoder looks at
MILLION: Final = 500_000  # parameters from which a case counts as a large one
BARS: Final = {(False, 1): 20.0, (False, 5): 10.0, (True, 1): 2.0, (True, 5): 1.0}  # times pfl: (large, steps)
FLOWER_BAR, WHOLE_BAR = 50.0, 5.0
CASES: Final = tuple(
    Case(kind, rank, buckets, steps)  # type: ignore[arg-type]
    for kind, rank, buckets in (("linear", 16, 625), ("mean", 16, 225), ("linear", 64, 15_625), ("mean", 64, 15_000))
    for steps in (1, 5)
)


@dataclass(frozen=True)
class Plan:
    """What is measured; the default is what the command does.

    Attributes:
        cases: one row each.
        seconds: processor time that one measurement takes at least.
        repeats: measurements of each side.
        hidden: widths of the networks that pfl is calibrated on.
        rounds: of the run from end to end; 0 = none.
    """

    cases: tuple[Case, ...] = CASES
    seconds: float = 0.5
    repeats: int = 3
    hidden: tuple[int, ...] = (128, 13_333)
    rounds: int = 12


def measure(say: Say, *, peers: bool = False, plan: Plan | None = None) -> dict[str, Any]:
    """Everything that the command prints, as JSON values.

    Args:
        say: told what is being measured.
        peers: beside pfl and Flower, too; where one cannot run its rows say why.
        plan: cases and repeats.

    Raises:
        RunError: a peer's sum is not ours.
    """
    plan = plan or Plan()
    where, operations = machine("torch", "opacus", "numpy"), product_rate()
    sides: dict[str, Peer | str] = {"pfl": _pfl(say), "Flower": run_flower} if peers else {}
    with tempfile.TemporaryDirectory() as folder:
        rows = [_row(case, sides, plan, Path(folder), operations, say) for case in plan.cases]
        calibration = _calibration(sides["pfl"], plan, Path(folder), say) if peers else []
    whole = [_whole(plan, steps, say) for steps in (1, 5)] if plan.rounds else []
    return {
        "machine": asdict(where),
        "load_after": os.getloadavg()[0],
        "operations_a_second": operations,
        "rows": rows,
        "calibration": calibration,
        "whole": whole,
        "bars": _bars(rows, whole),
    }


def _row(
    case: Case, sides: dict[str, Peer | str], plan: Plan, folder: Path, operations: float, say: Say
) -> dict[str, Any]:
    say(f"fedrecall: {case.kind}, {case.spec.trained:,} parameters, local steps: {case.steps}")
    arguments = (json.dumps(asdict(case)), str(plan.seconds), str(plan.repeats), str(folder))
    own = in_child("simulations.benchmarks.updates_own", *arguments)
    rate = asdict(spread_of(own["rates"]))
    work = work_of(case.spec, case.steps, PLACES)
    bound = bound_of(work, operations, copy_rate(work.row))
    beside = {name: _beside(name, side, case, rate["median"], folder, say) for name, side in sides.items()}
    return {
        "kind": case.kind,
        "parameters": case.spec.trained,
        "steps": case.steps,
        "rate": rate,
        "bound": bound,
        "share": rate["median"] / bound["rate"],
        "peers": beside,
    }


def _beside(name: str, side: Peer | str, case: Case, own: float, folder: Path, say: Say) -> dict[str, Any]:
    """One peer's figures, or why there are none."""
    if isinstance(side, str):
        return {"missing": side}
    say(f"{name}: the same")
    found = folder / "peer.npz"
    try:
        result = side(str(folder / TASK), str(found))
    except RunError as error:
        return {"missing": str(error)}
    rate = asdict(spread_of(result["rates"]))
    compared = name == "pfl" or case.steps == 1  # Opacus clips every step, we and pfl the whole change
    distance = _distance(name, case, found, folder / SUM) if compared else None
    return {"rate": rate, "times": own / rate["median"], "distance": distance, "versions": result["versions"]}


def _distance(name: str, case: Case, found: Path, own: Path) -> float:
    with np.load(found) as arrays:
        theirs = peer_sum(case.kind, dict(arrays))
    ours = np.load(own)
    distance = float(np.linalg.norm(theirs - ours) / np.linalg.norm(ours))
    if not distance <= NEAR:
        raise RunError(f"{name}: its sum is {distance:.1e} of ours away from ours ({case}); its time says nothing")
    return distance


def _calibration(side: Peer | str, plan: Plan, folder: Path, say: Say) -> list[dict[str, Any]]:
    """What others measured pfl on: a small network, ten points a user."""
    if isinstance(side, str):
        return []
    rows = []
    for hidden in plan.hidden:
        for steps in (1, 5):
            say(f"pfl: a network of {75 * hidden + 10:,} parameters, local steps: {steps}")
            terms = Terms("network", steps, 0, 0.1, 0.1, 100, plan.repeats, plan.seconds)
            write_task(folder / TASK, _network(hidden, terms))
            row: dict[str, Any] = {"parameters": 75 * hidden + 10, "steps": steps}
            try:
                row["rate"] = asdict(spread_of(side(str(folder / TASK), str(folder / "peer.npz"))["rates"]))
            except RunError as error:
                row["missing"] = str(error)
            rows.append(row)
    return rows


def _network(hidden: int, terms: Terms, users: int = 1000, points: int = 10) -> PeerTask:
    """64 features, one hidden layer, 10 classes."""
    rng = np.random.default_rng(hidden)
    parameters = {
        "layers.0.weight": rng.normal(0.0, 0.1, (hidden, 64)).astype(np.float32),
        "layers.0.bias": np.zeros(hidden, np.float32),
        "layers.2.weight": rng.normal(0.0, 0.1, (10, hidden)).astype(np.float32),
        "layers.2.bias": np.zeros(10, np.float32),
    }
    features = rng.normal(size=(users, points, 64)).astype(np.float32)
    return PeerTask(terms, parameters, [features, rng.integers(0, 10, (users, points))])


def _whole(plan: Plan, steps: int, say: Say) -> dict[str, Any]:
    """Runs of the product from end to end: release path, ledgers, receipts and Grid included."""
    say(f"fedrecall: {plan.repeats} times {plan.rounds} rounds of a run from end to end, local steps: {steps}")
    found = [
        in_child("simulations.benchmarks.updates_whole", str(plan.rounds), str(steps)) for _ in range(plan.repeats)
    ]
    rate = spread_of([one["cohort"] / one["cpu_seconds_round"] for one in found])
    return {**found[0], "steps": steps, "rate": asdict(rate)}


def _bars(rows: list[dict[str, Any]], whole: list[dict[str, Any]]) -> list[dict[str, Any]]:
    bars = []
    for row in rows:
        name = f"{row['kind']}, {row['parameters']:,} parameters, local steps: {row['steps']}"
        pfl, flower = (row["peers"].get(side, {}) for side in ("pfl", "Flower"))
        if "times" in pfl:
            bound = BARS[row["parameters"] >= MILLION, row["steps"]]
            bars.append(bar_of(f"times pfl: {name}", pfl["times"], ">=", bound))
        if "times" in flower:
            bars.append(bar_of(f"times Flower, Ray and Opacus: {name}", flower["times"], ">=", FLOWER_BAR))
        for run in whole:
            if "times" in pfl and (row["kind"], row["parameters"], row["steps"]) == (
                "linear",
                run["parameters"],
                run["steps"],
            ):
                times = run["rate"]["median"] / pfl["rate"]["median"]
                bars.append(bar_of(f"times pfl, from end to end: {name}", times, ">=", WHOLE_BAR))
    return bars


def _pfl(say: Say) -> Peer | str:
    try:
        return partial(run_pfl, pfl_environment(cache_folder(), say))
    except FedrecallError as error:
        say(str(error))
        return str(error)
