"""First stage of recall: one similarity per feature group, combined as R = S . W."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from shared.policy.recall_policy import RecallPolicy, Similarity

Floats = NDArray[np.float32]
_EPS = 1e-6


def similarity(kind: Similarity, users: Floats, items: Floats) -> Floats:
    """(users, items) similarity of (users, width) and (items, width) vectors.

    cosine: in -1..1, 0 for a zero vector. dot: the inner product. euclidean: minus the squared distance, so that nearer
    is larger, written as ``2 u.v - |v|^2 - |u|^2`` (one matrix product).
    """
    product = users @ items.T
    if kind == "dot":
        return product
    if kind == "euclidean":
        out = 2.0 * product - np.square(items).sum(1)[None] - np.square(users).sum(1)[:, None]
        return np.asarray(out, np.float32)
    lengths = np.sqrt(np.vecdot(users, users))[:, None] * np.sqrt(np.vecdot(items, items))[None]
    return np.asarray(product / (lengths + _EPS), np.float32)


def group_scores(
    policy: RecallPolicy, users: Mapping[str, Floats], items: Mapping[str, Floats], popularity: Floats
) -> dict[str, Floats]:
    """The weighted parts of R, one (users, items) array for each feature group that counts; for explanations too.

    A group counts when it is switched on, its weight is not 0 and its vectors have a width.

    Args:
        policy: weights and similarity kinds.
        users: group -> (users, width).
        items: group -> (items, width).
        popularity: (items,) log private popularity plus the learned bias.
    """
    count = len(next(iter(users.values())))
    parts: dict[str, Floats] = {}
    for group in policy.features:
        weight = np.float32(policy.weight(group))
        if weight == 0:
            continue
        if group == "popularity":
            parts[group] = np.broadcast_to(weight * popularity, (count, len(popularity)))
        elif items[group].shape[1]:
            parts[group] = weight * similarity(policy.similarity[group], users[group], items[group])
    return parts


def scores(
    policy: RecallPolicy, users: Mapping[str, Floats], items: Mapping[str, Floats], popularity: Floats
) -> Floats:
    """R = S . W, (users, items) float32; arguments as :func:`group_scores`."""
    total = np.zeros((len(next(iter(users.values()))), len(popularity)), np.float32)
    for part in group_scores(policy, users, items, popularity).values():
        total += part
    return total
