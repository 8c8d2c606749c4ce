"""The recall policy: what the controller may tune between rounds, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal, cast, get_args

from shared.errors import ProtocolError

Similarity = Literal["cosine", "dot", "euclidean"]
GROUPS: Final = ("text", "lexical", "category", "popularity")
BOUNDS: Final[Mapping[str, tuple[float, float]]] = {
    "depth": (1, 1_000_000),
    "local_iterations": (1, 64),
    "exposure_price": (0.0, 10.0),
    "diversity": (0.0, 1.0),
    "exploration": (0.0, 0.5),
    "explore_from": (0, 1_000_000),
    "k": (10, 1000),  # ndcg@10 is measured on the same list
}
WEIGHT_BOUND: Final = 1000.0  # either side of zero
LARGEST_PRICE: Final = 1000  # of a bucket, in hundredths of a logit


@dataclass(frozen=True)
class RecallPolicy:
    """One version of the policy. The score of an item is ``R = S . W``: one similarity a feature group, weighed by W.

    Attributes:
        version: counts up with every change.
        similarity: kind per vector group ("popularity" is one number an item and has none).
        weights: W, per feature group, in logits.
        features: the groups switched on.
        depth: candidates taken over from the first stage for re-ranking.
        local_iterations: training steps a client runs per round.
        exposure_price: logits that the most popular item pays in re-ranking; others pay in proportion to log
            popularity.
        diversity: MMR trade-off (Carbonell and Goldstein 1998): 0 = score only, 1 = unlikeness only.
        exploration: share of the k places filled by chance from the candidates, on average over lists.
        k: length of the list.
        explore_from: items that a user must have seen before places of their list are left to chance; 0 = everybody.
        exposure_prices: hundredths of a logit that the items of each bucket pay in re-ranking; empty = nobody pays.
        frozen: no controller moves it.
    """

    version: int
    similarity: Mapping[str, Similarity]
    weights: Mapping[str, float]
    features: tuple[str, ...]
    depth: int
    local_iterations: int
    exposure_price: float
    diversity: float
    exploration: float
    k: int
    explore_from: int = 0
    exposure_prices: tuple[int, ...] = ()
    frozen: bool = False

    def weight(self, group: str) -> float:
        """W of a group, 0 when it is switched off."""
        return self.weights[group] if group in self.features else 0.0


def policy_to_dict(policy: RecallPolicy) -> dict[str, Any]:
    """Plain JSON types; inverse of :func:`policy_from_dict`."""
    lists = {"features": list(policy.features), "exposure_prices": list(policy.exposure_prices)}
    return {**asdict(policy), **lists}


def policy_from_dict(raw: object) -> RecallPolicy:
    """A policy from JSON, every field checked.

    Raises:
        ProtocolError: names the field, its value and its bound.
    """
    names = {f.name for f in fields(RecallPolicy)}
    if not isinstance(raw, Mapping) or set(raw) != names:
        raise ProtocolError(f"policy: expected exactly the fields {sorted(names)}")
    similarity, weights = raw["similarity"], raw["weights"]
    if not isinstance(similarity, Mapping) or set(similarity) != set(GROUPS) - {"popularity"}:
        raise ProtocolError("policy.similarity: one entry for each of text, lexical, category")
    if any(kind not in get_args(Similarity) for kind in similarity.values()):  # a tuple: looks up what has no hash too
        raise ProtocolError(f"policy.similarity: {dict(similarity)}, each must be one of {get_args(Similarity)}")
    if (
        not isinstance(weights, Mapping)
        or set(weights) != set(GROUPS)
        or not all(_number(w, -WEIGHT_BOUND, WEIGHT_BOUND) for w in weights.values())
    ):
        raise ProtocolError(
            f"policy.weights: one number between -{WEIGHT_BOUND:.0f} and {WEIGHT_BOUND:.0f} for each of {GROUPS}"
        )
    for name, (low, high) in BOUNDS.items():
        if not _number(raw[name], low, high):
            raise ProtocolError(f"policy.{name}: {raw[name]!r}, must lie between {low} and {high}")
    if any(type(raw[name]) is not int for name in ("version", "depth", "local_iterations", "k", "explore_from")):
        raise ProtocolError("policy: version, depth, local_iterations, k and explore_from are whole numbers")
    if type(raw["frozen"]) is not bool:
        raise ProtocolError("policy.frozen: true or false")
    checked = {"features": _features(raw["features"]), "exposure_prices": _prices(raw["exposure_prices"])}
    return RecallPolicy(**cast(dict[str, Any], {**raw, **checked}))


def check_prices(policy: RecallPolicy, buckets: int) -> None:
    """Prices must be those of the model's buckets.

    Raises:
        ProtocolError: prices for another number of buckets.
    """
    if policy.exposure_prices and len(policy.exposure_prices) != buckets:
        raise ProtocolError(
            f"policy.exposure_prices: {len(policy.exposure_prices)} prices, expected none or one for each of {buckets} "
            "buckets"
        )


def _number(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _features(features: object) -> tuple[str, ...]:
    if (
        not isinstance(features, list | tuple)
        or any(group not in GROUPS for group in features)
        or not 0 < len(features) == len(set(features))
    ):
        raise ProtocolError(f"policy.features: {str(features)[:80]}, at least one of {GROUPS}, each once")
    return tuple(features)


def _prices(prices: object) -> tuple[int, ...]:
    if not isinstance(prices, list | tuple) or not all(type(p) is int and 0 <= p <= LARGEST_PRICE for p in prices):
        raise ProtocolError(
            f"policy.exposure_prices: {str(prices)[:80]}, each must be hundredths of a logit, a whole number from 0 to "
            f"{LARGEST_PRICE}"
        )
    return tuple(prices)
