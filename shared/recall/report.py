"""How a report's parts share one sensitivity; public, the same for client, server and auditor.

One measurement is one vector; in its order:

- recall@k, ndcg@10, and a one for "has held-out items";
- per activity group (low, middle, high): ndcg@10 and a one, both zero for everybody else's group;
- recall@k under each shadow policy;
- k ones over the exposure buckets.

Each part is scaled so that the squared norms of the parts sum to at most 1: the joint vector has sensitivity 1 under
zero-out, whatever k and however many shadows. Numbers in 0..1 are sent less a half: in -1/2..1/2 they are half as long,
so that they can be scaled up to twice the size, and the half is added back to their mean. Under trust central a share
is set aside for the number of distinct buckets shown, which the server adds to the sum as one more coordinate before
its noise: one user changes it by at most k, all other coordinates together by at most the rest.

The one-off statistics are a second vector: popularity over buckets and a one in the user's bin of log2 history length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Final

from shared.privacy.plan import PrivacyPlan

NDCG_K: Final = 10
ACTIVITY: Final = ("low", "middle", "high")
SCALARS: Final = ("recall", "ndcg", "users", *(f"{what}:{group}" for group in ACTIVITY for what in ("ndcg", "users")))
CENTRE: Final = 0.5  # taken off recall and ndcg
LARGEST_SHADOWS: Final = 8
USEFUL: Final = 5  # times m: users below which exposures cannot be told
HISTORY_BINS: Final = 16  # bin b: visible lengths 2^b to 2^(b+1) - 1, the last one open; who has none is in none

# Of the squared norm. Exposures need most: k of them share it.
_SHARES: Final[Mapping[str, float]] = {
    "recall": 0.16,
    "ndcg": 0.05,
    "users": 0.08,
    "group ndcg": 0.07,
    "group users": 0.06,
    "exposure": 0.58,
}
_SHADOW_SHARE: Final = 0.2  # taken evenly off all others, when there are shadows
_DISTINCT_SHARE: Final = 0.2  # likewise, under trust central
_POPULARITY_SHARE: Final = 0.9  # of the statistics' squared norm; the rest is the history length's

POPULARITY_WEIGHT: Final = sqrt(_POPULARITY_SHARE)
HISTORY_WEIGHT: Final = sqrt(1.0 - _POPULARITY_SHARE)


@dataclass(frozen=True)
class ReportLayout:
    """Where everything stands in a measurement, and how it is weighed.

    Attributes:
        k: length of the lists.
        buckets: of exposures.
        shadows: shadow policies scored beside the one in force; fixed for a run.
        central: whether the plan's trust is central, so that the server adds distinct buckets to the sum.
    """

    k: int
    buckets: int
    shadows: int = 0
    central: bool = False

    @property
    def exposures(self) -> slice:
        """The exposure buckets' coordinates."""
        start = len(SCALARS) + self.shadows
        return slice(start, start + self.buckets)

    @property
    def shadowed(self) -> slice:
        """The shadows' coordinates."""
        return slice(len(SCALARS), len(SCALARS) + self.shadows)

    @property
    def length(self) -> int:
        """Of the vector that a client sends."""
        return len(SCALARS) + self.shadows + self.buckets

    def weight(self, part: str) -> float:
        """What a one (less ``CENTRE`` for recall and ndcg) counts in the vector.

        Args:
            part: one of ``SCALARS``, or "shadow", "exposure", "distinct".
        """
        shadow = _SHADOW_SHARE if self.shadows else 0.0
        distinct = _DISTINCT_SHARE if self.central else 0.0
        if part == "shadow":
            return sqrt(shadow / max(1, self.shadows)) / CENTRE
        if part == "distinct":
            return sqrt(distinct) / self.k
        what, _, group = part.partition(":")
        share = (1.0 - shadow - distinct) * _SHARES[f"group {what}" if group else what]
        if part == "exposure":
            return sqrt(share / self.k)
        return sqrt(share) / (1.0 if what == "users" else CENTRE)


def activity_group(length: int, activity: tuple[int, int]) -> str:
    """The group of a visible history length: below the first threshold, below the second, or not.

    Where thresholds are unknown, (0, 0), everybody is in "high", and nobody is told anything of groups.
    """
    return ACTIVITY[(length >= activity[0]) + (length >= activity[1])]


def smallest_exposure(plan: PrivacyPlan, layout: ReportLayout) -> int:
    """Exposures that effective coverage asks for, m: what stands out of the noise, one standard deviation of it.

    From the plan alone, for its smallest cohort, so that it is the same number in every round of a run.
    """
    sigma = plan.sum_sigma("measurement", max(1, plan.smallest_cohort)) / plan.measurement.steps
    return max(1, ceil(sigma / layout.weight("exposure")))


def useful_users(plan: PrivacyPlan, layout: ReportLayout) -> int:
    """Users in a report below which exposures drown in noise.

    No item is in more lists than there are users, so with fewer than ``USEFUL * m`` of them even an item in every
    fifth list hides in the noise, and the histogram of exposures is a guess. From the plan alone.
    """
    return USEFUL * smallest_exposure(plan, layout)
