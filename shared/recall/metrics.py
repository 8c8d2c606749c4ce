"""Ranking metrics in plain numpy: per user, over the catalogue, and as sums that merge.

Definitions, the same on a device, in a simulation and in a report:

- recall@k = |top k and relevant| / |relevant|, over users with a relevant item;
- ndcg@k: gain 1, discount 1 / log2(rank + 1), ideal over min(k, |relevant|) (Jarvelin and Kekalainen 2002);
- coverage@k = distinct items recommended / catalogue; effective coverage asks for at least m exposures;
- Gini index and head share over the *whole* catalogue, items that nobody was shown included
  (Gunawardana and Shani, Recommender Systems Handbook 2015, section 8.3.4);
- novelty = mean self-information of a shown item, intra-list diversity = 1 - mean pairwise similarity
  (Castells, Hurley and Vargas, Recommender Systems Handbook 2015, section 26.3).

``RankingSums`` holds sums only, so that the federated result (each client sums, the server adds) is the central one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.errors import DataError

RECALL_K = 20
NDCG_K = 10
HEAD_FRACTION = 0.1
POPULAR_FRACTION = 0.2
NO_ITEM = -1
_BLOCK_CELLS = 4_000_000  # rows of a block x items: keeps the temporaries of top_k near 100 MB at any number of users

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]
BoolArray = NDArray[np.bool_]


def top_k(scores: FloatArray | IntArray, seen: BoolArray | None, k: int) -> NDArray[np.int32]:
    """The k best unseen items of every user, best first; equal scores rank the lower item index first.

    Args:
        scores: (users, n_items), higher is better; -inf marks an item that must not be recommended.
        seen: (users, n_items) bool, items that are never recommended to that user; None for none.
        k: list length, at least 1.

    Returns:
        (users, k) int32 item indices; ``NO_ITEM`` (-1) fills the slots of a user with fewer than k candidates.

    Raises:
        DataError: scores hold NaN, the shapes differ, or k is below 1.
    """
    if k < 1:
        raise DataError(f"k is {k}; a list holds at least 1 item")
    if seen is not None and seen.shape != scores.shape:
        raise DataError(f"the mask of seen items is {seen.shape}, the scores are {scores.shape}; they must be equal")
    users, n_items = scores.shape
    ranked = np.full((users, k), NO_ITEM, dtype=np.int32)
    rows = max(1, _BLOCK_CELLS // max(1, n_items))
    for start in range(0, users if n_items else 0, rows):
        block = slice(start, start + rows)
        ranked[block, : min(k, n_items)] = _top_k_block(
            scores[block], None if seen is None else seen[block], min(k, n_items)
        )
    return ranked


def _top_k_block(scores: FloatArray | IntArray, seen: BoolArray | None, k: int) -> NDArray[np.int32]:
    """``top_k`` for a block of users and k <= n_items.

    Plain argpartition picks among items equal to the k-th score at random. So: find the k-th score by partition, take
    everything better, then the lowest indices among the equal ones. ``nonzero`` walks rows left to right, hence exactly
    k ascending indices a row, and a stable sort by score leaves ties in that order.
    """
    # ascending from here on: the best item has the lowest cost; whole numbers (counts) turn into floats to hold inf
    cost = np.negative(scores, dtype=np.result_type(scores, np.float32))
    if np.isnan(cost).any():
        raise DataError("scores hold NaN; every score must be a number or -inf")
    if seen is not None:
        cost[seen] = np.inf
    kth = np.partition(cost, k - 1, axis=1)[:, k - 1 : k]
    chosen = cost <= kth
    crowded = np.flatnonzero(chosen.sum(axis=1) > k)  # users with ties across the boundary
    if crowded.size:
        better = cost[crowded] < kth[crowded]
        equal = chosen[crowded] & ~better
        room = k - better.sum(axis=1, keepdims=True)
        chosen[crowded] = better | (equal & (np.cumsum(equal, axis=1, dtype=np.int32) <= room))
    items = np.nonzero(chosen)[1].reshape(len(cost), k)
    costs = np.take_along_axis(cost, items, axis=1)
    items[costs == np.inf] = NO_ITEM  # seen or banned: chosen only because nothing else was left
    order = np.argsort(costs, axis=1, kind="stable")
    return np.take_along_axis(items, order, axis=1).astype(np.int32)


def hits(ranked: IntArray, relevant: BoolArray) -> BoolArray:
    """Which slots hold a relevant item.

    Args:
        ranked: (users, k) item indices, ``NO_ITEM`` for an empty slot.
        relevant: (users, n_items) bool.

    Returns:
        (users, k) bool.

    Raises:
        DataError: the number of users differs, or an item index is outside the catalogue.
    """
    if len(ranked) != len(relevant):
        raise DataError(f"{len(ranked)} ranked lists for {len(relevant)} users; give one list a user")
    if ranked.size and not NO_ITEM <= ranked.min() <= ranked.max() < relevant.shape[1]:
        raise DataError(
            f"item indices run from {ranked.min()} to {ranked.max()}; the catalogue has 0 to {relevant.shape[1] - 1}"
        )
    # an empty slot (-1) reads the last item, and the second factor takes it back
    found: BoolArray = np.take_along_axis(relevant, ranked, axis=1) & (ranked != NO_ITEM)
    return found


def recall_at(ranked: IntArray, relevant: BoolArray, k: int) -> NDArray[np.float64]:
    """recall@k of every user, shape (users,), in [0, 1].

    Args:
        ranked: (users, at least k) item indices, best first.
        relevant: (users, n_items) bool.
        k: how many slots count.

    Returns:
        (users,) float64; 0 for a user without a relevant item, whom a mean must leave out (``RankingSums`` does).

    Raises:
        DataError: as ``hits``, or the lists are shorter than k.
    """
    found = hits(_first(ranked, k), relevant).sum(axis=1)
    result: NDArray[np.float64] = found / np.maximum(relevant.sum(axis=1), 1)
    return result


def ndcg_at(ranked: IntArray, relevant: BoolArray, k: int) -> NDArray[np.float64]:
    """ndcg@k of every user with binary gains, shape (users,), in [0, 1].

    Args:
        ranked: (users, at least k) item indices, best first.
        relevant: (users, n_items) bool.
        k: how many slots count.

    Returns:
        (users,) float64; 0 for a user without a relevant item, whom a mean must leave out (``RankingSums`` does).

    Raises:
        DataError: as ``hits``, or the lists are shorter than k.
    """
    discount = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.cumsum(discount)[np.clip(relevant.sum(axis=1), 1, k) - 1]
    result: NDArray[np.float64] = hits(_first(ranked, k), relevant) @ discount / ideal
    return result


def _first(ranked: IntArray, k: int) -> IntArray:
    if not 1 <= k <= ranked.shape[1]:
        raise DataError(f"a metric at k = {k} needs 1 <= k <= {ranked.shape[1]}, the length of the ranked lists")
    return ranked[:, :k]


def exposure(ranked: IntArray, n_items: int) -> NDArray[np.int64]:
    """How often each item was shown: (n_items,) int64, summing to the number of filled slots."""
    counts: NDArray[np.int64] = np.bincount(ranked[ranked != NO_ITEM].ravel(), minlength=n_items).astype(np.int64)
    return counts


def coverage(exposures: IntArray) -> float:
    """Share of the catalogue shown to anybody, in [0, 1]; exposures is the (n_items,) histogram."""
    return effective_coverage(exposures, 1)


def effective_coverage(exposures: IntArray, m: float) -> float:
    """Share of the catalogue shown at least m times, in [0, 1]; exposures is the (n_items,) histogram."""
    return float(np.mean(exposures >= m)) if exposures.size else 0.0


def gini(exposures: NDArray[np.number]) -> float:
    """Gini index of the exposure over the whole catalogue: 0 = all equal, near 1 = one item takes all.

    Args:
        exposures: (n_items,) non-negative counts, never-shown items included as zeros.

    Returns:
        The index; 0 when nothing was shown at all (all are equal then).
    """
    total = float(exposures.sum())
    if total <= 0.0:
        return 0.0
    n_items = len(exposures)
    ranks = 2.0 * np.arange(1, n_items + 1) - n_items - 1
    return float(ranks @ np.sort(exposures) / (n_items * total))


def head_share(exposures: NDArray[np.number], fraction: float = HEAD_FRACTION) -> float:
    """Share of all exposure that the ``fraction`` most exposed items take (at least one item), in [0, 1]."""
    total = float(exposures.sum())
    if total <= 0.0:
        return 0.0
    head = max(1, int(fraction * len(exposures)))
    return float(np.sort(exposures)[-head:].sum() / total)


def tail_share(exposures: IntArray, popularity: IntArray | FloatArray, fraction: float = POPULAR_FRACTION) -> float:
    """Share of all exposure outside the ``fraction`` most popular items, in [0, 1].

    Args:
        exposures: (n_items,) how often each item was shown.
        popularity: (n_items,) training interactions an item; equal popularity counts the lower index as more popular.
        fraction: the share of the catalogue that is called popular.

    Returns:
        The share; 0 when nothing was shown.
    """
    total = float(exposures.sum())
    if total <= 0.0:
        return 0.0
    popular = np.argsort(-popularity, kind="stable")[: int(fraction * len(popularity))]
    return float(1.0 - exposures[popular].sum() / total)


def novelty(exposures: IntArray, popularity: IntArray, users: int) -> float:
    """Mean self-information of a shown item in bits: -log2(popularity / users), averaged over the filled slots.

    Args:
        exposures: (n_items,) how often each item was shown.
        popularity: (n_items,) number of users with the item in training; an item nobody has counts as one user's.
        users: number of users in training, at least 1.

    Returns:
        Bits, at least 0; 0 when nothing was shown.
    """
    total = float(exposures.sum())
    if total <= 0.0:
        return 0.0
    bits = -np.log2(np.maximum(popularity, 1) / users)
    return float(exposures @ bits / total)


def ild(ranked: IntArray, vectors: FloatArray) -> NDArray[np.float64]:
    """Intra-list diversity of every user's list: 1 - mean cosine similarity over its pairs of different slots.

    Uses sum_{a != b} <v_a, v_b> = |sum_a v_a|^2 - sum_a |v_a|^2, so that no pair is visited.

    Args:
        ranked: (users, k) item indices, ``NO_ITEM`` for an empty slot.
        vectors: (n_items, d) unit-norm rows; an all-zero row has similarity 0 to everything.

    Returns:
        (users,) float64; 0 for a list with fewer than two items (nothing differs).
    """
    filled = ranked != NO_ITEM
    shown = vectors[ranked] * filled[:, :, None]
    pairs = _pairs(filled)
    similarity = np.square(shown.sum(axis=1)).sum(axis=1) - np.square(shown).sum(axis=(1, 2))
    result: NDArray[np.float64] = np.where(pairs > 0, 1.0 - similarity / np.maximum(pairs, 1), 0.0)
    return result


def _pairs(filled: BoolArray) -> NDArray[np.int64]:
    length = filled.sum(axis=1)
    ordered: NDArray[np.int64] = length * (length - 1)
    return ordered


@dataclass(frozen=True)
class RankingSums:
    """Sums over users from which every catalogue-level metric follows; two of them merge by addition.

    Attributes:
        sum_recall: sum of recall@recall_k over the users with a relevant item.
        sum_ndcg: sum of ndcg@ndcg_k over the same users.
        users: number of users with a relevant item.
        exposure: (n_items,) int64, how often each item stood in those users' first recall_k slots.
        recall_k: list length of recall and exposure.
        ndcg_k: list length of ndcg.
    """

    sum_recall: float
    sum_ndcg: float
    users: int
    exposure: NDArray[np.int64]
    recall_k: int = RECALL_K
    ndcg_k: int = NDCG_K

    @classmethod
    def empty(cls, n_items: int, *, recall_k: int = RECALL_K, ndcg_k: int = NDCG_K) -> RankingSums:
        """The neutral element of ``merge``."""
        return cls(0.0, 0.0, 0, np.zeros(n_items, dtype=np.int64), recall_k, ndcg_k)

    @classmethod
    def of(
        cls, ranked: IntArray, relevant: BoolArray, *, recall_k: int = RECALL_K, ndcg_k: int = NDCG_K
    ) -> RankingSums:
        """The sums of a batch of users.

        Args:
            ranked: (users, at least max(recall_k, ndcg_k)) item indices, best first.
            relevant: (users, n_items) bool; users without a relevant item are left out of everything.
            recall_k: list length of recall and exposure.
            ndcg_k: list length of ndcg.

        Raises:
            DataError: as ``recall_at``.
        """
        asked = relevant.any(axis=1)
        ranked, relevant = ranked[asked], relevant[asked]
        return cls(
            sum_recall=float(recall_at(ranked, relevant, recall_k).sum()),
            sum_ndcg=float(ndcg_at(ranked, relevant, ndcg_k).sum()),
            users=int(asked.sum()),
            exposure=exposure(ranked[:, :recall_k], relevant.shape[1]),
            recall_k=recall_k,
            ndcg_k=ndcg_k,
        )

    def merge(self, other: RankingSums) -> RankingSums:
        """The sums of both groups of users.

        Raises:
            DataError: the two were measured at another k or on another catalogue.
        """
        mine = (self.recall_k, self.ndcg_k, len(self.exposure))
        theirs = (other.recall_k, other.ndcg_k, len(other.exposure))
        if mine != theirs:
            raise DataError(f"sums over (recall k, ndcg k, items) {mine} and {theirs} do not merge; they must be equal")
        return RankingSums(
            self.sum_recall + other.sum_recall,
            self.sum_ndcg + other.sum_ndcg,
            self.users + other.users,
            self.exposure + other.exposure,
            self.recall_k,
            self.ndcg_k,
        )

    def reduce(self) -> dict[str, float]:
        """recall, ndcg, coverage, gini and head_share under names like ``recall@20``; all 0 without users."""
        users = max(self.users, 1)
        return {
            f"recall@{self.recall_k}": self.sum_recall / users,
            f"ndcg@{self.ndcg_k}": self.sum_ndcg / users,
            f"coverage@{self.recall_k}": coverage(self.exposure),
            f"gini@{self.recall_k}": gini(self.exposure),
            f"head_share@{self.recall_k}": head_share(self.exposure),
        }
