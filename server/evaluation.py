"""From noisy sums of reports to global recall and coverage, each with an error bar, or with the reason why not.

Means are ratios of two noisy sums, their bars by the delta method. The gap between activity groups is the largest of
noisy differences, which is too large on average: what it is too large by is estimated and taken off. Exposure:
``server/exposures.py``. Raw coverage cannot be told from noisy counts, where zero and one exposure look alike; only a
server that sees the sum (trust central) can count distinct items, and adds noise to that. Everything here is
post-processing; docs/measurement.md says what each number means.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from server.exposures import functionals, spread
from shared.privacy.plan import PrivacyPlan
from shared.recall.metrics import coverage
from shared.recall.report import ACTIVITY, CENTRE, NDCG_K, SCALARS, ReportLayout, smallest_exposure, useful_users

Z95: Final = 1.959963984540054
DRAWS: Final = 4000  # of three group means, for the gap

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A private estimate with its 95 % bar; ``low == high`` when there is no noise.

    Attributes:
        value: the estimate, brought into 0..1 (a difference: not).
        low, high: ends of the bar, likewise.
        half_width: of the bar before that: what a controller weighs, for a bar cut off at 0 looks surer than it is.
    """

    value: float
    low: float
    high: float
    half_width: float


def estimate_of(value: float, half_width: float) -> Estimate:
    """An estimate in 0..1 from its raw value and the half width of its bar."""
    value, low, high = (min(1.0, max(0.0, x)) for x in (value, value - half_width, value + half_width))
    return Estimate(float(value), float(low), float(high), float(half_width))


@dataclass(frozen=True)
class Measurement:
    """What one measured round tells the server.

    Attributes:
        k: length of the lists.
        at_least: m of effective coverage, in exposures; from the plan, the same in every round.
        attainable: the largest effective coverage that ``users * k`` exposures allow.
        estimates: metric name -> estimate.
        cannot_tell: metric name -> why not.
        shadows: recall under each shadow policy less that under the policy in force; empty where it cannot be told.
        exposures: noisy counts per bucket, rounded, some below zero; None where they drown in noise.
        exposure_sigma: standard deviation of the noise in each of them.
        lists: exposures in all: users who report, as estimated, times k.
    """

    k: int
    at_least: int
    attainable: float
    estimates: Mapping[str, Estimate]
    cannot_tell: Mapping[str, str]
    shadows: tuple[Estimate, ...] = ()
    exposures: tuple[int, ...] | None = None
    exposure_sigma: float = 0.0
    lists: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, as ledger and rounds.jsonl hold them; without exposures, as long as a catalogue."""
        out: dict[str, Any] = {name: _bar(e) for name, e in self.estimates.items()}
        name = f"effective_coverage@{self.k}"
        if name in out:
            out[name]["at_least"] = self.at_least
            out[name]["attainable"] = self.attainable
        if self.shadows:
            out["shadows"] = [_bar(e) for e in self.shadows]
        return out | dict.fromkeys(self.cannot_tell)


@dataclass(frozen=True)
class _Sum:
    """A noisy sum and the standard deviation of its noise."""

    value: float
    sigma: float


def estimate(
    plan: PrivacyPlan,
    total: NDArray[np.int64],
    survivors: int,
    layout: ReportLayout,
    items: int,
    rng: np.random.Generator,
) -> Measurement:
    """Read a measured round off the sum of its sealed reports.

    Args:
        plan: gives the grid and the noise.
        total: (layout.length,) int64 grid sum, noise included; one more under trust central (:func:`with_distinct`).
        survivors: clients in the sum.
        layout: of the reports.
        items: size of the catalogue.
        rng: for bootstraps; nothing private rests on it.
    """
    steps, sigma = plan.measurement.steps, plan.sum_sigma("measurement", survivors)
    sums = {
        name: _Sum(*(x / on_grid(layout.weight(name), steps) for x in (float(total[place]), sigma)))
        for place, name in enumerate(SCALARS)
    }
    users = _pooled("users", sums)
    at_least, k = smallest_exposure(plan, layout), layout.k
    if users.value <= 3.0 * users.sigma:
        why = f"too few users report: {max(users.value, 0.0):.0f} under noise of {users.sigma:.0f}"
        names = (f"recall@{k}", f"ndcg@{NDCG_K}", *_group_names(), f"coverage@{k}", *_exposure_names(k))
        return Measurement(k, at_least, 1.0, {}, dict.fromkeys(names, why))
    estimates = {
        f"recall@{k}": _ratio(sums["recall"], users),
        f"ndcg@{NDCG_K}": _ratio(_pooled("ndcg", sums), users),
    }
    shadows = tuple(
        _difference(_Sum(*(x / on_grid(layout.weight("shadow"), steps) for x in (float(said), sigma))), sums, users)
        for said in total[layout.shadowed]
    )
    cannot_tell: dict[str, str] = {}
    _tell(estimates, cannot_tell, _group_names(), _groups(sums, rng))
    _tell(estimates, cannot_tell, (f"coverage@{k}",), _coverage(plan, layout, total, items, users))
    shown = on_grid(layout.weight("exposure"), steps)
    counts, noise = total[layout.exposures] / shown, sigma / shown
    _tell(
        estimates,
        cannot_tell,
        _exposure_names(k),
        _exposures(plan, layout, counts, noise, items=items, users=users, rng=rng),
    )
    useful = noise == 0 or users.value >= useful_users(plan, layout)
    return Measurement(
        k=k,
        at_least=at_least,
        attainable=min(1.0, users.value * k / (at_least * items)),
        estimates=estimates,
        cannot_tell=cannot_tell,
        shadows=shadows,
        exposures=tuple(np.rint(counts).astype(int).tolist()) if useful else None,
        exposure_sigma=noise,
        lists=users.value * k,
    )


def with_distinct(layout: ReportLayout, steps: int, total: NDArray[np.int64]) -> NDArray[np.int64]:
    """The exact sum of reports, with the number of distinct buckets as one more coordinate.

    Formal guarantees: one user's zero-out changes that number by at most k, so the coordinate by at most the square
    root of its share times ``steps``, and all others together by at most the root of the rest: jointly ``steps``. Only
    a server that is trusted with the sum (trust central) can do this, before it adds its noise to all of them.
    """
    distinct = int(np.count_nonzero(total[layout.exposures] > 0))
    return np.append(total, np.int64(on_grid(layout.weight("distinct"), steps) * distinct))


def on_grid(weight: float, steps: int) -> int:
    """What a one of this weight becomes when it is truncated to the grid."""
    return math.floor(weight * steps * (1.0 - 1e-12))


def _bar(estimate: Estimate) -> dict[str, float]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def _group_names() -> tuple[str, ...]:
    return (*(f"ndcg@{NDCG_K}:{group}" for group in ACTIVITY), f"gap@{NDCG_K}")


def _exposure_names(k: int) -> tuple[str, str, str]:
    return f"effective_coverage@{k}", f"gini@{k}", f"head_share@{k}"


def _tell(
    estimates: dict[str, Estimate],
    cannot_tell: dict[str, str],
    names: tuple[str, ...],
    said: tuple[Estimate, ...] | str,
) -> None:
    """Into the one or the other: estimates, or the reason why there are none."""
    if isinstance(said, str):
        cannot_tell.update(dict.fromkeys(names, said))
    else:
        estimates.update(zip(names, said, strict=True))


def _pooled(name: str, sums: Mapping[str, _Sum]) -> _Sum:
    """A sum that is reported twice, whole and by group: both, weighted by their precision."""
    whole, parts = sums[name], [sums[f"{name}:{group}"] for group in ACTIVITY]
    if whole.sigma == 0:
        return whole
    variance = sum(part.sigma**2 for part in parts)
    share = variance / (variance + whole.sigma**2)
    value = share * whole.value + (1.0 - share) * sum(part.value for part in parts)
    return _Sum(value, math.sqrt(share) * whole.sigma)


def _mean(centred: _Sum, users: _Sum) -> tuple[float, float]:
    """A mean in 0..1 that was sent less a half, and its standard error: a ratio of two sums with independent noise."""
    value = centred.value / users.value
    return CENTRE + value, math.hypot(centred.sigma, value * users.sigma) / users.value


def _ratio(centred: _Sum, users: _Sum) -> Estimate:
    value, error = _mean(centred, users)
    return estimate_of(value, Z95 * error)


def _difference(shadow: _Sum, sums: Mapping[str, _Sum], users: _Sum) -> Estimate:
    """Recall under a shadow policy less recall under the one in force; the half that both were sent less cancels."""
    value = (shadow.value - sums["recall"].value) / users.value
    error = math.hypot(shadow.sigma, sums["recall"].sigma, value * users.sigma) / users.value
    return Estimate(value, value - Z95 * error, value + Z95 * error, Z95 * error)


def _groups(sums: Mapping[str, _Sum], rng: np.random.Generator) -> tuple[Estimate, ...] | str:
    """Ranking quality of each activity group, and the gap between the best and the worst served."""
    for group in ACTIVITY:
        users = sums[f"users:{group}"]
        if users.value <= 3.0 * users.sigma:
            said = f"{max(users.value, 0.0):.0f} under noise of {users.sigma:.0f}"
            return f"too few users in the activity group {group!r}: {said}, or nobody knows where groups part"
    means = [_mean(sums[f"ndcg:{group}"], sums[f"users:{group}"]) for group in ACTIVITY]
    values, errors = (np.array(column) for column in zip(*means, strict=True))
    return (*(estimate_of(v, Z95 * e) for v, e in means), _gap(values, errors, rng))


def _gap(values: Vector, errors: Vector, rng: np.random.Generator) -> Estimate:
    """The largest mean less the smallest, less what noise adds to that: by adding it once more to what was seen.

    Where groups differ by less than the noise, some of the excess stays (Efron and Tibshirani 1993, chapter 10); the
    bar, that of the difference between the two groups, is wide enough for it.
    """
    seen = float(np.ptp(values))
    again = np.ptp(values + errors * rng.normal(size=(DRAWS, len(values))), axis=1)
    apart = math.hypot(errors[int(values.argmax())], errors[int(values.argmin())])
    return estimate_of(2.0 * seen - float(again.mean()), Z95 * apart)


def _coverage(
    plan: PrivacyPlan, layout: ReportLayout, total: NDArray[np.int64], items: int, users: _Sum
) -> tuple[Estimate, ...] | str:
    """Raw coverage: exact without noise, a noisy distinct count under trust central, else it cannot be told."""
    if layout.buckets < items:
        return _shared_buckets(layout, items)
    steps = plan.measurement.steps
    if plan.epsilon is None:
        counts = np.rint(total[layout.exposures] / on_grid(layout.weight("exposure"), steps)).astype(np.int64)
        return (estimate_of(coverage(counts), 0.0),)
    if not layout.central:
        return (
            f"under trust {plan.trust} the server sees noisy counts alone, where zero and one exposure look alike; see "
            "effective coverage"
        )
    unit = on_grid(layout.weight("distinct"), steps) * items
    half = Z95 * plan.sum_sigma("measurement", 1) / unit
    attainable = min(1.0, users.value * layout.k / items)
    if 2.0 * half >= attainable:
        return f"a bar of +-{half:.2f} would hold all that {users.value:.0f} users can reach, 0 to {attainable:.2f}"
    return (estimate_of(float(total[-1]) / unit, half),)


def _exposures(
    plan: PrivacyPlan,
    layout: ReportLayout,
    counts: Vector,
    noise: float,
    *,
    items: int,
    users: _Sum,
    rng: np.random.Generator,
) -> tuple[Estimate, ...] | str:
    """Effective coverage, Gini index and head share."""
    if layout.buckets < items:
        return _shared_buckets(layout, items)
    at_least, useful = smallest_exposure(plan, layout), useful_users(plan, layout)
    if noise == 0:
        return tuple(estimate_of(v, 0.0) for v in functionals(counts, at_least))
    if users.value < useful:
        return (
            f"about {users.value:.0f} users report, fewer than {useful}: under noise of {noise:.0f} exposures an item "
            "would have to be in more than every fifth list to be seen"
        )
    lists, error = users.value * layout.k, users.sigma * layout.k
    summed, deviation = float(counts.sum()), noise * math.sqrt(items)
    if abs(summed - lists) > 3.0 * math.hypot(error, deviation):  # lists are not full: few items are left to show
        lists, error = summed, deviation
    said = spread(counts, noise, at_least, lists, error, rng)
    return tuple(estimate_of(v, Z95 * e) for v, e in zip(said.values, said.errors, strict=True))


def _shared_buckets(layout: ReportLayout, items: int) -> str:
    return f"{items} items share {layout.buckets} exposure buckets: a count belongs to several of them"
