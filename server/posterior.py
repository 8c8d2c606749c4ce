"""From summed residuals to target vectors: the server's optimizer of the linear encoder.

A client's update is ``(x - B z) z'``: its residual in the squared-error objective, times its vector. On average over
people that is ``C - B S``, with C = E[x z'] and S = E[z z'], and z has length one and spreads about evenly over R
directions, so S is about I / R. Every round gives an estimate ``R (mean update) + B`` of the solution C / S. The
estimates are averaged, later ones weighing more, and shrunk to what the noise leaves of them: one prior variance a
direction, in proportion to an item's popularity, around the profile that everybody shares and what public texts add to
it (empirical Bayes: Efron and Morris 1973; Robbins 1956). Where S is not I / R the average converges to C / S all the
same, for a fixed point has no residual left. There is no learning rate to tune.

All of it is post-processing of released sums and public numbers.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from server.aggregation import OptimizerState
from server.checkpoint import State
from server.warm_start import Known
from shared.encoder.spec import EncoderSpec, Floats, unpack

UNKNOWN_LENGTH: Final = 32  # of a typical history, where the noise hides it
TINY: Final = 1e-30  # where there is neither noise nor signal
RIDGE: Final = 0.05  # of the fold-in, over the trace of its moment

Wide = NDArray[np.float64]


def known_of(state: State) -> Known:
    """What the one-off statistics said."""
    low, high = state.activity
    return Known(state.prior, state.peak, (low + high) // 2 or UNKNOWN_LENGTH)


def given_out(spec: EncoderSpec, state: State) -> Floats:
    """The model of a state as people recommend with it; see :func:`published`."""
    return published(spec, state.parameters, known_of(state))


def learn(
    spec: EncoderSpec,
    state: OptimizerState,
    parameters: Floats,
    mean: Floats,
    *,
    noise: float,
    known: Known,
    people: int,
    text: Floats,
) -> tuple[Floats, OptimizerState]:
    """One round's step.

    Args:
        spec: the encoder, kind "linear".
        state: ``first`` holds the weighted sum of estimates.
        parameters: before; what clients computed their residuals with.
        mean: (trained,) sum of the sealed updates over ``people``.
        noise: standard deviation of the noise in each entry of ``mean``.
        known: popularity, and the length of a typical history.
        people: public number of units that the mean is over.
        text: (buckets, d) public vectors of the rows.

    Returns:
        Parameters and state after; the inputs are left as they are.
    """
    rank, step = spec.rank, state.step + 1
    flat = parameters.copy()
    target = unpack(spec, flat)["target"]
    first = np.asarray(state.first + step * (rank * mean + target.ravel()), np.float32)
    weights, squares = step * (step + 1) / 2.0, step * (step + 1) * (2 * step + 1) / 6.0
    found = (first / weights).reshape(target.shape).astype(np.float64)
    shares = known.shares()[:, None].astype(np.float64)
    # The noise of the mechanism, averaged over rounds; and that of people: who happens to be here.
    spread = (rank * noise) ** 2 * squares / weights**2 + shares * rank / (math.sqrt(known.typical) * people)
    target[:] = shrunk(found, spread, known.popularity()[:, None], text.astype(np.float64))
    return flat, OptimizerState(step, first, state.second)


def shrunk(found: Wide, spread: Wide, popularity: Wide, text: Wide) -> Wide:
    """Posterior means, (n, rank), of rows that share a profile and resemble each other where their texts do.

    Model: row i = popularity_i (profile + text_i G) + own part + noise, the own part of variance
    ``tau^2 popularity_i`` a direction, G a ridge regression that may explain as much as the own parts do. Public texts
    so take a share of the noise away (Curmei et al. 2023 let public features do the same), and a row that is all noise
    falls back on them.

    Args:
        found: (n, rank) noisy rows.
        spread: (n, 1) variance of the noise in each entry.
        popularity: (n, 1) in 0..1, above 0.
        text: (n, d) public vectors of the rows.
    """
    mass = float((popularity**2).sum())
    shared = popularity * ((found * popularity).sum(0) / mass)
    signal = np.maximum(_variance(found - shared, spread, popularity).mean(), TINY)
    said = text * popularity
    inner = (said / (spread + TINY)).T @ said + np.eye(text.shape[1]) / signal
    shared = shared + said @ np.linalg.solve(inner, (said / (spread + TINY)).T @ (found - shared))
    own = found - shared
    kept = np.maximum(_variance(own, spread, popularity), 0.0) * popularity
    return np.asarray(shared + own * kept / (kept + spread + TINY), np.float64)


def _variance(own: Wide, spread: Wide, popularity: Wide) -> Wide:
    """(rank,) moment estimate of ``tau^2``: what is left of the rows' squares without the noise's; may be negative."""
    return np.asarray(((own**2 - spread) * popularity).sum(0) / (popularity**2).sum(), np.float64)


def published(spec: EncoderSpec, parameters: Floats, known: Known) -> Floats:
    """The parameters that people recommend with, as those for training are not the best for that.

    linear: to an item's context comes what its *target* says of who has it (a fold-in: the least-squares vector of a
    history, entries weighed by the inverse root of popularity); and scores get a unit, the mean score of the most
    popular item. mean: as they are.
    """
    if spec.kind != "linear" or known.peak <= 0:
        return parameters
    flat = parameters.copy()
    parts = unpack(spec, flat)
    shares = known.shares().astype(np.float64)
    target = parts["target"].astype(np.float64)
    weighed = target / np.sqrt(shares / shares.mean())[:, None]
    inner = weighed.T @ target
    inner += (RIDGE * np.trace(inner) + TINY) * np.eye(spec.rank)
    folded = np.linalg.solve(inner, weighed.T).T
    length = float(np.linalg.norm(shares @ folded))  # of the mean history; its context has length one
    if length > 0:
        parts["context"][:] += folded / length
    parts["target"][:] /= known.peak
    return flat
