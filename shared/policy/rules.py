"""Controller ``rules``: the source text's dynamic recall, with step limits, a rollback guard and reasons.

Recall low -> bring features in, then reweigh towards the learned group. Coverage low, and recall well or nothing left
to try for it -> more candidate depth, then an exposure price, then more depth and more local iterations. It moves only
when what it sees differs from the target by more than the error bar, one knob at a time, and takes a move back when
recall fell by more than the noise of the two measurements.
Pure: an auditor replays every decision from the ledger.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal

from shared.errors import ProtocolError
from shared.policy.recall_policy import BOUNDS, GROUPS, WEIGHT_BOUND, RecallPolicy, policy_from_dict, policy_to_dict

Decision = Literal["move", "hold", "rollback", "frozen", "none"]

DEPTH_STEP: Final = 1.5
DEPTH_LIMIT: Final = 5.0  # times the first depth
PRICE_STEP: Final = 0.5
PRICE_LIMIT: Final = 3.0
WEIGHT_STEP: Final = 1.1
WEIGHT_LIMIT: Final = 1.5  # times the first weight
ITERATIONS_LIMIT: Final = 2
LOSS_TOLERANCE: Final = 0.05  # relative loss of recall that a move may cost
REST: Final = 3  # measurements a knob rests after it was rolled back


@dataclass(frozen=True)
class Seen:
    """One number with its 95 % half width; what the controller knows of a metric."""

    value: float
    half_width: float


@dataclass(frozen=True)
class RulesState:
    """The controller's memory, part of every decision in the ledger.

    Attributes:
        first: the policy it started from; limits are relative to it.
        before: policy before the last move, or None.
        recall_before: recall at the time of the last move.
        knob: what the last move turned.
        resting: knob -> measurements it still rests.
    """

    first: RecallPolicy
    before: RecallPolicy | None = None
    recall_before: Seen | None = None
    knob: str = ""
    resting: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Targets:
    """What is aimed at; from the configuration.

    Attributes:
        recall: recall@k.
        coverage: effective coverage@k as a share of what is attainable.
        iterations_fixed: the plan accounts for local steps (trust local), so they are no knob.
    """

    recall: float
    coverage: float
    iterations_fixed: bool = False


@dataclass(frozen=True)
class Step:
    """A decision: the policy of the next round, the new memory, and why."""

    policy: RecallPolicy
    state: RulesState
    decision: Decision
    reason: str


def step(policy: RecallPolicy, state: RulesState, recall: Seen | None, coverage: Seen | None, targets: Targets) -> Step:
    """Decide after a measured round.

    Args:
        policy: in force.
        state: the controller's memory.
        recall, coverage: private estimates (coverage as a share of what is attainable); None = cannot tell.
        targets: what is aimed at.
    """
    if policy.frozen:
        return Step(policy, state, "frozen", "the policy is frozen")
    if recall is None:
        return Step(policy, state, "hold", "recall cannot be told from this report")
    state = replace(state, resting={knob: left - 1 for knob, left in state.resting.items() if left > 0})
    if state.before is not None and state.recall_before is not None:
        undone = _rolled_back(policy, state, recall)
        if undone is not None:
            return undone
        state = replace(state, before=None, recall_before=None, knob="")
    narrow = coverage is not None and coverage.value + coverage.half_width < targets.coverage
    if recall.value + recall.half_width < targets.recall:
        turn, why = _for_recall(policy, state), f"recall {_text(recall)} is below the target {targets.recall:.3f}"
        if turn is not None or not narrow:
            return _move(policy, state, recall, turn, why)
    if coverage is not None and narrow:
        why = f"effective coverage {_text(coverage)} of what is attainable is below the target {targets.coverage:.3f}"
        return _move(policy, state, recall, _for_coverage(policy, state, targets), why)
    reason = f"recall {_text(recall)} meets the target or is within the noise; coverage cannot be told"
    if coverage is not None:
        reason = f"recall {_text(recall)} and coverage {_text(coverage)} meet the targets or are within the noise"
    return Step(policy, state, "hold", reason)


def _rolled_back(policy: RecallPolicy, state: RulesState, recall: Seen) -> Step | None:
    before, then = state.before, state.recall_before
    if before is None or then is None:
        return None
    noise = math.hypot(recall.half_width, then.half_width)
    if not then.value - recall.value > max(noise, LOSS_TOLERANCE * then.value):
        return None
    back = replace(before, version=policy.version + 1)
    resting = {**state.resting, state.knob: REST}
    reason = f"recall fell from {_text(then)} to {_text(recall)} after {state.knob} was turned: back to how it was"
    return Step(back, RulesState(state.first, resting=resting), "rollback", reason)


def _for_recall(policy: RecallPolicy, state: RulesState) -> tuple[str, RecallPolicy, str] | None:
    """The next thing to try for recall: (knob, policy, what was done)."""
    for group in GROUPS:
        knob = f"feature {group}"
        if group not in policy.features and policy.weights[group] > 0 and not _rests(state, knob):
            features = tuple(g for g in GROUPS if g in policy.features or g == group)
            return knob, replace(policy, features=features), f"feature group {group} comes in"
    weight = policy.weights["text"]
    limit = min(state.first.weights["text"] * WEIGHT_LIMIT, WEIGHT_BOUND)
    if "text" in policy.features and weight < limit and not _rests(state, "weight text"):
        new = min(limit, weight * WEIGHT_STEP)
        return (
            "weight text",
            replace(policy, weights={**policy.weights, "text": new}),
            f"weight of text {weight:.2f} -> {new:.2f}",
        )
    return None


def _for_coverage(policy: RecallPolicy, state: RulesState, targets: Targets) -> tuple[str, RecallPolicy, str] | None:
    """The next thing to try for coverage."""
    deepest = int(min(state.first.depth * DEPTH_LIMIT, BOUNDS["depth"][1]))
    # Depth alone changes nothing until something re-ranks the candidates: widen it once, then price, then go deeper.
    wide = policy.depth >= min(deepest, state.first.depth * DEPTH_STEP) and policy.exposure_price < PRICE_LIMIT
    if policy.depth < deepest and not wide and not _rests(state, "depth"):
        new = min(deepest, math.ceil(policy.depth * DEPTH_STEP))
        return "depth", replace(policy, depth=new), f"candidate depth {policy.depth} -> {new}"
    if policy.exposure_price < PRICE_LIMIT and not _rests(state, "exposure price"):
        price = min(PRICE_LIMIT, policy.exposure_price + PRICE_STEP)
        return (
            "exposure price",
            replace(policy, exposure_price=price),
            f"exposure price {policy.exposure_price:.2f} -> {price:.2f}",
        )
    more = policy.local_iterations < ITERATIONS_LIMIT and not targets.iterations_fixed
    if more and not _rests(state, "local iterations"):
        new = policy.local_iterations + 1
        return "local iterations", replace(policy, local_iterations=new), f"local iterations {new - 1} -> {new}"
    return None


def _move(
    policy: RecallPolicy, state: RulesState, recall: Seen, turn: tuple[str, RecallPolicy, str] | None, why: str
) -> Step:
    if turn is None:
        return Step(policy, state, "hold", f"{why}, but every knob is at its limit or rests")
    knob, turned, what = turn
    after = replace(turned, version=policy.version + 1)
    return Step(after, replace(state, before=policy, recall_before=recall, knob=knob), "move", f"{why}: {what}")


def _rests(state: RulesState, knob: str) -> bool:
    return knob in state.resting


def _text(seen: Seen) -> str:
    return f"{seen.value:.3f} +- {seen.half_width:.3f}"


def state_to_dict(state: RulesState) -> dict[str, Any]:
    """Plain JSON types; inverse of :func:`state_from_dict`."""
    return {
        "first": policy_to_dict(state.first),
        "before": None if state.before is None else policy_to_dict(state.before),
        "recall_before": None if state.recall_before is None else asdict(state.recall_before),
        "knob": state.knob,
        "resting": dict(state.resting),
    }


def state_from_dict(raw: Mapping[str, Any]) -> RulesState:
    """A state read back from a checkpoint or a ledger.

    Raises:
        ProtocolError: it is no state.
    """
    try:
        return RulesState(
            first=policy_from_dict(raw["first"]),
            before=None if raw["before"] is None else policy_from_dict(raw["before"]),
            recall_before=None if raw["recall_before"] is None else Seen(**raw["recall_before"]),
            knob=str(raw["knob"]),
            resting={str(knob): int(left) for knob, left in raw["resting"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProtocolError(f"the controller's memory cannot be read: {type(error).__name__}: {error}") from error
