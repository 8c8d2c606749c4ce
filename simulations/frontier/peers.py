"""The recommenders that a frontier stands beside, computed once a seed and kept in the frontier's folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from shared.files import write_atomically
from shared.privacy.accounting import ACCOUNTANT, epsilon_by_pld, rho_for
from shared.privacy.plan import ADJACENCY
from simulations.baselines import run_baselines
from simulations.baselines.run import WITH_VALID
from simulations.config import SimulationConfig
from simulations.frontier.rows import BOTH, METRICS, TRAIN, Claim, Epsilon, Outcome
from simulations.world import World, judged, load_world

Say = Callable[[str], None]
Results = Mapping[str, Mapping[str, float]]

PRIVATE: Final = {"dp_ease": "DP-EASE", "tfidf_private_popularity": "TF-IDF + private popularity"}
OPEN: Final = {"ease": "EASE", "ials": "iALS", "popularity": "popularity"}
_WITHOUT_CHANCE: Final = ("ease", "popularity")  # the same on the same data, whatever the seed
_COVERS: Final = {
    "dp_ease": "one noisy Gram matrix of all histories, against its recipients; against the server nothing",
    "tfidf_private_popularity": "one noisy popularity histogram, against its recipients; against the server nothing",
}
_TUNING: Final = {
    "dp_ease": "not covered: cap and rule for the ridge were chosen on validation items",
    "tfidf_private_popularity": "not covered: the prior's weight is chosen on validation items",
}


def peers(
    config: SimulationConfig,
    epsilons: Sequence[Epsilon],
    seeds: Sequence[int],
    folder: Path,
    code: str,
    *,
    cache: Path,
    source: Path | None,
    say: Say,
) -> list[Outcome]:
    """Every peer at every seed, private ones at every epsilon. What ``folder`` holds of the same question is reused.

    Args:
        config: whose data, split, people asked and delta.
        epsilons: None is answered by the peers without privacy.
        seeds: of the private noise, of iALS' start and of generated data.
        folder: keeps ``peers-seed-<n>.json``.
        code: digest of the code; results of other code are computed anew.
        cache, source: of the data.
        say: gets a sentence as work goes on.
    """
    wanted = [epsilon for epsilon in epsilons if epsilon is not None]
    question = {
        "data": config.data.model_dump(mode="json"),
        "evaluation": config.evaluation.model_dump(mode="json"),
        "delta": config.privacy.delta,
        "epsilons": wanted,
        "code": code,
    }
    out: list[Outcome] = []
    known: tuple[World, Results] | None = None
    for seed in seeds:
        kept = folder / f"peers-seed-{seed}.json"
        results = _kept(kept, question)
        if results is None:
            say(f"peers, seed {seed}")
            world = load_world(config.model_copy(update={"seed": seed}), cache, source, say)
            results = _fitted(config, world, wanted, seed, known, say)
            known = world, results
            write_atomically(kept, json.dumps({"question": question, "results": results}, indent=1).encode())
        out += _outcomes(results, wanted, seed, config.privacy.delta)
    return out


def _kept(path: Path, question: Mapping[str, Any]) -> Results | None:
    """What a file answers; None when it is not there, is broken or answers another question."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return dict(found["results"]) if found["question"] == question else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _fitted(
    config: SimulationConfig,
    world: World,
    epsilons: Sequence[float],
    seed: int,
    known: tuple[World, Results] | None,
    say: Say,
) -> Results:
    """Metrics of all peers; those without chance are taken over from a seed with the same data."""
    over: dict[str, Mapping[str, float]] = {}
    if known is not None and same_data(known[0], world):
        keys = [key for name in _WITHOUT_CHANCE for key in (name, name + WITH_VALID)]
        over = {key: known[1][key] for key in keys if key in known[1]}
    names = [name for name in (*OPEN, *PRIVATE) if name not in over]
    return over | run_baselines(
        world.dataset,
        judged(world),
        delta=config.privacy.delta,
        epsilons=epsilons,
        seed=seed,
        names=names,
        also_valid=True,
        progress=say,
    )


def same_data(one: World, other: World) -> bool:
    """Whether two seeds came to the same events, and ask the same people."""
    a, b = one.dataset, other.dataset
    columns = ((a.user, b.user), (a.item, b.item), (a.time, b.time), (one.asked, other.asked))
    return all(np.array_equal(left, right) for left, right in columns)


def _outcomes(results: Results, epsilons: Sequence[float], seed: int, delta: float) -> list[Outcome]:
    """The results in the order of the tables, without peers that could not be fitted to these data."""
    out = []
    for name, title in PRIVATE.items():
        for epsilon in epsilons:
            ending = f"@{epsilon:g}"
            if name + ending in results:
                claim = _claim(name, epsilon, delta)
                out.append(Outcome(title, epsilon, seed, _metrics(results, name, ending), claim))
    there = {name: title for name, title in OPEN.items() if name in results}
    out += [Outcome(title, None, seed, _metrics(results, name, ""), Claim(None)) for name, title in there.items()]
    return out


def _metrics(results: Results, name: str, ending: str) -> dict[str, dict[str, float]]:
    found = {TRAIN: results[name + ending], BOTH: results[name + WITH_VALID + ending]}
    return {reading: {metric: float(metrics[metric]) for metric in METRICS} for reading, metrics in found.items()}


def _claim(name: str, epsilon: float, delta: float) -> Claim:
    return Claim(
        epsilon=epsilon_by_pld(rho_for(epsilon, delta), delta),
        unit="user",
        adjacency=ADJACENCY,
        trust="central",
        delta=delta,
        accountant=ACCOUNTANT,
        covers=_COVERS[name],
        tuning=_TUNING[name],
    )
