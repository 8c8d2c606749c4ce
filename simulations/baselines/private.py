r"""Central, user-level differentially private peers: one noisy statistic each, then post-processing.

Formal guarantees: (epsilon, delta)-DP for a user's whole train history under zero-out adjacency (the history is
replaced by nothing), for the one statistic that is released. Each row is a mechanism of its own; running several
composes. A user scores items at home with the own history, which is no release. Noise is ordinary floating-point noise
from a seeded generator: these are simulations of a peer, nothing to deploy.

Both statistics scale a user's binary history x with n items by w = min(1, sqrt(cap / n)), a row of norm <= sqrt(cap):

- histogram sum_u w x: one user changes it by at most sqrt(cap) in L2 norm;
- Gram matrix sum_u w^2 x x', released as its upper triangle with the diagonal: a user fills n (n + 1) / 2 cells with
  w^2. In L2 that is sqrt(n (n + 1) / 2) for n <= cap, and cap sqrt((n + 1) / (2 n)), which falls with n, for n >= cap.
  So the largest is at n = cap: sqrt(cap (cap + 1) / 2), nearly sqrt(2) below the bound cap of the whole matrix.

| edge case | what happens |
|---|---|
| empty history | contributes zero, like an absent one |
| n = cap | w = 1, the bound is attained |
| epsilon -> infinity | the exact statistic of the scaled histories |
| a person with m enrolments | m times the sensitivity: not covered |
| weight of the prior, caps, rule for the ridge | chosen on validation items, not covered; flatters these peers |
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array

from simulations.baselines.models import ease_weights, gram, linear_scores
from simulations.baselines.protocol import FloatArray, Scorer

HISTOGRAM_CAP: Final = 1
# Ten to twenty did equally well on MovieLens-100K and Online Retail (validation), forty worse.
GRAM_CAP: Final = 20
PRIOR_WEIGHTS: Final = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Candidates for the weight of log popularity beside a cosine."""


def scaled_rows(train: csr_array, cap: int) -> csr_array:
    """Every user's row times min(1, sqrt(cap / n)), so that no row's L2 norm exceeds sqrt(cap).

    Args:
        train: (users, n_items), 1 for a positive.
        cap: history length above which a user counts less, at least 1.
    """
    lengths = np.asarray(train.sum(axis=1), np.float64).ravel()
    return csr_array(diags_array(np.minimum(1.0, np.sqrt(cap / np.maximum(lengths, 1.0)))) @ train)


def private_histogram(
    train: csr_array, multiplier: float, rng: np.random.Generator, cap: int = HISTOGRAM_CAP
) -> NDArray[np.float64]:
    """Noisy popularity: (n_items,) float64, possibly negative.

    Sensitivity sqrt(cap), user-level, zero-out (module docstring).

    Args:
        train: (users, n_items), 1 for a positive.
        multiplier: noise standard deviation over sensitivity.
        rng: draws the noise.
        cap: history length above which a user counts less.
    """
    exact = np.asarray(scaled_rows(train, cap).sum(axis=0), np.float64).ravel()
    return exact + rng.normal(0.0, multiplier * math.sqrt(cap), len(exact))


def log_prior(histogram: NDArray[np.float64], floor: float) -> NDArray[np.float64]:
    """Log popularity from a noisy histogram, (n_items,); ``floor`` (the noise's deviation) stands for less than it."""
    return np.log(np.maximum(histogram, floor))


def with_prior(content: Scorer, prior: NDArray[np.float64], weight: float) -> Scorer:
    """A scorer of content scores plus ``weight`` times the (n_items,) prior."""
    return lambda rows: content(rows) + weight * prior


def gram_sensitivity(cap: int) -> float:
    """L2 sensitivity of the scaled Gram matrix's upper triangle, user-level, zero-out (module docstring)."""
    return math.sqrt(cap * (cap + 1) / 2)


def private_gram(
    train: csr_array, multiplier: float, rng: np.random.Generator, cap: int = GRAM_CAP
) -> NDArray[np.float32]:
    """Noisy Gram matrix of the scaled histories: (n_items, n_items), symmetric, one draw a cell of the upper triangle.

    Args:
        train: (users, n_items), 1 for a positive.
        multiplier: noise standard deviation over ``gram_sensitivity(cap)``.
        rng: draws the noise.
        cap: history length above which a user counts less.
    """
    noisy = np.triu(rng.standard_normal((train.shape[1], train.shape[1]), dtype=np.float32))
    noisy += np.triu(noisy, 1).T
    noisy *= multiplier * gram_sensitivity(cap)
    noisy += gram(scaled_rows(train, cap)).astype(np.float32)
    return noisy


def fit_dp_ease(train: csr_array, noisy: NDArray[np.float32], multiplier: float, cap: int = GRAM_CAP) -> Scorer:
    """EASE from a noisy Gram matrix; everything here is post-processing of it and of public numbers.

    Negative eigenvalues are noise (a Gram matrix has none) and are set to 0. The noise's largest eigenvalue is near
    e = 2 sigma sqrt(n_items) (Wigner's semicircle), and the ridge is 2 multiplier e: it grows with the noise's
    variance, as the best ridge of a signal in white noise does, from about e at epsilon 8 to 6 e at epsilon 1.

    Args:
        train: (users, n_items), each user's own history, read at home.
        noisy: ``private_gram(train, multiplier, ...)``.
        multiplier: its noise multiplier.
        cap: its history cap.
    """
    edge = 2.0 * multiplier * gram_sensitivity(cap) * math.sqrt(len(noisy))
    values, vectors = np.linalg.eigh(noisy)
    shrunk = np.maximum(values, 0.0) + 2.0 * multiplier * edge
    precision: FloatArray = (vectors / shrunk.astype(np.float32)) @ vectors.T
    return linear_scores(train.astype(np.float32), ease_weights(precision))
