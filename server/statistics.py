"""What the one-off statistics say: how popular each bucket is, and where the activity groups part."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.privacy.plan import PrivacyPlan
from shared.recall.report import ACTIVITY, HISTORY_BINS, HISTORY_WEIGHT, POPULARITY_WEIGHT


@dataclass(frozen=True)
class Statistics:
    """The statistics of a run; post-processing of one noisy sum.

    Attributes:
        popularity: (buckets,) sums of unit vectors, noise included.
        noise: standard deviation of the noise in each.
        activity: visible history lengths at which the middle and the high activity group begin; (0, 0) where the noise
            hides them.
    """

    popularity: NDArray[np.float64]
    noise: float
    activity: tuple[int, int]


def read_statistics(plan: PrivacyPlan, total: NDArray[np.int64], survivors: int) -> Statistics:
    """Statistics from the grid sum of their release.

    Args:
        plan: gives the grid and the noise.
        total: (buckets + HISTORY_BINS,) int64 grid sum, noise included.
        survivors: clients in the sum.
    """
    steps, sigma = plan.statistics.steps, plan.sum_sigma("statistics", survivors)
    popularity, lengths = total[:-HISTORY_BINS], total[-HISTORY_BINS:]
    return Statistics(
        popularity / (POPULARITY_WEIGHT * steps),
        sigma / (POPULARITY_WEIGHT * steps),
        terciles(lengths / (HISTORY_WEIGHT * steps), sigma / (HISTORY_WEIGHT * steps)),
    )


def terciles(bins: NDArray[np.float64], noise: float) -> tuple[int, int]:
    """Thresholds that part users into three groups of about the same size, by the length of their history.

    Args:
        bins: (HISTORY_BINS,) users by log2 of the length, noise included.
        noise: standard deviation of each.

    Returns:
        The lengths at which the middle and the high group begin, interpolated within a bin as if log lengths were even
        there; (0, 0) where a third of all users is less than three deviations of the noise in a sum over half the bins.
    """
    below = np.concatenate([[0.0], np.cumsum(bins)])
    # The nearest rising curves from above and from below, averaged: noise alone never makes users.
    rising = (np.maximum.accumulate(below) + np.minimum.accumulate(below[::-1])[::-1]) / 2.0
    users = rising[-1]
    if users <= 0 or users / len(ACTIVITY) < 3.0 * noise * math.sqrt(HISTORY_BINS / 2.0):
        return 0, 0
    wanted = users * np.arange(1, len(ACTIVITY)) / len(ACTIVITY)
    # A whole length of n is one of [n, n + 1), so bins begin at powers of two. Flat pieces are nudged to rise.
    log2 = np.interp(wanted, rising + np.arange(len(rising)) * 1e-9 * users, np.arange(len(rising), dtype=np.float64))
    low, high = (max(1, round(float(2.0**place))) for place in log2)
    return low, max(low, high)
