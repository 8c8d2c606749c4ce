"""Zero-concentrated differential privacy inside, a Gaussian privacy-loss distribution for the printed claim.

Currency: rho-zCDP of the Gaussian mechanism (Bun and Steinke 2016, Proposition 1.6): ``rho = Delta^2 / (2 sigma^2)``.
It adds up over releases, plans and years, also when later releases are chosen after seeing earlier ones (Lemma 2.3
there), and needs no library on a device. The claim that is printed is tightened: a composition of Gaussian mechanisms
with total ``rho`` is one Gaussian mechanism of noise multiplier ``1 / sqrt(2 rho)``, whose privacy-loss distribution
gives an upper bound of epsilon (Sommer, Meiser, Mohammadi 2019; the ``dp-accounting`` package).

This file knows nothing of clipping, participation or who draws noise: ``shared/privacy/plan.py`` couples them.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

ACCOUNTANT: Final = "zCDP budget; printed epsilon: Gaussian PLD upper bound (dp-accounting)"
_GRID: Final = (
    1e-3  # discretisation of the privacy loss, finer where the loss is small: epsilon rises by less than 1e-5
)


def rho_of(noise_multiplier: float, count: int = 1) -> float:
    """``rho`` of ``count`` Gaussian releases, each with ``sigma = noise_multiplier * sensitivity``.

    Formal guarantees: the composition is ``count / (2 noise_multiplier^2)``-zCDP under the adjacency that the
    sensitivity was computed for. Edge cases: ``count = 0`` costs 0; ``noise_multiplier = 0`` costs infinity.
    """
    if count == 0:
        return 0.0
    # Divided twice: the square of a tiny or a huge multiplier is outside the range of a double.
    return math.inf if noise_multiplier == 0 else count / 2.0 / noise_multiplier / noise_multiplier


def noise_multiplier_for(rho: float, count: int = 1) -> float:
    """The noise multiplier at which ``count`` Gaussian releases cost ``rho``; inverse of :func:`rho_of`."""
    return math.sqrt(count / (2.0 * rho))


def epsilon_by_zcdp(rho: float, delta: float) -> float:
    """``epsilon`` that ``rho`` implies at ``delta``, by the standard conversion; needs no library.

    Formal guarantees: rho-zCDP implies ``(rho + 2 sqrt(rho ln(1/delta)), delta)``-DP (Bun and Steinke 2016,
    Proposition 1.3). An upper bound, looser than :func:`epsilon_by_pld`. Edge cases: 0 for ``rho = 0``, infinity for
    infinity.
    """
    return rho + 2.0 * math.sqrt(rho * -math.log(delta)) if rho > 0 else 0.0


@lru_cache(maxsize=4096)
def epsilon_by_pld(rho: float, delta: float) -> float:
    """Upper bound of ``epsilon`` at ``delta`` for Gaussian releases of total ``rho``.

    Formal guarantees: pessimistic discretisation, so never below the true epsilon of the composed Gaussian mechanism;
    the smaller of two upper bounds where the zCDP conversion should be smaller.
    Edge cases: 0 for ``rho = 0``; infinity for infinite ``rho``.
    """
    if rho <= 0:
        return 0.0
    if math.isinf(rho):
        return math.inf
    from dp_accounting.pld import privacy_loss_distribution as pld  # noqa: PLC0415 - heavy; a device never needs it

    loss = pld.from_gaussian_mechanism(
        1.0 / math.sqrt(2.0 * rho),
        # What is cut off counts as a certain loss, so it has to stay far below delta.
        log_mass_truncation_bound=min(-50.0, math.log(delta) - 20.0),
        value_discretization_interval=_GRID * min(1.0, math.sqrt(rho)),
        use_connect_dots=True,
    )
    return min(float(loss.get_epsilon_for_delta(delta)), epsilon_by_zcdp(rho, delta))


def epsilon_exact(rho: float, delta: float) -> float:
    """Exact ``epsilon`` of the composed Gaussian mechanism (Balle and Wang 2018, Theorem 8), by bisection.

    Used to calibrate and to cross-check the PLD bound; no library needed. Edge cases as :func:`epsilon_by_pld`.
    """
    if rho <= 0:
        return 0.0
    if math.isinf(rho):
        return math.inf
    low, high = 0.0, epsilon_by_zcdp(rho, delta)
    for _ in range(100):
        middle = (low + high) / 2.0
        low, high = (middle, high) if _delta_of(rho, middle) > delta else (low, middle)
    return high


def rho_for(epsilon: float, delta: float) -> float:
    """The largest total ``rho`` whose printed claim stays at or below ``epsilon`` at ``delta``.

    Calibrated on the exact curve, then checked on the PLD bound and lowered until that bound holds too, so that a plan
    never prints more than it was asked for.
    """
    low, high = 0.0, epsilon - 10.0 * math.log(delta)
    for _ in range(200):
        middle = (low + high) / 2.0
        low, high = (middle, high) if epsilon_exact(middle, delta) <= epsilon else (low, middle)
    while epsilon_by_pld(low, delta) > epsilon:
        low *= 1.0 - 1e-5
    return low


def _delta_of(rho: float, epsilon: float) -> float:
    """``delta(epsilon)`` of a Gaussian mechanism with ``mu = sqrt(2 rho)``."""
    mu = math.sqrt(2.0 * rho)
    return _phi(mu / 2.0 - epsilon / mu) - math.exp(epsilon + _log_phi(-mu / 2.0 - epsilon / mu))


def _phi(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


def _log_phi(x: float) -> float:
    """Log of the normal distribution function, by its asymptotic series where it underflows (x < -30)."""
    if x > -30.0:
        return math.log(_phi(x))
    return -x * x / 2.0 - math.log(-x * math.sqrt(2.0 * math.pi)) + math.log1p(-1.0 / (x * x))
