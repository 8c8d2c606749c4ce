"""From a measured round to the policy of the next: what the controller sees, and the ledger line that replays it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from server.checkpoint import State
from server.desk import Desk
from server.evaluation import Estimate, Measurement
from server.job import Job
from shared.policy.control import Decided, decide
from shared.policy.memory import memory_to_dict
from shared.policy.orders import proposal_to_dict
from shared.policy.recall_policy import policy_to_dict
from shared.policy.sight import Seen, Sight, sight_to_dict


def sight_of(measured: Measurement, active: int) -> Sight:
    """What the controller sees of a measurement, and where the most active third begins (0 = unknown)."""

    def seen(name: str) -> Seen | None:
        return _seen(measured.estimates.get(name))

    return Sight(
        recall=seen(f"recall@{measured.k}"),
        coverage=seen(f"coverage@{measured.k}"),
        effective=seen(f"effective_coverage@{measured.k}"),
        gap=seen("gap@10"),
        shadows=tuple(Seen(e.value, e.half_width) for e in measured.shadows),
        exposures=measured.exposures,
        exposure_sigma=measured.exposure_sigma,
        lists=measured.lists,
        active=active,
    )


def recall_seen(measured: Measurement | None) -> Seen | None:
    """The private estimate by which rounds are compared."""
    return None if measured is None else sight_of(measured, 0).recall


def settle(job: Job, desk: Desk, state: State, number: int, measured: Measurement | None, *, last: bool) -> Decided:
    """Let the controller decide; write down all it saw, what it did and why, so that the line replays by itself.

    Args:
        job, desk: of the run.
        state: before the decision.
        number: of the round.
        measured: its report; None = it was aborted.
        last: whether there is no other round.
    """
    section, sight = job.config.policy, None if measured is None else sight_of(measured, state.activity[-1])
    decided = decide(
        number,
        section.controller,
        state.policy,
        state.controller,
        sight,
        job.targets,
        last=last,
        pending=state.pending,
        approval=section.approval,
    )
    event: dict[str, Any] = {
        "type": "decision",
        "round": number,
        "controller": section.controller,
        "targets": asdict(job.targets),
        "approval": section.approval,
        "last": last,
        "estimate": None if measured is None else measured.to_dict(),
        "sight": None if sight is None else sight_to_dict(sight),
        "memory": memory_to_dict(state.controller),
        "before": policy_to_dict(state.policy),
        "after": policy_to_dict(decided.step.policy),
        "decision": decided.step.decision,
        "reason": decided.step.reason,
        "proposal": None if decided.proposal is None else proposal_to_dict(decided.proposal),
    }
    desk.ledger.append([event])
    return decided


def _seen(estimate: Estimate | None) -> Seen | None:
    return None if estimate is None else Seen(estimate.value, estimate.half_width)
