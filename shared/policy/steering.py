"""What the controllers ``rules`` and ``dual`` share: recall first, then fairness, then coverage, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from shared.policy.coverage import is_narrow, reached
from shared.policy.memory import LOSS_TOLERANCE, Memory, Step, Turn, moved, notices, objective
from shared.policy.recall_policy import GROUPS, WEIGHT_BOUND, RecallPolicy
from shared.policy.sight import Seen, Sight, Targets, text_of

WEIGHT_STEP: Final = 1.1
WEIGHT_LIMIT: Final = 1.5  # times the first weight
FAIRNESS_STEP: Final = 1.5
FAIRNESS_LIMIT: Final = 4.0  # times the first weight of popularity

ForCoverage = Callable[[RecallPolicy, Memory, Sight, Targets], Turn | None]


def steer(policy: RecallPolicy, memory: Memory, sight: Sight, targets: Targets, for_coverage: ForCoverage) -> Step:
    """Decide after a measured round that passed the guard.

    Args:
        policy: in force.
        memory: the controller's.
        sight: what is seen.
        targets: what is aimed at.
        for_coverage: the next thing to try when lists reach too little of the catalogue.
    """
    recall, now, covered = sight.recall, objective(sight, targets), reached(policy, sight, targets)
    if recall is None or now is None:
        return Step(policy, memory, "hold", "recall cannot be told from this report")
    wanting: list[tuple[str, Turn | None]] = []
    if recall.value + recall.half_width < targets.recall:
        why = f"recall {text_of(recall)} is below the target {targets.recall:.3f}"
        wanting.append((why, _for_recall(policy, memory, recall)))
    if sight.gap is not None and _is_unfair(sight.gap, recall, targets):
        why = f"gap {text_of(sight.gap)} between activity groups, weighed {targets.fairness:g}"
        wanting.append((why, _for_fairness(policy, memory) if notices(now) else None))
    if covered is not None and is_narrow(covered, targets):
        why = f"coverage {text_of(covered)} is below the target {targets.coverage:.3f}"
        wanting.append((why, for_coverage(policy, memory, sight, targets)))
    for why, turn in wanting:
        if turn is not None:
            return moved(policy, memory, now, turn, why)
    if wanting:
        return Step(policy, memory, "hold", f"{wanting[-1][0]}, {at_limits(now if notices(recall) else recall)}")
    return Step(policy, memory, "hold", content(recall, covered))


def content(recall: Seen, covered: Seen | None) -> str:
    """Why nothing is to be done."""
    if covered is None:
        return f"recall {text_of(recall)} meets the target or is within the noise; coverage cannot be told"
    return f"recall {text_of(recall)} and coverage {text_of(covered)} meet the targets or are within the noise"


def at_limits(recall: Seen) -> str:
    """Why nothing can be done."""
    if notices(recall):
        return "but every knob is at its limit or rests"
    return (
        f"but every knob is at its limit, rests, or might cost more recall than is noticed under +-"
        f"{recall.half_width:.3f}"
    )


def _for_recall(policy: RecallPolicy, memory: Memory, recall: Seen) -> Turn | None:
    for group in GROUPS:
        turn = _brought_in(group, policy, memory)
        if turn is not None:
            return turn
    return _heavier("text", WEIGHT_STEP, WEIGHT_LIMIT, policy, memory) if notices(recall) else None


def _is_unfair(gap: Seen, recall: Seen, targets: Targets) -> bool:
    """Whether the weighted gap, less its noise, is worth more recall than a move may cost."""
    return targets.fairness * (gap.value - gap.half_width) > LOSS_TOLERANCE * recall.value


def _for_fairness(policy: RecallPolicy, memory: Memory) -> Turn | None:
    """What narrows the gap between activity groups: popularity, which serves the inactive as well as the active.

    It narrows it from above (docs/policy.md has the numbers), so it is turned only where ``fairness`` asks.
    """
    turn = _brought_in("popularity", policy, memory)
    return turn or _heavier("popularity", FAIRNESS_STEP, FAIRNESS_LIMIT, policy, memory)


def _brought_in(group: str, policy: RecallPolicy, memory: Memory) -> Turn | None:
    knob = f"feature {group}"
    if group in policy.features or policy.weights[group] <= 0 or knob in memory.resting:
        return None
    features = tuple(g for g in GROUPS if g in policy.features or g == group)
    return Turn(knob, replace(policy, features=features), f"feature group {group} comes in")


def _heavier(group: str, step: float, limit: float, policy: RecallPolicy, memory: Memory) -> Turn | None:
    weight, knob = policy.weight(group), f"weight {group}"
    most = min(memory.first.weights[group] * limit, WEIGHT_BOUND)
    if not 0 < weight < most or knob in memory.resting:
        return None
    new = min(most, weight * step)
    weights = {**policy.weights, group: new}
    return Turn(knob, replace(policy, weights=weights), f"weight of {group} {weight:.2f} -> {new:.2f}")
