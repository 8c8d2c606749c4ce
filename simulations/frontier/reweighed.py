"""Rows of a frontier that differ from others in the weights W alone: no training again, the same models judged anew.

The linear encoder learns from histories alone; W is read when a list is made. So where a static policy's weights are
all that ``--tuned`` changes, every training would end in the model that is there already, byte for byte but for the
noise of measurements, which a static policy does not look at.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from shared.files import write_atomically
from simulations.config import SimulationConfig
from simulations.download import sha256_of
from simulations.model import read_model
from simulations.seeding import generator
from simulations.world import World, oracle

WEIGHTS: Final = "policy.weights."
JUDGED: Final = ".judged"  # beside a run's folder: its model under other weights


def only_weights(config: SimulationConfig, tuned: Sequence[str]) -> bool:
    """Whether ``tuned`` pairs leave the training of a run as it is."""
    still = config.policy.controller == "static" and config.model.encoder == "linear"
    return still and all(pair.strip().startswith(WEIGHTS) for pair in tuned)


def judged_anew(run: Path, summary: Mapping[str, Any], config: SimulationConfig, world: Callable[[], World]) -> Any:  # noqa: ANN401 - JSON
    """The summary of a finished run, with the test metrics that its model has under the weights of ``config``.

    Args:
        run: folder of the finished run.
        summary: what it says of itself.
        config: the run's configuration but for its weights.
        world: the data; asked for only where the answer is not kept beside the run.
    """
    kept = run.with_name(run.name + JUDGED)
    question = {"weights": config.policy.weights, "model": sha256_of(run / "model.safetensors"), "seed": config.seed}
    try:
        found = json.loads(kept.read_text(encoding="utf-8"))
        if found["question"] == question:
            return {**summary, **found["metrics"]}
    except (OSError, ValueError, LookupError, TypeError):
        pass
    metrics = _metrics(run, config, world())
    write_atomically(kept, json.dumps({"question": question, "metrics": metrics}, indent=1).encode())
    return {**summary, **metrics}


def _metrics(run: Path, config: SimulationConfig, world: World) -> dict[str, dict[str, float]]:
    model = read_model(run / "model.safetensors")
    policy = replace(model.policy, k=20, weights=dict(config.policy.weights))
    out = {}
    for name, reads in (("test", None), ("test_reading_train", "train")):
        rngs = [generator(None if config.seed == "none" else config.seed, "final", user) for user in world.asked_names]
        out[name] = oracle(
            world,
            model.encoder,
            model.parameters,
            model.prior,
            policy,
            model.rules,
            rngs,
            on="test",
            reads=reads,
        )
    return out
