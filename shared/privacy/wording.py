"""A plan's claims as sentences for people: who is promised what, and who is promised nothing."""

from __future__ import annotations

import math
from typing import Final

from shared.privacy.accounting import ACCOUNTANT
from shared.privacy.plan import ADJACENCY, Claims, PrivacyPlan

_UNITS: Final = {
    "user": "one user's whole history",
    "interaction": "one event of a user (not the user: many events together may show)",
}


def sentences(plan: PrivacyPlan, spent: Claims) -> list[str]:
    """What is claimed at ``plan.delta``, a sentence a party, what is protected first.

    Args:
        plan: the plan.
        spent: its claims, or those of what was spent so far.
    """
    if plan.epsilon is None:
        return ["No differential privacy: nothing is claimed against anybody."]
    most = ", ".join(f"{kind} {count}" for kind, count in plan.full().items() if count)
    who = [f"Protected: {_UNITS[plan.unit]}. Adjacency {ADJACENCY}, delta {plan.delta:g}. Releases at most: {most}."]
    if plan.trust == "local":
        who.append(f"Against everybody, the server included, whoever colludes: epsilon {_up(spent.everyone)}.")
    elif plan.trust == "distributed":
        few = f"at most {plan.colluders} of the smallest {plan.smallest_cohort} survivors collude"
        who.append(
            f"Against everybody, the server included, if it sees sums only and {few}: epsilon {_up(spent.everyone)}."
        )
        who.append(f"If everybody else belongs to the server: epsilon {_up(spent.if_others_collude)}.")
    else:
        who.append(f"Against readers of what is published who know the cohorts: epsilon {_up(spent.recipients)}.")
        if plan.sampling is not None:
            blind = f"neither cohorts nor their sizes (each client drawn at {plan.sampling:.3g})"
            who.append(f"Against readers who see {blind}: epsilon {_up(spent.recipients_amplified)}.")
        who.append("Against the server: nothing, because the noise is its own.")
    who.append(f"Trust {plan.trust}; accountant: {ACCOUNTANT}.")
    return who


def _up(epsilon: float | None) -> str:
    """To two decimals, never down: an upper bound stays one."""
    if epsilon is None:
        return "none"
    return f"{math.ceil(epsilon * 100) / 100:.2f}" if math.isfinite(epsilon) else "infinite"
