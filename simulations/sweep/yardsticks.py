"""What every quality table of a sweep holds beside our rows: popularity as floor, EASE as ceiling without privacy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from shared.files import write_atomically
from simulations.baselines import run_baselines
from simulations.baselines.run import WITH_VALID
from simulations.config import SimulationConfig
from simulations.frontier.peers import same_data
from simulations.frontier.rows import BOTH, METRICS, TRAIN, VALID, Claim, Outcome
from simulations.frontier.runs import PEERS, digest
from simulations.world import World, judged, load_world

NAMES: Final = {"popularity": "popularity", "ease": "EASE"}
Metrics = dict[str, dict[str, float]]
Results = dict[str, Metrics]
"""Yardstick -> reading -> metric -> value."""


def yardsticks(
    config: SimulationConfig,
    seeds: Sequence[int],
    folder: Path,
    *,
    cache: Path,
    source: Path | None,
    say: Callable[[str], None],
) -> list[Outcome]:
    """Both at every seed, on validation and on test items. What ``folder`` holds of the same question is reused.

    Reading the data here, before any run, also finds out what is wrong with them, and fills the cache that the runs
    share: downloads, and vectors of texts.

    Args:
        config: whose data, split and text model.
        seeds: of generated data; others are the same at each, and so are both yardsticks, which nothing random is in.
        folder: keeps a file a seed.
        cache, source: of the data.
        say: gets a sentence as work goes on.

    Returns:
        Outcomes without differential privacy; one that is not fitted to so many items has no metrics.
    """
    question: dict[str, Any] = {
        "data": config.data.model_dump(mode="json"),
        "text": config.model.model_dump(mode="json", include={"text_encoder", "adaptation", "vectors"}),
        "evaluation": config.evaluation.model_dump(mode="json"),
        "code": digest(PEERS),
    }
    key = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:12]
    out: list[Outcome] = []
    known: tuple[World, Results] | None = None
    for seed in seeds:
        kept = folder / f"{key}-seed-{seed}.json"
        results = _kept(kept)
        if results is None:
            say(f"data {config.preset}, seed {seed}")
            world = load_world(config.model_copy(update={"seed": seed}), cache, source, say)
            same = known is not None and same_data(known[0], world)
            results = known[1] if known is not None and same else _fitted(config, world, say)
            known = world, results
            write_atomically(kept, json.dumps(results, indent=1).encode())
        out += [Outcome(name, None, seed, results.get(name, {}), Claim(None)) for name in NAMES.values()]
    return out


def _kept(path: Path) -> Results | None:
    """What a file holds; None when it is not there or broken."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _fitted(config: SimulationConfig, world: World, say: Callable[[str], None]) -> Results:
    fit = partial(
        run_baselines,
        world.dataset,
        judged(world),
        delta=config.privacy.delta,
        epsilons=(),
        seed=0,
        names=tuple(NAMES),
    )
    valid, test = fit(on="valid"), fit(also_valid=True, progress=say)
    return {
        title: {TRAIN: _shown(test[name]), BOTH: _shown(test[name + WITH_VALID]), VALID: _shown(valid[name])}
        for name, title in NAMES.items()
        if name in test
    }


def _shown(metrics: Mapping[str, float]) -> dict[str, float]:
    return {metric: float(metrics[metric]) for metric in METRICS}
