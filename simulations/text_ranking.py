"""What text vectors are worth on their own: people are recommended what reads like what they have; no training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from shared.encoder.spec import Floats
from shared.history import NOT_INTERESTED, History
from shared.recall.metrics import RankingSums

K, NDCG_K = 20, 10
_CHUNK: Final = 256  # people ranked at a time


def text_ranking(vectors: Floats, histories: Sequence[History], temperature: float = 0.05) -> dict[str, float]:
    """Text alone: what is near to the mean of what a person has, everything visible left out.

    Args:
        vectors: (items, width) unit rows.
        histories: people; those without anything visible or held out do not count.
        temperature: of the softmax.

    Returns:
        loss (softmax over the catalogue without what is visible, mean over a person's held-out items, then over
        people), recall@20, ndcg@10, and how many people count.
    """
    asked = [h for h in histories if (~h.held_out).any() and (h.held_out & (h.kind != NOT_INTERESTED)).any()]
    sums, loss = RankingSums.empty(len(vectors), recall_k=K, ndcg_k=NDCG_K), 0.0
    for start in range(0, len(asked), _CHUNK):
        part = asked[start : start + _CHUNK]
        profiles = np.stack([vectors[h.item[~h.held_out]].mean(axis=0) for h in part])
        profiles /= np.maximum(np.linalg.norm(profiles, axis=1, keepdims=True), 1e-6)
        scores = np.asarray(profiles @ vectors.T, np.float64)
        wanted = np.zeros(scores.shape, bool)
        for row, history in enumerate(part):
            scores[row, history.item[~history.held_out]] = -np.inf
            wanted[row, history.item[history.held_out & (history.kind != NOT_INTERESTED)]] = True
        logits = scores / temperature
        logits -= np.log(np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True)) + logits.max(
            axis=1, keepdims=True
        )
        loss -= float((logits.mean(axis=1, where=wanted)).sum())
        ranked = np.argsort(-scores, axis=1, kind="stable")[:, :K]
        sums = sums.merge(RankingSums.of(ranked, wanted, recall_k=K, ndcg_k=NDCG_K))
    found = sums.reduce()
    return {
        "loss": loss / max(len(asked), 1),
        f"ndcg@{NDCG_K}": float(found[f"ndcg@{NDCG_K}"]),
        f"recall@{K}": float(found[f"recall@{K}"]),
        "people": len(asked),
    }
