"""``summary.json``: what a run that has ended says of itself; an audit holds it against the ledgers."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

from server.checkpoint import claims_so_far
from server.ending import Ending
from server.job import Job
from server.rows import Row
from shared.policy.recall_policy import policy_to_dict
from shared.privacy.accounting import ACCOUNTANT
from shared.privacy.plan import ADJACENCY, Claims, PrivacyPlan, epsilon_by_kind

MASKED: Final = "real: vectors are masked, and the server learns their sum alone"
UNMASKED: Final = "not needed: under trust local every vector is private by itself"
AGAINST: Final = "; of single vectors the server learns their masked form alone (docs/secure-aggregation.md)"


def summary_of(job: Job, ending: Ending, users: int) -> Row:
    """What a deployed run says.

    Args:
        job: its constants; ``job.nodes`` are all who took part.
        ending: how it ended.
        users: behind all clients.
    """
    plan = job.plan
    spent, _ = claims_so_far(plan, ending.last)
    masked = plan.trust != "local"
    return {
        "kind": plan.kind,
        "run": job.run,
        "catalogue": job.catalogue,
        "controller": job.config.policy.controller,
        **claims_of(job, ending),
        "covers_tuning": False,
        "covers": claim_of(plan)["covers"],
        "not_covered": not_covered(plan, spent),
        "secure_aggregation": MASKED if masked else UNMASKED,
        "users": users,
        "clients": len(job.nodes),
        "items": job.items,
        "parameters": job.encoder.size,
        "text_encoder": job.config.model.text_encoder,
    }


def claims_of(job: Job, ending: Ending) -> Row:
    """The promise, how the run ended, and what is claimed of what was spent."""
    plan = job.plan
    spent, most = claims_so_far(plan, ending.last)
    return {
        **terms_of(plan),
        "rounds": job.config.rounds,
        "rounds_done": ending.rounds_done,
        "stopped": ending.stopped,
        "model": ending.to_dict(),
        "policy": policy_to_dict(ending.model.policy),
        "epsilon": spent.largest,
        "epsilon_claims": {name: value for name, value in asdict(spent).items() if name != "if_others_collude"},
        "epsilon_if_others_collude": spent.if_others_collude,
        "epsilon_by_kind": epsilon_by_kind(plan, most),
    }


def claim_of(plan: PrivacyPlan) -> Row:
    """What has to stand beside every epsilon of a deployment's plan, and what they cover."""
    return {**terms_of(plan), "covers": covers(plan, "" if plan.trust == "local" else AGAINST)}


def terms_of(plan: PrivacyPlan) -> Row:
    """What has to stand beside every epsilon of a plan."""
    return {
        "unit": plan.unit,
        "adjacency": ADJACENCY,
        "trust": plan.trust,
        "delta": plan.delta,
        "accountant": ACCOUNTANT,
        "participations": plan.update.participations,
    }


def covers(plan: PrivacyPlan, against: str) -> str:
    """What the claim covers, and against whom, in a sentence.

    Args:
        plan: the privacy plan.
        against: ends the sentence where the claim holds against everybody.
    """
    if plan.epsilon is None:
        return "Nothing: this run had no differential privacy."
    who = "recipients of what is published; against the server nothing is claimed"
    if plan.trust != "central":
        collusion = " up to the tolerated collusion" if plan.trust == "distributed" else ""
        who = f"everybody{collusion}, the server included{against}"
    trending = f", trending {plan.trending.participations}" if plan.trending.participations else ""
    return (
        f"Every number that left a client (at most: updates {plan.update.participations}, measurements "
        f"{plan.measurement.participations}, statistics {plan.statistics.participations}, profile "
        f"{plan.profile.participations}{trending}), against {who}."
    )


def not_covered(plan: PrivacyPlan, spent: Claims) -> list[str]:
    """What the claim leaves open wherever the plan is run."""
    out = [
        "Tuning: defaults were chosen looking at validation data of public data sets.",
        "Enrolment, participation and dropout, which are public under zero-out adjacency.",
    ]
    if spent.recipients_amplified is not None:
        out.append(
            "Readers of this folder are not among those who see neither cohorts nor their sizes: its rows, ledgers and "
            "report show who was drawn, or how many."
        )
    if plan.trust == "central" and plan.smallest_cohort < 2:
        out.append("Clients against the server where a cohort is one client: the sum of one vector is that vector.")
    if plan.trust == "local":
        out.append("Floating-point effects of local noise.")
    return out
