"""A controller's memory and its decisions, and the guard that all controllers share.

The guard: a move after which the objective fell by more than the noise of the two measurements is taken back, and its
knob rests. The objective is recall, less the weighted gap between activity groups where ``fairness`` asks for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal

from shared.errors import ProtocolError
from shared.policy.recall_policy import RecallPolicy, policy_from_dict, policy_to_dict
from shared.policy.sight import Seen, Sight, Targets, text_of

Decision = Literal["move", "hold", "rollback", "frozen", "none", "proposal"]

LOSS_TOLERANCE: Final = 0.05  # relative loss of recall that a move may cost
REST: Final = 3  # measurements a knob rests after it was taken back
BLIND: Final = 0.25  # half width of recall, relative, above which a report is nothing to steer by


@dataclass(frozen=True)
class Arm:
    """A neighbouring policy under trial (controller ``shadow``).

    Attributes:
        reports: reports that scored it against the policy in force.
        total: sum of the differences in recall.
        variance: sum of their noise variances.
    """

    reports: int
    total: float
    variance: float


@dataclass(frozen=True)
class Memory:
    """What a controller remembers; part of every decision in the ledger.

    Attributes:
        first: the policy it started from; limits are relative to it.
        before: policy before the last move, or None.
        objective_before: the objective at the time of the last move.
        knob: what the last move turned.
        resting: knob -> measurements it still rests.
        arms: knob -> its trial so far, of those still in the race.
    """

    first: RecallPolicy
    before: RecallPolicy | None = None
    objective_before: Seen | None = None
    knob: str = ""
    resting: Mapping[str, int] = field(default_factory=dict)
    arms: Mapping[str, Arm] = field(default_factory=dict)


@dataclass(frozen=True)
class Turn:
    """A move that could be made.

    Attributes:
        knob: what is turned.
        policy: after it, the version not yet counted up.
        what: is done, for the reason.
        bounded: it cannot cost more than ``LOSS_TOLERANCE`` of recall (``coverage.py`` says why).
    """

    knob: str
    policy: RecallPolicy
    what: str
    bounded: bool = False


@dataclass(frozen=True)
class Step:
    """A decision: the policy of the next round, the new memory, and why."""

    policy: RecallPolicy
    memory: Memory
    decision: Decision
    reason: str


def objective(sight: Sight, targets: Targets) -> Seen | None:
    """What the guard watches: recall, less the weighted gap; None = recall cannot be told."""
    if sight.recall is None or targets.fairness == 0 or sight.gap is None:
        return sight.recall
    value = sight.recall.value - targets.fairness * sight.gap.value
    return Seen(value, math.hypot(sight.recall.half_width, targets.fairness * sight.gap.half_width))


def notices(recall: Seen) -> bool:
    """Whether the guard would notice a loss that is too large: two measurements tell it from their noise."""
    return math.sqrt(2.0) * recall.half_width <= LOSS_TOLERANCE * recall.value


def is_blind(recall: Seen) -> bool:
    """Whether a report is too noisy to steer by: what looks low may as well be high."""
    return not recall.half_width <= BLIND * recall.value


def rested(memory: Memory) -> Memory:
    """One measurement later."""
    return replace(memory, resting={knob: left - 1 for knob, left in memory.resting.items() if left > 0})


def taken_back(policy: RecallPolicy, memory: Memory, now: Seen, targets: Targets) -> Step | None:
    """The last move's undoing, if the objective fell by more than the noise since; None = it stands."""
    before, then = memory.before, memory.objective_before
    if before is None or then is None:
        return None
    noise = math.hypot(now.half_width, then.half_width)
    if not then.value - now.value > max(noise, LOSS_TOLERANCE * abs(then.value)):
        return None
    what = "recall" if targets.fairness == 0 else "recall less the weighted gap"
    reason = f"{what} fell from {text_of(then)} to {text_of(now)} after {memory.knob} was turned: back to how it was"
    return Step(replace(before, version=policy.version + 1), at_rest(memory), "rollback", reason)


def at_rest(memory: Memory) -> Memory:
    """The memory once the last move is undone: its knob rests."""
    return Memory(memory.first, resting={**memory.resting, memory.knob: REST})


def settled(memory: Memory) -> Memory:
    """The memory once the last move stands: nothing is left to undo."""
    return replace(memory, before=None, objective_before=None, knob="")


def moved(policy: RecallPolicy, memory: Memory, now: Seen, turn: Turn, why: str) -> Step:
    """A turn taken: one version more, and what the guard compares with later."""
    after = replace(turn.policy, version=policy.version + 1)
    memory = replace(memory, knob=turn.knob, arms={})  # trials were against the policy that is left behind
    if not turn.bounded or notices(now):
        # A fall that stands out of this noise would be larger than a bounded turn can cost, so not its doing.
        memory = replace(memory, before=policy, objective_before=now)
    return Step(after, memory, "move", f"{why}: {turn.what}")


def memory_to_dict(memory: Memory) -> dict[str, Any]:
    """Plain JSON types; inverse of :func:`memory_from_dict`."""
    return {
        "first": policy_to_dict(memory.first),
        "before": None if memory.before is None else policy_to_dict(memory.before),
        "objective_before": None if memory.objective_before is None else asdict(memory.objective_before),
        "knob": memory.knob,
        "resting": dict(memory.resting),
        "arms": {knob: asdict(arm) for knob, arm in memory.arms.items()},
    }


def memory_from_dict(raw: Mapping[str, Any]) -> Memory:
    """A memory read back from a checkpoint or a ledger.

    Raises:
        ProtocolError: it is no memory.
    """
    try:
        return Memory(
            first=policy_from_dict(raw["first"]),
            before=None if raw["before"] is None else policy_from_dict(raw["before"]),
            objective_before=None if raw["objective_before"] is None else Seen(**raw["objective_before"]),
            knob=str(raw["knob"]),
            resting={str(knob): int(left) for knob, left in raw["resting"].items()},
            arms={str(knob): Arm(**arm) for knob, arm in raw["arms"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProtocolError(f"the controller's memory cannot be read: {type(error).__name__}: {error}") from error
