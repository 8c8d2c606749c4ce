"""Measurements and statistics: what a user's own device can say about recall, before clipping and noise.

The same function serves the oracle of a simulation, so that an estimate and its truth differ by noise alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.encoder.encode import item_vectors, pad, user_groups
from shared.encoder.spec import EncoderSpec, Floats, unpack
from shared.history import NOT_INTERESTED, History
from shared.policy.recall_policy import RecallPolicy
from shared.protocol import MEASURED
from shared.recall.metrics import ndcg_at, recall_at
from shared.recall.rerank import popularity_price, recommend
from shared.recall.scoring import scores
from shared.recall.weights import MEASUREMENT_WEIGHTS, NDCG_K, exposure_weight

CHUNK: Final = 256  # users at a time


def lists(
    spec: EncoderSpec,
    parameters: Floats,
    groups: dict[str, Floats],
    bucket: NDArray[np.int64],
    prior: Floats,
    policy: RecallPolicy,
    histories: Sequence[History],
    rngs: Sequence[np.random.Generator],
    *,
    visible: str = "train",
) -> Iterator[NDArray[np.int64]]:
    """Each user's top k under a policy, in chunks; everything visible is excluded.

    Args:
        spec, parameters: the model.
        groups: feature group -> public item vectors.
        bucket, prior: private popularity.
        policy: the recall policy.
        histories: one per user.
        rngs: one per user, chance for exploration.
        visible: "train" (held-out rows are hidden: validation) or "all" (the final test, serving).

    Yields:
        (chunk, k) item indices, best first, -1 where nothing is left.
    """
    items = {group: vectors for group, vectors in groups.items() if policy.weight(group)}
    items["text"] = item_vectors(spec, parameters, groups["text"], bucket)
    popularity = (prior + unpack(spec, parameters)["bias"])[bucket]
    price = popularity_price(prior[bucket])
    for start in range(0, len(histories), CHUNK):
        part = histories[start : start + CHUNK]
        users = user_groups(spec, parameters, items, pad(part, visible=visible))
        excluded = np.zeros((len(part), len(bucket)), bool)
        for row, history in enumerate(part):
            excluded[row, history.item if visible == "all" else history.item[~history.held_out]] = True
        total = scores(policy, users, items, popularity)
        yield recommend(policy, total, excluded, price, groups["text"], rngs[start : start + CHUNK])


def measurement_rows(
    ranked: NDArray[np.int64], histories: Sequence[History], bucket: NDArray[np.int64], buckets: int, k: int
) -> NDArray[np.float64]:
    """The weighted measurement of each user.

    recall@k, ndcg@10, one for having held-out items, and exposures per bucket, weighted so that the norm of a row is
    at most 1 (``shared/recall/weights.py``). A user with nothing held out has a row of zeros: the metrics are means
    over users who can be asked.

    Returns:
        (users, 3 + buckets) float64.
    """
    relevant = held_out(histories, len(bucket))
    asked = relevant.any(axis=1)
    out = np.zeros((len(histories), len(MEASURED) + buckets))
    out[:, 0] = recall_at(ranked, relevant, k) * MEASUREMENT_WEIGHTS["recall"]
    out[:, 1] = ndcg_at(ranked, relevant, NDCG_K) * MEASUREMENT_WEIGHTS["ndcg"]
    out[:, 2] = MEASUREMENT_WEIGHTS["users"]
    row, place = np.nonzero(ranked[:, :k] >= 0)
    np.add.at(out, (row, len(MEASURED) + bucket[ranked[row, place]]), exposure_weight(k))
    out[~asked] = 0.0
    return out


def held_out(histories: Sequence[History], items: int) -> NDArray[np.bool_]:
    """(users, items): what a measurement should find; "not interested" is never a positive."""
    out = np.zeros((len(histories), items), bool)
    for row, history in enumerate(histories):
        out[row, history.item[history.held_out & (history.kind != NOT_INTERESTED)]] = True
    return out


def popularity_rows(histories: Sequence[History], bucket: NDArray[np.int64], buckets: int) -> NDArray[np.float64]:
    """Each user's visible positives as a unit vector over buckets; zeros for an empty history, (users, buckets)."""
    out = np.zeros((len(histories), buckets))
    for row, history in enumerate(histories):
        out[row, bucket[history.item[~history.held_out & (history.kind != NOT_INTERESTED)]]] = 1.0
    norm = np.linalg.norm(out, axis=1, keepdims=True)
    return np.asarray(np.divide(out, norm, out=out, where=norm > 0), np.float64)
