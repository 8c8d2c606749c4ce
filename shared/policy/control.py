"""The controllers behind one door: what is decided after a measured round, whom a report compares, what orders change.

Pure, so that ``replay.py`` goes through every decision again from the ledger alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from shared.policy import dual, rules, shadow
from shared.policy.memory import (
    REST,
    Memory,
    Step,
    is_blind,
    memory_from_dict,
    memory_to_dict,
    objective,
    rested,
    settled,
    taken_back,
)
from shared.policy.orders import Proposal, Ruling, propose, waiting
from shared.policy.recall_policy import RecallPolicy
from shared.policy.sight import Sight, Targets, text_of

__all__ = [
    "Controller",
    "Decided",
    "after_order",
    "decide",
    "memory_from_dict",
    "memory_to_dict",
    "neighbour_knobs",
    "neighbours",
    "step",
]

Controller = Literal["rules", "dual", "shadow", "static"]

_STEPS: Final[Mapping[str, Callable[[RecallPolicy, Memory, Sight, Targets], Step]]] = {
    "rules": rules.step,
    "dual": dual.step,
}


@dataclass(frozen=True)
class Decided:
    """What came of a measured round.

    Attributes:
        step: what holds from now on.
        proposal: the move that waits for a person from now on; None = nothing new waits.
    """

    step: Step
    proposal: Proposal | None = None


def decide(
    round_: int,
    controller: Controller,
    policy: RecallPolicy,
    memory: Memory,
    sight: Sight | None,
    targets: Targets,
    *,
    last: bool,
    pending: Proposal | None,
    approval: bool,
) -> Decided:
    """From what was seen to what is done.

    Args:
        round_: that was measured.
        controller: which.
        policy: in force.
        memory: the controller's.
        sight: what is seen; None = the report was aborted.
        targets: what is aimed at.
        last: whether it was the last round, whose policy stays as it was measured.
        pending: a proposal that waits for a person; nothing else is decided meanwhile.
        approval: whether moves wait for a person.
    """
    if sight is None:
        return Decided(Step(policy, memory, "none", "the report was aborted: too few answers"))
    if controller == "static":
        return Decided(Step(policy, memory, "hold", "the controller is static"))
    if last:
        return Decided(Step(policy, memory, "hold", "the last round: the policy stays as it was measured"))
    if pending is not None:
        return Decided(Step(policy, memory, "hold", waiting(pending)))
    taken = step(controller, policy, memory, sight, targets)
    if not approval or taken.decision not in {"move", "rollback"}:
        return Decided(taken)
    wanted = memory_to_dict(taken.memory)
    proposal = propose(round_, policy, taken.policy, wanted, taken.decision, taken.reason)
    reason = f"proposal {proposal.id} waits for approval: {taken.reason}"
    return Decided(Step(policy, memory, "proposal", reason), proposal)


def step(controller: Controller, policy: RecallPolicy, memory: Memory, sight: Sight, targets: Targets) -> Step:
    """A controller's own decision: the guard looks at the last move first, then the controller at what is next."""
    if policy.frozen:
        return Step(policy, memory, "frozen", "the policy is frozen")
    if controller == "static":
        return Step(policy, memory, "hold", "the controller is static")
    now = objective(sight, targets)
    if sight.recall is None or now is None or is_blind(sight.recall):
        seen = "cannot be told" if sight.recall is None else f"{text_of(sight.recall)} is too noisy to steer by"
        return Step(policy, memory, "hold", f"recall {seen}")
    asked = shadow.racing(policy, memory, targets)
    memory = rested(memory)
    undone = taken_back(policy, memory, now, targets)
    if undone is not None:
        return undone
    memory = settled(memory)
    if controller == "shadow":
        return shadow.step(policy, memory, sight, targets, asked)
    return _STEPS[controller](policy, memory, sight, targets)


def neighbours(
    controller: Controller, policy: RecallPolicy, memory: Memory, targets: Targets
) -> tuple[RecallPolicy, ...]:
    """The policies that the next report scores beside the one in force; none unless the controller is ``shadow``."""
    return shadow.neighbours(policy, memory, targets) if controller == "shadow" else ()


def neighbour_knobs(controller: Controller, policy: RecallPolicy, memory: Memory, targets: Targets) -> tuple[str, ...]:
    """What each of :func:`neighbours` turns, in their order; those that only fill up are left out."""
    return tuple(turn.knob for turn in shadow.racing(policy, memory, targets)) if controller == "shadow" else ()


def after_order(memory: Memory, ruling: Ruling) -> Memory:
    """The controller's memory after a person's order.

    Approved: as after the move, which waited with it. Rejected: the knob rests as if it had been taken back, and its
    trial begins anew, or what it had won so far would be adopted while it rests; a rejected rollback lets the move
    stand. Rolled back: there is no move left to undo, and trials begin anew. Else as it was.
    """
    if ruling.proposal is not None and ruling.outcome == "approved":
        return memory_from_dict(ruling.proposal.memory)
    if ruling.proposal is not None and ruling.outcome == "rejected":
        if ruling.proposal.decision == "rollback":
            return settled(memory)
        knob = memory_from_dict(ruling.proposal.memory).knob
        arms = {name: arm for name, arm in memory.arms.items() if name != knob}
        return replace(memory, resting={**memory.resting, knob: REST}, arms=arms)
    if ruling.outcome == "rolled back":
        return replace(settled(memory), arms={})
    return memory
