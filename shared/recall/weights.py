"""How a measurement's parts share one sensitivity; public, the same for client, server and auditor.

A report is one vector: recall@k and ndcg@10 in 0..1, a 0/1 for "has held-out items", and k ones over the exposure
buckets. Each part is scaled so that the squared norms of the parts sum to 1: the joint vector has sensitivity 1,
whatever k.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Final

NDCG_K: Final = 10
# Recall carries the controller, so it gets the largest scalar share; the users are known almost exactly anyway.
_SHARES: Final = {"recall": 0.30, "ndcg": 0.20, "users": 0.05, "exposure": 0.45}
MEASUREMENT_WEIGHTS: Final[Mapping[str, float]] = {name: sqrt(_SHARES[name]) for name in ("recall", "ndcg", "users")}


def exposure_weight(k: int) -> float:
    """Scale of one exposure: k of them together have the squared norm of their share.

    Two of a user's k items in one bucket (only when buckets are hashed) can lengthen the vector; it is clipped then.
    """
    return sqrt(_SHARES["exposure"] / k)
