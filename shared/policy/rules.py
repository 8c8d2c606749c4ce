"""Controller ``rules``: the source text's dynamic recall, with step limits, a rollback guard and reasons.

Recall low -> bring features in, then reweigh towards the learned group. Coverage low, and recall well or nothing left
to try for it -> more candidate depth and chance places (``coverage.py``), then an exposure price, deeper candidates and
more local iterations. It moves only when what it sees differs from the target by more than the error bar, one knob at a
time. Knobs of which nobody knows beforehand what they cost are turned only while the guard would notice a loss; a
feature group may come in all the same, for that is what low recall asks for.
Pure: an auditor replays every decision from the ledger.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from shared.policy.coverage import deepest, widen
from shared.policy.memory import Memory, Step, Turn, notices
from shared.policy.recall_policy import RecallPolicy
from shared.policy.sight import Sight, Targets
from shared.policy.steering import steer

DEPTH_STEP: Final = 1.5
PRICE_STEP: Final = 0.5
PRICE_LIMIT: Final = 3.0
ITERATIONS_LIMIT: Final = 2


def step(policy: RecallPolicy, memory: Memory, sight: Sight, targets: Targets) -> Step:
    """Decide after a measured round that passed the guard; arguments as :func:`shared.policy.steering.steer`."""
    return steer(policy, memory, sight, targets, _for_coverage)


def _for_coverage(policy: RecallPolicy, memory: Memory, sight: Sight, targets: Targets) -> Turn | None:
    turn = widen(policy, memory, sight, targets)
    if turn is not None or sight.recall is None or not notices(sight.recall):
        return turn
    if policy.exposure_price < PRICE_LIMIT and "exposure price" not in memory.resting:
        price = min(PRICE_LIMIT, policy.exposure_price + PRICE_STEP)
        what = f"exposure price {policy.exposure_price:.2f} -> {price:.2f}"
        return Turn("exposure price", replace(policy, exposure_price=price), what)
    bottom = deepest(memory.first, targets)
    if policy.depth < bottom and "depth" not in memory.resting:
        new = min(bottom, math.ceil(policy.depth * DEPTH_STEP))
        return Turn("depth", replace(policy, depth=new), f"candidate depth {policy.depth} -> {new}")
    more = policy.local_iterations < ITERATIONS_LIMIT and not targets.iterations_fixed
    if more and "local iterations" not in memory.resting:
        new = policy.local_iterations + 1
        return Turn("local iterations", replace(policy, local_iterations=new), f"local iterations {new - 1} -> {new}")
    return None
