"""Second stage of recall: candidates, exposure prices, diversity, exploration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared.policy.recall_policy import RecallPolicy, check_prices

Floats = NDArray[np.float32]
NOTHING = np.float32(-np.inf)


def recommend(
    policy: RecallPolicy,
    scores: Floats,
    excluded: NDArray[np.bool_],
    seen: NDArray[np.int64],
    price: Floats,
    vectors: Floats,
    rngs: Sequence[np.random.Generator],
) -> NDArray[np.int64]:
    """The list of each user.

    Args:
        policy: depth, diversity, exploration, who explores, and k.
        scores: (users, items) R; what is not finite is not shown.
        excluded: (users, items) never to be shown (seen, not interested, barred).
        seen: (users,) distinct items of each history, barred or not; who has enough of them explores.
        price: (items,) logits that an item pays (:func:`item_prices`).
        vectors: (items, width) unit rows, what "alike" means for diversity.
        rngs: one per user, chance for exploration; untouched when the exploration share is 0.

    Returns:
        (users, k) item indices, best first; -1 where a user has fewer than k items left.
    """
    depth = min(max(policy.depth, policy.k), scores.shape[1])
    masked = np.where(excluded | ~np.isfinite(scores), NOTHING, scores)
    candidates = _top(masked, depth)
    value = np.take_along_axis(masked, candidates, axis=1) - price[candidates]
    k = min(policy.k, depth)
    if policy.diversity > 0:
        order = _diverse(value, vectors[candidates], k, policy.diversity)
    else:
        order = np.argsort(-value, axis=1, kind="stable")[:, :k]
    chosen = np.take_along_axis(candidates, order, axis=1)
    left = np.isfinite(value).sum(axis=1, keepdims=True)  # whatever cannot be shown comes last
    chosen = np.where(np.arange(k) < left, chosen, -1)
    if policy.exploration > 0:
        cheap = np.where(np.isfinite(value), price[candidates], np.inf)
        shares = np.where(seen >= policy.explore_from, policy.exploration, 0.0)
        chosen = _explore(chosen, candidates, cheap, shares, rngs)
    return _widen(chosen, policy.k)


def item_prices(policy: RecallPolicy, prior: Floats, bucket: NDArray[np.int64]) -> Floats:
    """What each item pays in re-ranking: a share of the policy's one price by popularity, plus its bucket's own price.

    Args:
        policy: ``exposure_price`` and ``exposure_prices``.
        prior: (buckets,) log private popularity.
        bucket: (items,) row of each item.

    Returns:
        (items,) float32 logits, 0 or more.

    Raises:
        ProtocolError: prices for another number of buckets.
    """
    check_prices(policy, len(prior))
    paid = np.float32(policy.exposure_price) * popularity_price(prior[bucket])
    if policy.exposure_prices:
        paid = paid + np.array(policy.exposure_prices, np.float32)[bucket] / np.float32(100.0)
    return np.asarray(paid, np.float32)


def popularity_price(prior: Floats) -> Floats:
    """Log popularity scaled to 0..1: the share of the exposure price each item pays; zeros when all are alike."""
    wide = np.asarray(prior, np.float64)  # in float32 the span of two large numbers is infinite
    span = float(np.ptp(wide)) if len(wide) else 0.0
    if span <= 0:
        return np.zeros_like(prior)
    return np.asarray((wide - wide.min()) / span, np.float32)


def _top(scores: Floats, depth: int) -> NDArray[np.int64]:
    """The ``depth`` best of each row in order; ties by lower index."""
    if depth >= scores.shape[1]:
        return np.argsort(-scores, axis=1, kind="stable")
    least = -np.partition(-scores, depth - 1, axis=1)[:, depth - 1]
    out = np.empty((len(scores), depth), np.int64)
    for row, own in enumerate(scores):
        good = np.flatnonzero(own >= least[row])  # all that tie with the last
        out[row] = good[np.argsort(-own[good], kind="stable")[:depth]]
    return out


def _diverse(value: Floats, vectors: Floats, k: int, trade: float) -> NDArray[np.int64]:
    """Maximal marginal relevance: greedily the best of ``(1 - trade) * value - trade * likeness to what is chosen``.

    Values are brought to 0..1 per user first, so that the trade-off means the same for every score scale. What cannot
    be shown comes after everything else.
    """
    shown = np.isfinite(value)
    low = value.min(axis=1, keepdims=True, where=shown, initial=np.inf)
    span = value.max(axis=1, keepdims=True, where=shown, initial=-np.inf) - low
    relevance = np.divide(value - low, span, out=np.zeros_like(value), where=shown & (span > 0))
    rows = np.arange(len(value))
    likeness = np.zeros_like(relevance)
    rank = np.where(shown, 0.0, -np.inf)  # -inf: cannot be shown, or is taken
    order = np.zeros((len(value), k), np.int64)
    for place in range(k):
        best = ((1.0 - trade) * relevance - trade * likeness + rank).argmax(axis=1)
        order[:, place] = best
        rank[rows, best] = -np.inf
        likeness = np.maximum(likeness, np.einsum("udw,uw->ud", vectors, vectors[rows, best]))
    return order


def _explore(
    chosen: NDArray[np.int64],
    candidates: NDArray[np.int64],
    price: Floats,
    shares: NDArray[np.float64],
    rngs: Sequence[np.random.Generator],
) -> NDArray[np.int64]:
    """Fill the last places by chance, from the cheaper half of the candidates that do not stand in the places before.

    Whoever pays much is shown a lot already; the dearer half is taken when the cheaper one runs out. Who pays the same
    as the one in the middle is in the cheaper half: without prices all are. The share holds on average: what is left of
    a whole number of places is one more place, by chance.

    Args:
        chosen: (users, k) item indices, -1 where nothing is left.
        candidates: (users, depth) item indices.
        price: (users, depth) what each candidate pays, inf for one that cannot be shown.
        shares: (users,) of the places.
        rngs: one per user.
    """
    k, out = chosen.shape[1], chosen.copy()
    for row, rng in enumerate(rngs):
        places = int(shares[row] * k + rng.random())
        if places == 0:
            continue
        kept = chosen[row, : k - places]
        free = rng.permutation(np.flatnonzero(np.isfinite(price[row]) & ~np.isin(candidates[row], kept)))
        dear = price[row][free] > np.median(price[row][free]) if len(free) else np.zeros(0, bool)
        picked = free[np.argsort(dear, kind="stable")][:places]
        out[row, k - places :] = -1
        out[row, k - places : k - places + len(picked)] = candidates[row][picked]
    return out


def _widen(chosen: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    missing = k - chosen.shape[1]
    return np.pad(chosen, ((0, 0), (0, missing)), constant_values=-1) if missing > 0 else chosen
