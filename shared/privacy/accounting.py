"""Zero-concentrated differential privacy inside, a Gaussian privacy-loss distribution for the printed claim.

Currency: rho-zCDP of the Gaussian mechanism (Bun and Steinke 2016, Proposition 1.6): ``rho = Delta^2 / (2 sigma^2)``.
It adds up over releases, plans and years, also when later releases are chosen after seeing earlier ones (Lemma 2.3
there), and needs no library on a device. The claim that is printed is tightened: a composition of Gaussian mechanisms
with total ``rho`` is one Gaussian mechanism of noise multiplier ``1 / sqrt(2 rho)``, whose privacy-loss distribution
gives an upper bound of epsilon (Sommer, Meiser, Mohammadi 2019; the ``dp-accounting`` package). Where cohorts are drawn
by independent coins, :func:`epsilon_sampled` bounds what is left against those who do not see the coins.

This file knows nothing of clipping, participation or who draws noise: ``shared/privacy/plan.py`` couples them.
"""

from __future__ import annotations

import math
from functools import lru_cache, reduce
from typing import Any, Final, NamedTuple

ACCOUNTANT: Final = "zCDP budget; printed epsilon: Gaussian PLD upper bound (dp-accounting)"
_GRID: Final = 1e-3  # discretisation of the privacy loss; finer where the loss is small: epsilon rises below 1e-5
_FINEST: Final = 1e-4  # times the sensitivity over sigma: one loss spans about ten of these, so 100,000 points


class Sampled(NamedTuple):
    """Gaussian releases of one kind, as every accountant takes them.

    Attributes:
        noise_multiplier: sigma per sensitivity.
        rate: probability that a unit takes part in one of them, drawn for each by a coin of its own; 1 = always.
        times: how many.
    """

    noise_multiplier: float
    rate: float
    times: int


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
    loss = _loss((Sampled(1.0 / math.sqrt(2.0 * rho), 1.0, 1),), delta)
    return min(float(loss.get_epsilon_for_delta(delta)), epsilon_by_zcdp(rho, delta))


@lru_cache(maxsize=4096)
def epsilon_sampled(events: tuple[Sampled, ...], delta: float) -> float:
    """Upper bound of ``epsilon`` at ``delta`` for Gaussian releases in which a unit takes part by chance.

    Formal guarantees:
        Under zero-out adjacency one release of rate q is dominated, in either direction, by the pair
        ``(1-q) N(0, s^2) + q N(1, s^2)`` and ``N(0, s^2)``, s the noise multiplier; dominating pairs compose, also
        adaptively (Zhu, Dong, Wang 2022; proof in docs/privacy.md). Holds against those who see neither the coins nor
        anything else that depends on them: cohorts, their sizes, aborted rounds. Pessimistic discretisation, so never
        below the true epsilon of the composition.

    Edge cases:
        no release, or rate 0 -> 0; no noise -> infinity; rate 1 everywhere -> :func:`epsilon_by_pld` of the total rho.
    """
    events = tuple(event for event in events if event.rate * event.times > 0)
    rho = sum(rho_of(event.noise_multiplier, event.times) for event in events)
    if math.isinf(rho) or all(event.rate == 1.0 for event in events):
        return epsilon_by_pld(rho, delta)
    # Whatever the coins, taking part always costs no less; and below delta 1e-14 convolutions see nothing.
    return min(float(_loss(events, delta).get_epsilon_for_delta(delta)), epsilon_by_pld(rho, delta))


def _loss(events: tuple[Sampled, ...], delta: float) -> Any:  # noqa: ANN401 - a type of a library that is imported late
    """The pessimistic privacy-loss distribution of the composition."""
    from dp_accounting.pld import privacy_loss_distribution as pld  # noqa: PLC0415 - heavy; a device never needs it

    scale = math.sqrt(sum(event.rate**2 * rho_of(event.noise_multiplier, event.times) for event in events))
    finest = _FINEST / min(event.noise_multiplier for event in events)

    def loss(event: Sampled) -> Any:  # noqa: ANN401 - as above
        one = pld.from_gaussian_mechanism(
            event.noise_multiplier,
            # What is cut off counts as a certain loss, so it has to stay far below delta.
            log_mass_truncation_bound=min(-50.0, math.log(delta) - 20.0),
            value_discretization_interval=max(_GRID * min(1.0, scale), finest),
            sampling_prob=event.rate,
            use_connect_dots=True,
        )
        return one if event.times == 1 else one.self_compose(event.times)

    return reduce(lambda left, right: left.compose(right), map(loss, events))


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


@lru_cache(maxsize=256)
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
