"""How much of the budget measurements get, from public facts alone."""

from __future__ import annotations

import math
from typing import Final

from shared.privacy import accounting
from shared.privacy.checks import SMALLEST_DELTA, SMALLEST_EPSILON, TOTAL_EPSILON_CAP
from shared.privacy.plan import ETA, PrivacyPlan, Target, honest_of
from shared.recall.report import CENTRE, ReportLayout, smallest_exposure, useful_users

ERROR: Final = 0.01  # standard error of recall@k that is aimed at
LEAST, MOST = 0.05, 0.12  # shares of rho
HOPELESS: Final = 0.05  # a standard error above which recall tells a controller nothing
RECALL: Final = 0.2  # at which the error is stated; it changes little with it


def measurement_share(target: Target, layout: ReportLayout) -> float:
    """The share of rho for measurements that ``privacy.measurement_share = "plan"`` stands for.

    The rule: the smallest share at which recall@k of one report has a standard error of ``ERROR`` in the smallest
    cohort, but at least ``LEAST`` and at most ``MOST``: updates need the rest. If recall would have a standard error
    above ``HOPELESS`` even at ``MOST``, steering is out of reach, and the share is ``LEAST``. It depends on epsilon,
    delta, the smallest cohort, users, colluders, the number of measurements, k, shadows and trust: all public.

    Args:
        target: all but its shares.
        layout: of a report.
    """
    epsilon, delta = target.epsilon, target.delta
    if epsilon is None or not (SMALLEST_EPSILON <= epsilon <= TOTAL_EPSILON_CAP and SMALLEST_DELTA <= delta < 1):
        return LEAST  # no budget to share; or a promise that is refused a moment later
    rho = accounting.rho_for(epsilon - 2.0 * ETA, delta * math.exp(-ETA))
    cohort, parts = _cohort(target)
    users = cohort * max(target.users, target.population) / target.population
    # One measurement at a share of 1 has this multiplier; at a share of s, one over its root as much.
    whole = math.sqrt(parts) * accounting.noise_multiplier_for(rho, max(1, target.measurement_participations))
    whole *= 2.0 if target.unit == "interaction" else 1.0
    error = whole * recall_spread(layout) / users
    if error / math.sqrt(MOST) > HOPELESS:
        return LEAST
    return min(MOST, max(LEAST, (error / ERROR) ** 2))


def profile_signal(target: Target) -> float:
    """People over the noise in the sum of their profiles; infinite without noise, 0 without a profile release."""
    if target.epsilon is None:
        return math.inf
    share = target.shares.get("profile", 0.0)
    if not share or not SMALLEST_EPSILON <= target.epsilon <= TOTAL_EPSILON_CAP or target.delta < SMALLEST_DELTA:
        return 0.0
    rho = share * accounting.rho_for(target.epsilon - 2.0 * ETA, target.delta * math.exp(-ETA))
    cohort, parts = _cohort(target)
    multiplier = math.sqrt(parts) * accounting.noise_multiplier_for(rho, 1)
    people = cohort * max(target.users, target.population) / target.population
    return people / (multiplier * (2.0 if target.unit == "interaction" else 1.0))


def _cohort(target: Target) -> tuple[float, float]:
    """Clients in the smallest sum, and how many times the noise of an honest set lies in it (variance)."""
    cohort = target.smallest_cohort if target.sampling is None else target.population * target.sampling
    if target.trust == "distributed":
        return cohort, cohort / honest_of(target.smallest_cohort, target.collusion)
    return cohort, cohort if target.trust == "local" else 1.0


def recall_spread(layout: ReportLayout) -> float:
    """Standard error of recall@k times users, per noise multiplier: noise in its sum, and in the number of users."""
    return math.hypot(1.0 / layout.weight("recall"), (CENTRE - RECALL) / layout.weight("users"))


def measuring(plan: PrivacyPlan, layout: ReportLayout, users: int) -> str:
    """What measurements of a plan cost and can tell, in a sentence.

    Args:
        plan: with differential privacy.
        layout: of a report.
        users: units behind the whole population.
    """
    share = plan.measurement.participations * plan.measurement.rho / plan.spent(plan.full())
    cohort = plan.smallest_cohort if plan.sampling is None else round(plan.population * plan.sampling)
    reporting = users * cohort / plan.population
    noise = plan.sum_sigma("measurement", cohort) / plan.measurement.steps
    said = (
        f"Measurements: {plan.measurement.participations} a client at most, {share:.0%} of the budget; "
        f"recall@{layout.k} with a standard error of {noise * recall_spread(layout) / max(1.0, reporting):.3f}"
    )
    at_least, useful = smallest_exposure(plan, layout), useful_users(plan, layout)
    if reporting < useful:
        return f"{said}; exposures drown in noise: that takes {useful} users in a report."
    return f"{said}, coverage from {at_least} exposures an item (m)."
