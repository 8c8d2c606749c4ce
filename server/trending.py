"""What is trending: which items stand out of a noisy count of what people came to lately."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.privacy.plan import PrivacyPlan

FALSE: Final = 0.1  # of the items listed, in expectation at most, are ones that nobody came to
LONGEST: Final = 100  # items listed


def read_trending(plan: PrivacyPlan, total: NDArray[np.int64], survivors: int) -> tuple[int, ...]:
    """The items that stand out, hottest first; there may be none.

    An item that nobody came to has noise alone, of which the deviation is public; so its sum has a p-value. The bar is
    the one of Benjamini and Hochberg (1995, "Controlling the false discovery rate", Theorem 1) over the whole
    catalogue: the largest sum count r such that the r-th smallest p-value is at most ``FALSE * r / items``. The noise
    of different items is independent, so of those above the bar at most a share of ``FALSE`` is expected to be noise.
    It says nothing of order: two items closer than the noise may stand the wrong way round.

    Args:
        plan: gives the noise.
        total: (items,) int64 grid sum, noise included.
        survivors: clients in the sum.

    Returns:
        At most ``LONGEST`` item indices.

    Formal guarantees: post-processing of one noisy sum and of public numbers; costs no privacy.
    Edge cases: a plan without privacy -> every item that anybody came to.
    """
    sigma = plan.sum_sigma("trending", survivors)
    order = np.argsort(-total, kind="stable")
    if sigma == 0:
        return tuple(int(item) for item in order[:LONGEST] if total[item] > 0)
    deviations = total[order] / (sigma * math.sqrt(2.0))
    chance = np.array([math.erfc(one) / 2.0 for one in deviations])  # that noise alone is as large
    under = np.flatnonzero(chance <= FALSE * np.arange(1, len(order) + 1) / len(order))
    return tuple(int(item) for item in order[: under[-1] + 1 if len(under) else 0][:LONGEST])
