"""From noisy sums of reports to global recall and coverage, each with an error bar.

Scalars by the delta method for ratios. Exposure: the noisy count of an item is its true count plus Gaussian noise of
known variance; counting what is above zero would call half of the unseen items covered. So the distribution of true
counts over items is estimated by non-parametric maximum likelihood (Kiefer and Wolfowitz 1956; EM on a grid), and
effective coverage (items with at least m exposures, m about one standard deviation of the noise), Gini and head share
are read off it. Raw coverage cannot be told from such sums: zero and one exposure look the same (docs/privacy.md).
Everything here is post-processing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.privacy.plan import PrivacyPlan
from shared.recall.metrics import coverage, effective_coverage, gini, head_share
from shared.recall.weights import MEASUREMENT_WEIGHTS, NDCG_K, exposure_weight

Z95: Final = 1.959963984540054
USEFUL_COHORT: Final = 200  # clients in a report below which exposures drown in noise
BOOTSTRAPS: Final = 40

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A private estimate in 0..1 with its 95 % bar; ``low == high`` when there is no noise.

    Attributes:
        value: the estimate, brought into 0..1.
        low, high: ends of the bar, brought into 0..1.
        half_width: of the bar before that: what a controller weighs, for a bar cut off at 0 looks surer than it is.
    """

    value: float
    low: float
    high: float
    half_width: float


def estimate_of(value: float, half_width: float) -> Estimate:
    """An estimate from its raw value and the half width of its bar."""
    value, low, high = (min(1.0, max(0.0, x)) for x in (value, value - half_width, value + half_width))
    return Estimate(float(value), float(low), float(high), float(half_width))


@dataclass(frozen=True)
class Measurement:
    """What one measured round tells the server.

    Attributes:
        k: length of the lists.
        at_least: m of effective coverage, in exposures.
        attainable: the largest effective coverage that ``users * k`` exposures allow.
        estimates: metric name -> estimate.
        cannot_tell: metric name -> why not.
    """

    k: int
    at_least: int
    attainable: float
    estimates: Mapping[str, Estimate]
    cannot_tell: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, as ledger and rounds.jsonl hold them."""
        out: dict[str, Any] = {
            name: {"value": e.value, "low": e.low, "high": e.high} for name, e in self.estimates.items()
        }
        name = f"effective_coverage@{self.k}"
        if name in out:
            out[name]["at_least"] = self.at_least
            out[name]["attainable"] = self.attainable
        return out | dict.fromkeys(self.cannot_tell)


def estimate(
    plan: PrivacyPlan, total: NDArray[np.int64], survivors: int, k: int, items: int, rng: np.random.Generator
) -> Measurement:
    """Read a measured round off the sum of its sealed reports.

    Args:
        plan: gives the grid and the noise.
        total: (3 + buckets,) int64 grid sum, noise included.
        survivors: clients in the sum.
        k: length of the lists.
        items: size of the catalogue.
        rng: for the bootstrap of the bars; nothing private rests on it.
    """
    steps = plan.measurement.steps
    sigma = plan.sum_sigma("measurement", survivors)
    grid = {name: _on_grid(weight, steps) for name, weight in MEASUREMENT_WEIGHTS.items()}
    recall, ndcg, users = (float(total[i]) / grid[name] for i, name in enumerate(("recall", "ndcg", "users")))
    users_sigma = sigma / grid["users"]
    if users <= 3.0 * users_sigma:
        why = f"too few users report: {max(users, 0.0):.0f} under noise of {users_sigma:.0f}"
        names = (f"recall@{k}", f"ndcg@{NDCG_K}", *_exposure_names(k))
        return Measurement(k, 1, 1.0, {}, dict.fromkeys(names, why))
    estimates = {
        f"recall@{k}": _ratio(recall, users, sigma / grid["recall"], users_sigma),
        f"ndcg@{NDCG_K}": _ratio(ndcg, users, sigma / grid["ndcg"], users_sigma),
    }
    shown = _on_grid(exposure_weight(k), steps)
    counts, noise = total[3:] / shown, sigma / shown
    at_least = max(1, math.ceil(noise))
    attainable = min(1.0, users * k / (at_least * items))
    if noise == 0:
        exact = np.rint(counts).astype(np.int64)
        estimates |= {
            name: estimate_of(v, 0.0) for name, v in zip(_exposure_names(k), _read(exact, at_least), strict=True)
        }
        return Measurement(k, at_least, attainable, estimates, {})
    if survivors < USEFUL_COHORT:
        why = f"{survivors} clients report; below {USEFUL_COHORT} exposures drown in noise"
        return Measurement(k, at_least, attainable, estimates, dict.fromkeys(_exposure_names(k), why))
    estimates |= _exposures(counts, noise, at_least, k, rng)
    why = "zero and one exposure look alike under this noise; see effective coverage"
    return Measurement(k, at_least, attainable, estimates, {f"coverage@{k}": why})


def _on_grid(weight: float, steps: int) -> int:
    """What a one of this weight becomes when clients truncate it to the grid."""
    return math.floor(weight * steps * (1.0 - 1e-12))


def _exposure_names(k: int) -> tuple[str, str, str, str]:
    return f"coverage@{k}", f"effective_coverage@{k}", f"gini@{k}", f"head_share@{k}"


def _read(exposures: NDArray[np.int64] | Vector, at_least: float) -> tuple[float, float, float, float]:
    whole = np.asarray(exposures)
    return (
        coverage(whole.astype(np.int64)),
        effective_coverage(whole.astype(np.int64), at_least),
        gini(whole),
        head_share(whole),
    )


def _ratio(numerator: float, denominator: float, numerator_sigma: float, denominator_sigma: float) -> Estimate:
    """A ratio of two noisy sums with independent noise, clamped to 0..1; bar by the delta method."""
    value = numerator / denominator
    spread = Z95 * math.hypot(numerator_sigma, value * denominator_sigma) / abs(denominator)
    return estimate_of(value, spread)


def _exposures(counts: Vector, noise: float, at_least: int, k: int, rng: np.random.Generator) -> dict[str, Estimate]:
    """Effective coverage, Gini and head share by deconvolution, bars by parametric bootstrap."""
    grid, mass = deconvolve(counts, noise)
    truth = _read_mass(grid, mass, at_least, len(counts))
    again = []
    for _ in range(BOOTSTRAPS):
        drawn = rng.choice(grid, size=len(counts), p=mass) + rng.normal(0.0, noise, len(counts))
        again.append(_read_mass(*deconvolve(drawn, noise), at_least, len(counts)))
    # The bootstrap's own shift away from the estimate is its bias; the bar covers both.
    spread = np.sqrt(np.var(again, axis=0) + np.square(np.mean(again, axis=0) - truth))
    return {name: estimate_of(v, Z95 * s) for name, v, s in zip(_exposure_names(k)[1:], truth, spread, strict=True)}


def deconvolve(counts: Vector, noise: float, *, points: int = 160, passes: int = 3000) -> tuple[Vector, Vector]:
    """The distribution of true counts that makes the noisy ones likeliest.

    Args:
        counts: (items,) noisy counts.
        noise: standard deviation of the noise.
        points: support points; finer near zero.
        passes: EM passes from the uniform start.

    Returns:
        ``(grid, mass)``: support from 0 upwards and its probabilities.
    """
    top = max(float(counts.max()), 4.0 * noise)
    grid = top * np.linspace(0.0, 1.0, points) ** 2
    # Items with nearly the same count count once: the likelihood is over bins a tenth of the noise wide.
    edges = np.arange(counts.min() - noise, counts.max() + noise, noise / 10.0)
    weight, edges = np.histogram(counts, edges)
    centre = (edges[1:] + edges[:-1]) / 2.0
    used = weight > 0
    like = np.exp(-0.5 * ((centre[used, None] - grid[None]) / noise) ** 2) + 1e-300
    share = weight[used] / weight.sum()
    mass = np.full(points, 1.0 / points)
    for _ in range(passes):
        mass *= (share / (like @ mass)) @ like
    return grid, mass / mass.sum()


def _read_mass(grid: Vector, mass: Vector, at_least: float, items: int) -> Vector:
    """Effective coverage, Gini and head share of ``items`` items whose counts follow the mass."""
    quantile = (np.arange(items) + 0.5) / items
    counts = grid[np.minimum(np.searchsorted(np.cumsum(mass), quantile), len(grid) - 1)]
    return np.array([float(mass[grid >= at_least].sum()), gini(counts), head_share(counts)])
