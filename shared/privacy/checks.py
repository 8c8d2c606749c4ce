"""What a privacy plan may not be: every refusal, in one place, each with its sentence.

Applied by :func:`shared.privacy.calibration.make_plan` to what an operator asks for, and by
:func:`shared.privacy.calibration.plan_from_dict` to what a server names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, Final

from shared.errors import PlanError
from shared.privacy import accounting
from shared.privacy.noise import LARGEST
from shared.privacy.plan import ETA, ROUNDED, TAU, PrivacyPlan, Target

ROUND_EPSILON_CAP: Final = 50.0
TOTAL_EPSILON_CAP: Final = 100.0
SMALLEST_EPSILON: Final = 1e-3  # far above what integer arithmetic may add, 2 ETA
SMALLEST_DELTA: Final = 1e-100
MODULUS_BITS: Final = 32
SMALLEST_SHARE: Final = 2.0  # grid units: below, a sum of discrete Gaussians is not one (Kairouz, Liu, Steinke 2021)
REACH: Final = 8.0  # standard deviations that no sum goes beyond
WHOLE: Final = (
    "population",
    "smallest_cohort",
    "rounds",
    "update_participations",
    "measurement_participations",
    "update_dimension",
    "local_steps",
    "profile_dimension",
    "trending_participations",
    "trending_dimension",
    "cohort",
    "users",
    "per_client",
)


def exactly(raw: object, shape: type, place: str) -> dict[str, Any]:
    """``raw`` as a dictionary with exactly the fields of a dataclass."""
    names = {f.name for f in fields(shape)}
    if not isinstance(raw, Mapping) or set(raw) != names:
        got = sorted(map(str, raw)) if isinstance(raw, Mapping) else type(raw).__name__
        raise PlanError(f"{place}: expected exactly the fields {sorted(names)}, got {got}")
    return dict(raw)


def check_numbers(data: Mapping[str, Any], place: str, real: Sequence[str], whole: Sequence[str]) -> dict[str, Any]:
    """``data`` with real numbers as floats: finite and not negative, whole where one counts. NaN fails comparisons."""
    for name in (*real, *whole):
        value, types = data[name], (int,) if name in whole else (int, float)
        if type(value) not in types or not 0 <= value < 1e300:
            what = "a whole number" if name in whole else "a finite number"
            raise PlanError(f"{place}.{name} {str(value)[:40]!r} must be {what}, not negative")
    return {name: float(value) if name in real else value for name, value in data.items()}


def check_target(t: Target) -> None:
    """Refuse a target that promises nothing."""
    check_numbers(asdict(t), "target", [], WHOLE)
    check_terms(t, max(t.users, t.population))
    if not 0 < t.clip < math.inf:
        raise PlanError(f"privacy.clip {t.clip} must be a finite number above 0")
    if t.update_participations < 1:
        raise PlanError(f"privacy.participations {t.update_participations} must be at least 1")
    if t.local_steps < 1:
        raise PlanError(f"{t.local_steps} local steps: must be at least 1")
    if not (min(t.shares.values()) >= 0 and abs(sum(t.shares.values()) - 1.0) <= 1e-9):
        raise PlanError(f"privacy shares {dict(t.shares)} must not be negative and must sum to 1")
    if t.epsilon is not None and t.shares["update"] == 0:
        raise PlanError("privacy shares leave nothing for updates: they would need infinite noise")
    if t.epsilon is not None and t.measurement_participations and t.shares["measurement"] == 0:
        raise PlanError("privacy.measurement_share is 0 but measurements are scheduled: they would leave without noise")
    if t.shares.get("trending", 0.0) > 0 and not t.trending_participations:
        raise PlanError(
            "privacy.trending_share is above 0 but no round refreshes what is trending: trending.every must be at most "
            "the number of rounds"
        )
    # No report is longer than an update; docs/privacy.md proves the integer noise for this many coordinates.
    coordinates = t.update_dimension * (t.update_participations + t.measurement_participations + 1)
    coordinates += t.profile_dimension + t.trending_dimension * t.trending_participations
    if t.epsilon is not None and coordinates * (TAU + ROUNDED) > ETA:
        raise PlanError(
            f"{t.update_dimension} parameters over all releases make {coordinates:.2g} noisy numbers of one client, "
            f"more than the {ETA / (TAU + ROUNDED):.2g} that the proof covers: a smaller model or fewer rounds"
        )


def check_terms(t: Target | PrivacyPlan, people: int) -> None:
    """What a target and a plan state alike."""
    check_sampling(t, t.update.participations if isinstance(t, PrivacyPlan) else t.update_participations)
    if t.unit == "interaction" and t.trust != "local":
        raise PlanError(
            f"privacy.unit 'interaction' needs privacy.trust 'local', not {t.trust!r}: noise is added per event"
        )
    if t.epsilon is not None and not SMALLEST_EPSILON <= t.epsilon <= TOTAL_EPSILON_CAP:
        larger = 'larger protects nobody: write epsilon = "none" to run without differential privacy, openly'
        why = larger if t.epsilon > TOTAL_EPSILON_CAP else "smaller leaves nothing but noise"
        raise PlanError(
            f"privacy.epsilon {t.epsilon} must lie between {SMALLEST_EPSILON} and {TOTAL_EPSILON_CAP}; {why}"
        )
    if not SMALLEST_DELTA <= t.delta < 1:
        raise PlanError(f"privacy.delta {t.delta} must lie between {SMALLEST_DELTA} and 1")
    if t.epsilon is not None and t.delta * people >= 1:
        raise PlanError(
            f"privacy.delta {t.delta} must be below 1/users = {1.0 / people:.2g}: else publishing someone passes"
        )
    if not 0 <= t.collusion < 1:
        raise PlanError(f"privacy.collusion {t.collusion} must be at least 0 and below 1")
    if t.rounds < 1:
        raise PlanError(f"rounds {t.rounds} must be at least 1")
    if not (0 if t.sampling is not None else 1) <= t.smallest_cohort <= t.population:
        raise PlanError(f"smallest cohort {t.smallest_cohort} must lie between 1 and the population {t.population}")
    if t.epsilon is not None and t.trust == "distributed" and t.smallest_cohort < 2:
        raise PlanError(
            f"a smallest cohort of {t.smallest_cohort}: no sum hides a single client; have more clients, raise "
            'cohort.smallest, or use privacy.trust "local"'
        )


def check_sampling(t: Target | PrivacyPlan, participations: int) -> None:
    """What a claim from chance needs: fixed noise, coins for every round, and nothing else that depends on coins."""
    if t.sampling is None:
        return
    if t.trust != "central":
        raise PlanError(
            f"cohort.sampling 'poisson' needs privacy.trust 'central', not {t.trust!r}: where clients add the noise, "
            "its size tells how many were drawn"
        )
    if not 0 < t.sampling < 1:
        raise PlanError(
            f"sampling rate {t.sampling} must be above 0 and below 1: it is cohort.size over the number of clients"
        )
    if t.smallest_cohort != 0:
        raise PlanError(
            f"cohort.sampling 'poisson' with a smallest cohort of {t.smallest_cohort}: a round that is aborted for its "
            "size tells who was drawn: write cohort.smallest = 0"
        )
    if participations != t.rounds:
        raise PlanError(
            f"cohort.sampling 'poisson' with {participations} participations in {t.rounds} rounds: a coin may come up "
            'in every round: write privacy.participations = "rounds"'
        )


def check_mechanisms(plan: PrivacyPlan) -> None:
    """What ``make_plan`` gets right by construction and a plan from elsewhere may not."""
    sensitivity = 2.0 if plan.unit == "interaction" else 1.0
    for kind in plan.full():
        mechanism = plan.mechanism(kind)
        if not (mechanism.clip > 0 and mechanism.steps >= 1 and mechanism.inner_steps >= 1):
            raise PlanError(f"plan.{kind}: clip, steps and inner_steps must be above 0")
        if mechanism.sensitivity != sensitivity:
            raise PlanError(
                f"plan.{kind}.sensitivity {mechanism.sensitivity} must be {sensitivity} for unit {plan.unit!r}"
            )


def check_rounds(plan: PrivacyPlan, clients: int, units: int) -> None:
    """A single release above the cap is a mistake, whatever the total says; and a sum must never wrap the modulus.

    Args:
        plan: what is promised.
        clients, units: behind one sum.
    """
    for kind in plan.full():
        mechanism = plan.mechanism(kind)
        if not mechanism.participations:
            continue
        if plan.epsilon is not None and accounting.epsilon_by_zcdp(mechanism.rho, plan.delta) > ROUND_EPSILON_CAP:
            raise PlanError(
                f"one {kind} release alone would cost epsilon above {ROUND_EPSILON_CAP}: "
                "raise its participations or lower privacy.epsilon"
            )
        if 0 < plan.sum_sigma(kind, 1) < SMALLEST_SHARE:
            raise PlanError(
                f"{kind}: noise of {plan.sum_sigma(kind, 1):.2g} grid units from one party is below {SMALLEST_SHARE}, "
                "too coarse a grid: lower privacy.epsilon or the smallest cohort"
            )
        reach = units * mechanism.steps + REACH * plan.sum_sigma(kind, clients)
        if reach >= 2 ** (MODULUS_BITS - 1) or plan.sum_sigma(kind, 1) > LARGEST:
            raise PlanError(
                f"{kind}: {units} units of {mechanism.steps} grid steps and their noise overflow {MODULUS_BITS} bits"
            )
