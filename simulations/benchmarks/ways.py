"""The cost model of local training against measurements: every way timed, and how good the one chosen is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Final

import numpy as np

from client.model import Items
from client.strategy import Way, chosen, seconds, ways
from client.training import fit
from shared.encoder.spec import EncoderSpec, initial_parameters
from shared.history import KINDS, NOT_INTERESTED, History
from shared.policy.recall_policy import RecallPolicy
from shared.protocol import TrainingTerms

TERMS: Final = TrainingTerms("softmax", 0.1, 4, 3, 3)
SPECS: Final = {
    "linear, 10k": EncoderSpec(64, 16, 625, "linear"),
    "linear, 1M": EncoderSpec(64, 64, 15_625, "linear"),
    "mean, 10k": EncoderSpec(384, 16, 225, "mean"),
    "mean, 1M": EncoderSpec(384, 64, 15_000, "mean"),
}
_INTERACTIONS: Final = 10
_POLICY: Final = RecallPolicy(
    version=1,
    similarity={"text": "cosine", "lexical": "cosine", "category": "cosine"},
    weights={"text": 5.0, "lexical": 0.0, "category": 0.0, "popularity": 1.0},
    features=("text", "popularity"),
    depth=30,
    local_iterations=1,
    exposure_price=0.0,
    diversity=0.0,
    exploration=0.0,
    k=10,
)


@dataclass(frozen=True)
class Timed:
    """One way.

    Attributes:
        way: of training.
        predicted, measured: seconds a user; the first leaves out what all ways share.
    """

    way: Way
    predicted: float
    measured: float


def compare(
    spec: EncoderSpec, steps: int, clock: Callable[[], float], *, users: int, repeats: int = 3
) -> tuple[list[Timed], float]:
    """Time every way but those that the model finds hopeless (ten times the best).

    Args:
        spec: the encoder.
        steps: local steps.
        clock: CPU seconds of this process.
        users: in a batch.
        repeats: the median counts.

    Returns:
        What was measured, the fastest first; and the chosen way's time over the fastest's.
    """
    rng = np.random.default_rng(0)
    text = rng.normal(0.0, spec.text_width**-0.5, (spec.buckets, spec.text_width)).astype(np.float32)
    items = Items({spec.reads: text}, np.arange(spec.buckets), np.zeros(spec.buckets, np.float32))
    parameters = initial_parameters(spec, rng)
    people, keys = [_person(rng, spec.buckets) for _ in range(users)], list(range(users))
    open_to_all = [np.zeros(spec.buckets, np.bool_)] * users
    policy = RecallPolicy(**(vars(_POLICY) | {"local_iterations": steps}))

    def once(way: Way) -> float:
        begin = clock()
        for _rows in fit(spec, parameters, items, policy, TERMS, people, keys, open_to_all, way=way):
            pass
        return (clock() - begin) / users

    predicted = {way: seconds(way, spec, TERMS, steps) for way in ways(spec)}
    likely = [way for way, cost in predicted.items() if cost <= 10 * min(predicted.values())]
    # In turns, so that a busy minute hurts all alike; the first turn only warms up.
    turns = [{way: once(way) for way in likely} for _ in range(repeats + 1)][1:]
    timed = [Timed(way, predicted[way], median(turn[way] for turn in turns)) for way in likely]
    timed.sort(key=lambda each: each.measured)
    pick = chosen(spec, TERMS, steps)
    return timed, next(each.measured for each in timed if each.way == pick) / timed[0].measured


def _person(rng: np.random.Generator, items: int) -> History:
    n = _INTERACTIONS
    return History(
        item=rng.choice(items, n, replace=False).astype(np.int32),
        kind=rng.choice([kind for kind in range(len(KINDS)) if kind != NOT_INTERESTED], n).astype(np.int8),
        count=np.ones(n, np.float32),
        dwell=rng.random(n, np.float32),
        rating=np.full(n, np.nan, np.float32),
        time=np.sort(rng.uniform(0.0, 1e9, n)),
        held_out=np.zeros(n, np.bool_),
    )
