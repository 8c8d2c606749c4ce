"""Making a plan that keeps its promise, and reading one back that somebody else made.

:func:`make_plan` sizes the noise from a target; :func:`plan_from_dict` trusts nothing that a plan says of itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast, get_args

from shared.errors import PlanError
from shared.privacy import accounting
from shared.privacy.checks import (
    check_mechanisms,
    check_numbers,
    check_rounds,
    check_target,
    check_terms,
    exactly,
)
from shared.privacy.clipping import grid_steps
from shared.privacy.plan import (
    ETA,
    RELEASES,
    ROUNDING,
    Kind,
    Mechanism,
    PrivacyPlan,
    Release,
    Target,
    Trust,
    Unit,
    printed,
    unscheduled,
)


def make_plan(target: Target) -> PrivacyPlan:
    """Calibrate the noise of every release so that the printed claim is at most ``target.epsilon``.

    Formal guarantees:
        With at most K participations per kind, contributions clipped per unit and the noise that ``share_sigma`` and
        ``sum_sigma`` state, all releases of the plan together are ``(epsilon, delta)``-DP for ``target.unit`` under
        zero-out adjacency; against whom is said by :func:`claims`. No assumption on who chose the cohorts: sampling
        buys no noise, it only adds a claim.

    Edge cases:
        ``epsilon is None`` -> no noise and no claim; a kind with zero participations costs nothing and gets no noise.

    Raises:
        PlanError: a promise that is absurd or that the unit and the trust cannot carry.
    """
    check_target(target)
    counts: dict[Release, int] = {
        "update": target.update_participations,
        "measurement": target.measurement_participations,
        "statistics": 1 if target.shares.get("statistics", 0.0) > 0 else 0,
        "profile": 1 if target.shares.get("profile", 0.0) > 0 else 0,
        "trending": target.trending_participations if target.shares.get("trending", 0.0) > 0 else 0,
    }
    total = None
    if target.epsilon is not None:  # the inverse of ``printed``
        total = accounting.rho_for(target.epsilon - 2.0 * ETA, target.delta * math.exp(-ETA))

    def mechanism(kind: Release, clip: float, steps: int, inner_steps: int = 1) -> Mechanism:
        rho = None if total is None else total * target.shares.get(kind, 0.0)
        return _calibrated(rho, counts[kind], clip, steps, inner_steps, 2.0 if target.unit == "interaction" else 1.0)

    inner_steps = target.local_steps if target.trust == "local" else 1
    plan = PrivacyPlan(
        kind=target.kind,
        unit=target.unit,
        trust=target.trust,
        epsilon=None if target.epsilon is None else float(target.epsilon),
        delta=float(target.delta),
        population=target.population,
        smallest_cohort=target.smallest_cohort,
        collusion=float(target.collusion),
        rounds=target.rounds,
        sampling=target.sampling,
        update=mechanism("update", float(target.clip), grid_steps(target.update_dimension), inner_steps),
        measurement=mechanism("measurement", 1.0, 1 << 16),
        statistics=mechanism("statistics", 1.0, 1 << 16),
        profile=mechanism("profile", 1.0, 1 << 16),
        trending=mechanism("trending", 1.0, 1 << 16),
    )
    clients = target.cohort or target.population
    users = max(target.users, target.population)
    check_rounds(plan, clients, min(users, clients * target.per_client) if target.per_client else users)
    return plan


def _calibrated(
    rho: float | None, count: int, clip: float, steps: int, inner_steps: int, sensitivity: float
) -> Mechanism:
    """A mechanism of which ``count`` releases cost ``rho`` as claimed; None = without noise."""
    multiplier = 0.0
    if rho is not None and count:
        real = sensitivity * accounting.noise_multiplier_for(rho, count * inner_steps)
        multiplier = math.hypot(real, math.sqrt(ROUNDING) / steps)
    return Mechanism(count, clip, steps, multiplier, inner_steps, sensitivity)


def plan_from_dict(raw: Mapping[str, Any]) -> PrivacyPlan:
    """A plan read back from JSON: nothing unknown, nothing missing, and no promise that its own noise does not keep.

    Needs no library, so a client applies it to every plan that a server names.

    Raises:
        PlanError: names the field that is unknown, missing, of the wrong kind or out of range, or the broken promise.
    """
    if isinstance(raw, Mapping) and "trending" not in raw:
        raw = {**raw, "trending": asdict(unscheduled(cast(Unit, raw.get("unit"))))}
    data = exactly(raw, PrivacyPlan, "plan")
    for name, allowed in (("kind", Kind), ("unit", Unit), ("trust", Trust)):
        if data[name] not in get_args(allowed):
            raise PlanError(f"plan.{name} {data[name]!r} must be one of {', '.join(get_args(allowed))}")
    numbers = ["delta", "collusion", *(name for name in ("epsilon", "sampling") if data[name] is not None)]
    data = check_numbers(data, "plan", numbers, ["population", "smallest_cohort", "rounds"])
    for kind in RELEASES:
        part = exactly(data[kind], Mechanism, f"plan.{kind}")
        part = check_numbers(
            part,
            f"plan.{kind}",
            ["clip", "noise_multiplier", "sensitivity"],
            ["participations", "steps", "inner_steps"],
        )
        data[kind] = Mechanism(**part)
    plan = PrivacyPlan(**data)
    check_terms(plan, plan.population)
    check_mechanisms(plan)
    # How many a cohort has beyond the smallest is the server's to choose, who alone has the sum.
    clients = plan.population if plan.sampling is not None else max(1, plan.smallest_cohort)
    check_rounds(plan, clients, clients)
    if plan.epsilon is not None:
        kept = printed(lambda delta: accounting.epsilon_exact(plan.claimed(plan.full()), delta), plan.delta)
        if kept > plan.epsilon * (1.0 + 1e-6):
            raise PlanError(f"plan: its noise allows epsilon {kept:.4g}, more than the {plan.epsilon} that it promises")
    return plan
