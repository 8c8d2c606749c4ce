"""Measurements and statistics: what a user's own device can say about recall, before clipping and noise.

The same function serves the oracle of a simulation, so that an estimate and its truth differ by noise alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.encoder.encode import context_vectors, item_vectors, log_popularity_of, pad, user_groups
from shared.encoder.spec import EncoderSpec, Floats
from shared.history import NOT_INTERESTED, History
from shared.policy.recall_policy import RecallPolicy
from shared.recall.item_rules import Mask
from shared.recall.metrics import ndcg_at, recall_at
from shared.recall.report import (
    ACTIVITY,
    CENTRE,
    HISTORY_BINS,
    HISTORY_WEIGHT,
    NDCG_K,
    POPULARITY_WEIGHT,
    SCALARS,
    ReportLayout,
    activity_group,
)
from shared.recall.rerank import item_prices, recommend
from shared.recall.scoring import scores

CHUNK: Final = 256  # users at a time, and fewer where they would be
CELLS: Final = 1 << 24  # scores of items at a time or more


def lists(
    spec: EncoderSpec,
    parameters: Floats,
    groups: dict[str, Floats],
    bucket: NDArray[np.int64],
    prior: Floats,
    policy: RecallPolicy,
    histories: Sequence[History],
    rngs: Sequence[np.random.Generator],
    barred: Sequence[Mask],
    *,
    visible: str = "train",
    reads: str | None = None,
) -> Iterator[NDArray[np.int64]]:
    """Each user's top k under a policy, in chunks; everything visible or barred is excluded.

    Args:
        spec, parameters: the model.
        groups: feature group -> public item vectors.
        bucket, prior: private popularity.
        policy: the recall policy.
        histories: one per user.
        rngs: one per user, chance for exploration.
        barred: one per user, (items,) what item rules keep from them.
        visible: "train" (held-out rows are hidden: validation) or "all" (the final test, serving).
        reads: what the encoder reads, where that differs from ``visible``.

    Yields:
        (chunk, k) item indices, best first, -1 where nothing is left.
    """
    items = {group: vectors for group, vectors in groups.items() if policy.weight(group)}
    items["text"] = item_vectors(spec, parameters, groups[spec.reads], bucket)
    context = context_vectors(spec, parameters, groups[spec.reads], bucket)
    popularity = log_popularity_of(spec, parameters, prior)[bucket]
    price = item_prices(policy, prior, bucket)
    chunk = min(CHUNK, max(1, CELLS // len(bucket)))
    for start in range(0, len(histories), chunk):
        part = histories[start : start + chunk]
        users = user_groups(spec, parameters, items, context, pad(part, visible=reads or visible))
        excluded, seen = np.zeros((len(part), len(bucket)), bool), np.zeros(len(part), np.int64)
        for row, history in enumerate(part):
            known = history.item if visible == "all" else history.item[~history.held_out]
            seen[row] = len(np.unique(known))  # what item rules bar was not seen
            excluded[row] = barred[start + row]
            excluded[row, known] = True
        total = scores(policy, users, items, popularity)
        yield recommend(policy, total, excluded, seen, price, groups["text"], rngs[start : start + chunk])


def measurement_rows(
    ranked: NDArray[np.integer],
    shadows: Sequence[NDArray[np.integer]],
    histories: Sequence[History],
    barred: Sequence[Mask],
    activity: tuple[int, int],
    layout: ReportLayout,
    bucket: NDArray[np.int64],
) -> NDArray[np.float64]:
    """The weighted measurement of each user.

    In the order and with the weights of ``shared/recall/report.py``, so that the norm of a row is at most 1. A user
    with nothing held out has a row of zeros: the metrics are means over users who can be asked.

    Args:
        ranked: (users, k) lists under the policy in force.
        shadows: as ``ranked``, under each shadow policy.
        histories: one per user.
        barred: one per user, (items,) what item rules keep from them.
        activity: thresholds of the activity groups.
        layout: of the vector.
        bucket: (items,) exposure bucket of each item.

    Returns:
        (users, layout.length) float64.
    """
    relevant = held_out(histories, barred, len(bucket))
    asked = relevant.any(axis=1)
    ndcg = ndcg_at(ranked, relevant, NDCG_K) - CENTRE
    said = {"recall": recall_at(ranked, relevant, layout.k) - CENTRE, "ndcg": ndcg, "users": np.ones(len(histories))}
    groups = np.array([activity_group(visible_length(history), activity) for history in histories])
    for group in ACTIVITY:
        said[f"ndcg:{group}"] = np.where(groups == group, ndcg, 0.0)
        said[f"users:{group}"] = np.where(groups == group, 1.0, 0.0)
    out = np.zeros((len(histories), layout.length))
    for place, name in enumerate(SCALARS):
        out[:, place] = said[name] * layout.weight(name)
    for place, listed in enumerate(shadows):
        out[:, len(SCALARS) + place] = (recall_at(listed, relevant, layout.k) - CENTRE) * layout.weight("shadow")
    row, rank = np.nonzero(ranked[:, : layout.k] >= 0)
    shown = out[:, layout.exposures]
    np.add.at(shown, (row, bucket[ranked[row, rank]]), layout.weight("exposure"))
    # Items that share a bucket add up: such a row is longer, and is shortened to the share that exposures have.
    largest = layout.weight("exposure") * math.sqrt(layout.k)
    shown *= np.minimum(1.0, largest / np.maximum(np.linalg.norm(shown, axis=1, keepdims=True), 1e-12))
    out[~asked] = 0.0
    return out


def held_out(histories: Sequence[History], barred: Sequence[Mask], items: int) -> NDArray[np.bool_]:
    """(users, items): what a measurement should find; "not interested" and what is barred are never positives."""
    out = np.zeros((len(histories), items), bool)
    for row, history in enumerate(histories):
        out[row, history.item[history.held_out & (history.kind != NOT_INTERESTED)]] = True
        out[row] &= ~barred[row]
    return out


def visible_length(history: History) -> int:
    """How long a history is for its activity group: positives that are not held out."""
    return int(np.count_nonzero(visible_rows(history)))


def statistics_rows(histories: Sequence[History], bucket: NDArray[np.int64], buckets: int) -> NDArray[np.float64]:
    """Each user's visible positives as a unit vector over buckets, and a one in the bin of their log2 number.

    Weighted as ``shared/recall/report.py`` says: the norm of a row is 1, or 0 for an empty history.

    Returns:
        (users, buckets + HISTORY_BINS) float64.
    """
    out = np.zeros((len(histories), buckets + HISTORY_BINS))
    for row, history in enumerate(histories):
        shown = np.unique(bucket[history.item[visible_rows(history)]])
        if len(shown):
            out[row, shown] = POPULARITY_WEIGHT / math.sqrt(len(shown))
            out[row, buckets + min(visible_length(history).bit_length(), HISTORY_BINS) - 1] = HISTORY_WEIGHT
    return out


def visible_rows(history: History) -> NDArray[np.bool_]:
    """(n,) the positives that are not held out: what everything but a measurement may see."""
    return np.asarray(~history.held_out & (history.kind != NOT_INTERESTED))
