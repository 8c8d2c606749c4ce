"""Controller ``shadow``: neighbouring policies are scored on the device, in the same report as the policy in force.

A device ranks its list under the policy in force and under some neighbours, and reports the differences in recall.
Comparing within a user leaves only the noise of privacy, which is known. Neighbours race by successive elimination
(Even-Dar, Mannor and Mansour, JMLR 2006): after ``t`` reports the mean difference of each lies within

    ``sd / t * sqrt(2 ln(pi^2 n t^2 / (3 DOUBT)))``

of the truth, for all ``n`` neighbours and all ``t`` at once with probability ``1 - DOUBT`` (a union bound over Gaussian
tails; ``sd^2`` is the sum of the reports' noise variances). Who surely loses is out; who surely wins over the policy in
force is adopted, and the race begins anew. A neighbour that widens coverage may surely cost up to the tolerated loss
while coverage is below its target. Chance places and depth need no race: what they cost is bounded (``coverage.py``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from shared.policy.coverage import is_narrow, reached, widen
from shared.policy.memory import LOSS_TOLERANCE, Arm, Memory, Step, Turn, moved, objective
from shared.policy.recall_policy import BOUNDS, GROUPS, WEIGHT_BOUND, RecallPolicy
from shared.policy.sight import Sight, Targets, text_of
from shared.policy.steering import content

DOUBT: Final = 0.05
Z95: Final = 1.959963984540054
WEIGHT_STEP: Final = 1.25
WEIGHT_LIMIT: Final = 3.0  # times the first weight, or a third of it
PRICE_STEP: Final = 0.5
PRICE_LIMIT: Final = 3.0
DIVERSITY_STEP: Final = 0.1
DIVERSITY_LIMIT: Final = 0.3
OUT: Final = 12  # measurements that a knob rests after it lost a race
WIDENING: Final = ("exposure price up", "diversity up")


def neighbours(policy: RecallPolicy, memory: Memory, targets: Targets) -> tuple[RecallPolicy, ...]:
    """Whom the next report scores: exactly ``targets.shadows`` policies, filled up with the policy in force itself."""
    asked = [turn.policy for turn in racing(policy, memory, targets)]
    return tuple(asked + [policy] * (targets.shadows - len(asked)))


def racing(policy: RecallPolicy, memory: Memory, targets: Targets) -> tuple[Turn, ...]:
    """The neighbours whose turn it is: those scored least often, in a fixed order."""
    turns = [turn for turn in _turns(policy, memory.first) if turn.knob not in memory.resting]
    turns.sort(key=lambda turn: memory.arms[turn.knob].reports if turn.knob in memory.arms else 0)
    return tuple(turns[: targets.shadows])


def step(policy: RecallPolicy, memory: Memory, sight: Sight, targets: Targets, asked: tuple[Turn, ...]) -> Step:
    """Decide after a measured round that passed the guard.

    Args:
        policy: in force.
        memory: the controller's.
        sight: what is seen.
        targets: what is aimed at.
        asked: the neighbours that the report scored, as :func:`racing` gave them.
    """
    recall, now, covered = sight.recall, objective(sight, targets), reached(policy, sight, targets)
    if recall is None or now is None:
        return Step(policy, memory, "hold", "recall cannot be told from this report")
    turns = {turn.knob: turn for turn in _turns(policy, memory.first)}
    arms = _scored(memory.arms, sight, asked)
    bounds = {knob: _bounds(arm, len(turns)) for knob, arm in arms.items() if knob in turns}
    narrow = is_narrow(covered, targets)
    for knob, (low, _) in sorted(bounds.items(), key=lambda entry: -entry[1][0]):
        if low > (-LOSS_TOLERANCE * recall.value if narrow and knob in WIDENING else 0.0):
            mean = arms[knob].total / arms[knob].reports
            why = f"in {arms[knob].reports} reports {knob} changed recall by {mean:+.3f}, surely by {low:+.3f} or more"
            return moved(policy, memory, now, turns[knob], why)
    # No lower bound is above 0 here, that of the policy in force itself: who stays below it is out.
    out = {knob for knob, (_, high) in bounds.items() if high < 0.0}
    memory = replace(
        memory,
        arms={knob: arm for knob, arm in arms.items() if knob not in out},
        resting={**memory.resting, **dict.fromkeys(sorted(out), OUT)},
    )
    turn = widen(policy, memory, sight, targets) if narrow else None
    if turn is not None and covered is not None:
        return moved(
            policy, memory, now, turn, f"coverage {text_of(covered)} is below the target {targets.coverage:.3f}"
        )
    said = f"{len(bounds)} neighbours were scored, {len(out)} surely lost, none surely won"
    return Step(policy, memory, "hold", f"{said}; {content(recall, covered)}")


def _scored(arms: Mapping[str, Arm], sight: Sight, asked: tuple[Turn, ...]) -> dict[str, Arm]:
    out = dict(arms)
    for turn, seen in zip(asked, sight.shadows, strict=False):  # behind them: the policy in force, which fills up
        arm = out.get(turn.knob, Arm(0, 0.0, 0.0))
        out[turn.knob] = Arm(arm.reports + 1, arm.total + seen.value, arm.variance + (seen.half_width / Z95) ** 2)
    return out


def _bounds(arm: Arm, arms: int) -> tuple[float, float]:
    """Where the true difference lies, whatever the number of reports and neighbours looked at."""
    factor = math.sqrt(2.0 * math.log(math.pi**2 * arms * arm.reports**2 / (3.0 * DOUBT)))
    mean, radius = arm.total / arm.reports, math.sqrt(arm.variance) / arm.reports * factor
    return mean - radius, mean + radius


def _turns(policy: RecallPolicy, first: RecallPolicy) -> list[Turn]:
    """All neighbours: one step of one knob, in a fixed order."""
    turns = []
    for group in GROUPS:
        turns += _switched(policy, group)
        if group in policy.features:
            turns += [_weighed(policy, group, WEIGHT_STEP, "up"), _weighed(policy, group, 1.0 / WEIGHT_STEP, "down")]
    for way, sign in (("up", 1.0), ("down", -1.0)):
        price = round(policy.exposure_price + sign * PRICE_STEP, 2)
        what = f"exposure price {policy.exposure_price:.2f} -> {price:.2f}"
        turns.append(Turn(f"exposure price {way}", replace(policy, exposure_price=price), what))
        diversity = round(policy.diversity + sign * DIVERSITY_STEP, 2)
        what = f"diversity {policy.diversity:.2f} -> {diversity:.2f}"
        turns.append(Turn(f"diversity {way}", replace(policy, diversity=diversity), what))
    return [turn for turn in turns if _allowed(turn.policy, first)]


def _switched(policy: RecallPolicy, group: str) -> list[Turn]:
    """A feature group in where it is out, out where it is in and not alone."""
    into = group not in policy.features
    features = tuple(g for g in GROUPS if (g in policy.features) != (g == group))
    if not features or (into and policy.weights[group] <= 0):
        return []
    what = f"feature group {group} {'comes in' if into else 'goes out'}"
    return [Turn(f"feature {group}" if into else f"without {group}", replace(policy, features=features), what)]


def _weighed(policy: RecallPolicy, group: str, factor: float, way: str) -> Turn:
    old = policy.weights[group]
    weights = {**policy.weights, group: old * factor}
    what = f"weight of {group} {old:.2f} -> {old * factor:.2f}"
    return Turn(f"weight {group} {way}", replace(policy, weights=weights), what)


def _allowed(policy: RecallPolicy, first: RecallPolicy) -> bool:
    """Within the bounds that a client accepts, and not too far from the first policy."""
    # A widening step may cost up to the tolerated loss, whatever the steps before it cost: so there are not many.
    for name, limit in (("exposure_price", PRICE_LIMIT), ("diversity", DIVERSITY_LIMIT)):
        if not BOUNDS[name][0] <= getattr(policy, name) <= max(getattr(first, name), limit):
            return False
    for group, weight in policy.weights.items():
        begun = abs(first.weights[group])
        if abs(weight) > min(begun * WEIGHT_LIMIT, WEIGHT_BOUND) or abs(weight) < begun / WEIGHT_LIMIT:
            return False
    return True
