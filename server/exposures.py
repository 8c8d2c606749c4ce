"""How exposure is spread over items, from noisy counts: effective coverage, Gini index and head share, with bars.

The noisy count of an item is its true count plus Gaussian noise of known deviation s. What is wanted depends on the
*distribution* of true counts over items alone, so that is what is estimated (empirical Bayes deconvolution; Efron,
"Empirical Bayes deconvolution estimates", Biometrika 103(1), 2016): an atom at zero and a smooth curve above it, the
exponential of a natural cubic spline in ``log(1 + count / s)``, by penalised maximum likelihood over bins. The penalty
is on curvature, so that a power law is what it falls back on where the noise hides everything. The non-parametric
estimate (Kiefer and Wolfowitz 1956) is a handful of atoms, and which side of m one of them falls on is chance: it was
tried first, and its bars covered too little there. A number that is known anyway, how many lists there are, joins the
likelihood as one more noisy observation.

Bars: a parametric bootstrap. True counts are drawn from a *rougher* estimate (a third of the penalty), noise is added,
the estimate is made again and compared with what is true of *the counts drawn*: so the bootstrap knows of the bias that
smoothing brings, and a bar is about this report's own lists, not about a population that they were drawn from. Half of
the draws are from the estimates that the other half led to: an estimate that happens to look easy, at the end of its
range, does not vouch for itself. Errors are taken by their root mean square: bias is not taken off, because the
bootstrap knows its size better than its sign.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.recall.metrics import effective_coverage, gini, head_share

BOOTSTRAPS: Final = 30  # from the estimate, and as many from theirs
POINTS: Final = 100  # support of the estimate
KNOTS: Final = 10  # of the spline, less one
SMOOTH, ROUGH = 0.03, 0.01  # penalties on squared curvature, of the estimate and of what the bootstrap draws from
RIDGE: Final = 1e-3  # on the coefficients, so that a step exists where the likelihood is flat
PASSES: Final = 60  # Newton steps at most
# What the bootstrap's errors are multiplied by: the curve drawn from is rougher near m than real ones, and smoother in
# its tail. Found on MovieLens lists, checked on others: docs/measurement.md.
SCALE: Final = (0.95, 1.1, 1.15)

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Spread:
    """Three functionals of the exposure histogram.

    Attributes:
        values: (3,) effective coverage, Gini index, head share.
        errors: (3,) root mean square error of each, by the bootstrap, scaled.
    """

    values: Vector
    errors: Vector


@dataclass(frozen=True)
class _Model:
    """The public frame of a fit: nothing in it depends on a count but the largest.

    Attributes:
        noise: s.
        items: number of counts.
        grid: (points,) support, from zero upwards.
        design: (points, coefficients) atom and spline.
        curvature: (coefficients, coefficients) squared curvature of the spline, as a quadratic form.
        edges: (bins + 1,) of the bins that noisy counts fall into.
        likelihood: (bins, points) probability of a bin given a true count.
        lists_sigma: standard deviation of the number of exposures that is known from elsewhere.
    """

    noise: float
    items: int
    grid: Vector
    design: Vector
    curvature: Vector
    edges: Vector
    likelihood: Vector
    lists_sigma: float


def spread(
    counts: Vector, noise: float, at_least: int, lists: float, lists_sigma: float, rng: np.random.Generator
) -> Spread:
    """Effective coverage, Gini index and head share of the true counts behind noisy ones.

    Args:
        counts: (items,) true counts plus noise.
        noise: standard deviation of the noise, above 0.
        at_least: m, exposures that effective coverage asks for.
        lists: exposures in all, as known from elsewhere (users times k).
        lists_sigma: its standard deviation.
        rng: for the bootstrap; no privacy rests on it.
    """
    model = _model(float(counts.max()), noise, len(counts), lists_sigma)
    fitted = _fit(model, counts, None, np.zeros(model.design.shape[1]), SMOOTH)
    fitted = _fit(model, counts, lists, fitted, SMOOTH)
    rough = _mass(model, _fit(model, counts, lists, fitted, ROUGH))
    errors, sources = [], [rough] * BOOTSTRAPS
    for number in range(2 * BOOTSTRAPS):
        true = _draw(model, sources[number], rng)
        again = true + rng.normal(0.0, noise, model.items)
        total = float(true.sum()) + rng.normal(0.0, lists_sigma)
        mass = _mass(model, _fit(model, again, total, fitted, SMOOTH))
        errors.append(_read(model, mass, at_least) - functionals(true, at_least))
        if number < BOOTSTRAPS:
            sources.append(mass)
    return Spread(_read(model, _mass(model, fitted), at_least), np.sqrt(np.mean(np.square(errors), axis=0)) * SCALE)


def functionals(counts: Vector | NDArray[np.int64], at_least: int) -> Vector:
    """Effective coverage, Gini index and head share of known counts, (3,)."""
    whole = np.rint(counts).astype(np.int64)
    return np.array([effective_coverage(whole, at_least), gini(whole), head_share(whole)])


def _model(largest: float, noise: float, items: int, lists_sigma: float) -> _Model:
    top = max(largest, 4.0 * noise)
    place = np.linspace(0.0, math.log1p(top / noise), POINTS)
    grid = noise * np.expm1(place)
    # Half a deviation wide near zero, where the noise hides the counts; further up a few percent of the count.
    near, far = np.arange(-6.0, 10.0, 0.5), [10.0]
    while far[-1] < top / noise + 6.0:
        far.append(far[-1] * 1.05)
    edges = noise * np.concatenate([near, far])
    edges[0], edges[-1] = -np.inf, np.inf
    below = np.vectorize(math.erf)((edges[:, None] - grid) / (noise * math.sqrt(2.0)))
    atom = np.zeros((POINTS, 1))
    atom[0] = 3.0
    design = np.hstack([atom, _spline(place)])
    bends = np.zeros((POINTS - 2, design.shape[1]))
    bends[:, 1:] = np.diff(design[:, 1:], 2, axis=0) / place[1] ** 2
    likelihood = np.diff(below, axis=0) / 2.0 + 1e-300
    return _Model(noise, items, grid, design, bends.T @ bends * place[1], edges, likelihood, lists_sigma)


def _spline(place: Vector) -> Vector:
    """Natural cubic spline on equally spaced knots, its columns orthogonal, each with a mean square of 1."""
    knots = np.linspace(place[0], place[-1], KNOTS + 1)

    def bend(j: int) -> Vector:
        left, right = np.maximum(place - knots[j], 0.0) ** 3, np.maximum(place - knots[-1], 0.0) ** 3
        return np.asarray((left - right) / (knots[-1] - knots[j]))

    columns = np.stack([place, *(bend(j) - bend(KNOTS - 1) for j in range(KNOTS - 1))], axis=1)
    orthogonal, _ = np.linalg.qr(columns - columns.mean(axis=0))
    return np.asarray(orthogonal * math.sqrt(len(place)))


def _mass(model: _Model, coefficients: Vector) -> Vector:
    """The probabilities on the support that coefficients stand for."""
    log = model.design @ coefficients
    mass = np.exp(log - log.max())
    return np.asarray(mass / mass.sum())


def _fit(model: _Model, counts: Vector, lists: float | None, start: Vector, smooth: float) -> Vector:
    """Coefficients of the penalised maximum likelihood, by Levenberg's damped Newton steps.

    Args:
        model: the frame.
        counts: (items,) noisy counts.
        lists: exposures in all; None = not known.
        start: where to begin.
        smooth: weight of the penalty.
    """
    weight = np.histogram(counts, model.edges)[0].astype(np.float64)
    penalty = smooth * model.curvature + RIDGE * np.eye(len(start))
    at, damping = start, 1e-3
    value = _objective(model, weight, lists, penalty, at)
    for _ in range(PASSES):
        slope, bend = _derivatives(model, weight, lists, penalty, at)
        while damping < 1e9:
            step = np.linalg.solve(bend + damping * np.diag(np.diag(bend)), slope)
            there = _objective(model, weight, lists, penalty, at + step)
            if there >= value:
                break
            damping *= 8.0
        else:
            break
        at, gain, value = at + step, there - value, there
        damping = max(damping / 4.0, 1e-6)
        if gain < 1e-5:
            break
    return at


def _objective(model: _Model, weight: Vector, lists: float | None, penalty: Vector, at: Vector) -> float:
    mass = _mass(model, at)
    value = float(weight @ np.log(model.likelihood @ mass)) - 0.5 * float(at @ penalty @ at)
    if lists is not None:
        value -= 0.5 * ((model.items * float(mass @ model.grid) - lists) / model.lists_sigma) ** 2
    return value


def _derivatives(
    model: _Model, weight: Vector, lists: float | None, penalty: Vector, at: Vector
) -> tuple[Vector, Vector]:
    """Gradient of the objective, and its curvature by outer products of scores (Efron 2016, section 3)."""
    mass = _mass(model, at)
    posterior = model.likelihood * mass / (model.likelihood @ mass)[:, None]
    score = (posterior - mass) @ model.design
    slope = weight @ score - penalty @ at
    bend = (score * weight[:, None]).T @ score + penalty
    if lists is not None:
        mean = float(mass @ model.grid)
        tilt = model.items * ((mass * (model.grid - mean)) @ model.design) / model.lists_sigma
        slope = slope - tilt * (model.items * mean - lists) / model.lists_sigma
        bend = bend + np.outer(tilt, tilt)
    return np.asarray(slope), np.asarray(bend)


def _below(mass: Vector) -> Vector:
    """P(count <= support point), of a mass that is spread around its points; all of the atom lies at zero."""
    return np.asarray(np.concatenate([mass[:1], (np.cumsum(mass) - mass / 2.0)[1:-1], [1.0]]))


def _counts_at(model: _Model, mass: Vector, quantile: Vector) -> Vector:
    below = _below(mass)
    return np.where(quantile <= mass[0], 0.0, np.interp(quantile, below, model.grid))


def _draw(model: _Model, mass: Vector, rng: np.random.Generator) -> Vector:
    """True counts of ``items`` items, whole numbers."""
    return np.asarray(np.rint(_counts_at(model, mass, rng.random(model.items))))


def _read(model: _Model, mass: Vector, at_least: int) -> Vector:
    """The functionals of items whose counts follow the mass."""
    counts = _counts_at(model, mass, (np.arange(model.items) + 0.5) / model.items)
    # A whole count of m or more is one above m - 1/2.
    enough = 1.0 - float(np.interp(at_least - 0.5, model.grid, _below(mass)))
    return np.array([enough, gini(counts), head_share(counts)])
