"""Controller ``dual``: recall under two constraints, by dual ascent on noisy exposures.

Maximise recall such that lists reach the target share of the catalogue and no bucket takes more than a cap of all
places. Each bucket's constraint has a price (its dual variable) that its items pay in re-ranking on the device: it
rises with what exceeds the cap and falls, not below zero, when the constraint no longer binds. This is the dual step of
P-MMF (Xu, Chen, Xu, Shen, Zhang, Wang and Dong, WWW 2023) with reports in place of arriving users, and the marginal
penalty by which online Frank-Wolfe re-ranks for fairness of exposure (Usunier, Do and Dohmatob, FAccT 2022). What
prices cannot do is bring in items that nobody scores high: that is what chance places and depth are for
(``coverage.py``), which answer the constraint on coverage in the same step.

Exposures come under noise, so a bucket counts as above its cap only by what exceeds ``SURE`` standard deviations: of
ten thousand buckets that are not, less than one is priced by chance. While nobody would notice what prices cost, they
stay below ``UNSEEN_LIMIT``, which is small against the spread of scores.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from shared.policy.coverage import reached, widen
from shared.policy.memory import Memory, Step, Turn, moved, notices, objective
from shared.policy.recall_policy import RecallPolicy
from shared.policy.sight import Sight, Targets, text_of
from shared.policy.steering import steer

CAP: Final = 10.0  # times the fair share of a bucket
SURE: Final = 4.0  # standard deviations of the noise
PRICE_STEP: Final = 10  # hundredths of a logit
PRICE_LIMIT: Final = 300
UNSEEN_LIMIT: Final = 25


def step(policy: RecallPolicy, memory: Memory, sight: Sight, targets: Targets) -> Step:
    """Decide after a measured round that passed the guard; arguments as :func:`shared.policy.steering.steer`."""
    taken = steer(policy, memory, sight, targets, _ascend)
    covered, now, turn = reached(policy, sight, targets), objective(sight, targets), _descend(policy)
    if taken.decision != "hold" or covered is None or now is None or turn is None:
        return taken
    if not covered.value - covered.half_width > targets.coverage:
        return taken
    why = f"coverage {text_of(covered)} is above the target {targets.coverage:.3f}"
    return moved(policy, memory, now, turn, why)


def _ascend(policy: RecallPolicy, memory: Memory, sight: Sight, targets: Targets) -> Turn | None:
    """One step of all dual variables: prices of buckets above their cap, chance places for the coverage."""
    wider, priced = widen(policy, memory, sight, targets), _dearer(policy, sight)
    if priced is None or "exposure prices" in memory.resting:
        return wider
    if wider is None:
        return priced
    both = replace(wider.policy, exposure_prices=priced.policy.exposure_prices)
    # If it has to be taken back, prices are to blame: what the other costs is bounded.
    return Turn(priced.knob, both, f"{wider.what}, {priced.what}")


def _dearer(policy: RecallPolicy, sight: Sight) -> Turn | None:
    """Prices up where exposures surely exceed the cap; in proportion to the excess, one step at most."""
    if sight.exposures is None or sight.recall is None or sight.lists <= 0:
        return None
    cap = CAP * sight.lists / len(sight.exposures)
    limit = PRICE_LIMIT if notices(sight.recall) else UNSEEN_LIMIT
    old = policy.exposure_prices or (0,) * len(sight.exposures)
    new = tuple(
        max(price, min(limit, price + math.ceil(PRICE_STEP * min(1.0, max(0.0, _excess(count, cap, sight))))))
        for price, count in zip(old, sight.exposures, strict=True)
    )
    dearer = sum(price > before for price, before in zip(new, old, strict=True))
    if not dearer:
        return None
    what = f"{dearer} of {len(new)} buckets pay more, at most {max(new) / 100:.2f}"
    return Turn("exposure prices", replace(policy, exposure_prices=new), what)


def _excess(count: int, cap: float, sight: Sight) -> float:
    """What surely exceeds the cap, per cap."""
    return (count - SURE * sight.exposure_sigma - cap) / cap


def _descend(policy: RecallPolicy) -> Turn | None:
    """Prices down by one step: a constraint that does not bind costs nothing."""
    if not any(policy.exposure_prices):
        return None
    lower = tuple(max(0, price - PRICE_STEP) for price in policy.exposure_prices)
    prices = lower if any(lower) else ()
    what = f"prices of {sum(price > 0 for price in policy.exposure_prices)} buckets fall"
    return Turn("exposure prices", replace(policy, exposure_prices=prices), what, bounded=True)
