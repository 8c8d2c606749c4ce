"""Two accountants that share no code with the one that prints claims.

The PRV accountant (Gopi, Lee, Wutschitz 2021; the package ``prv-accountant``) must agree within two percent; Renyi
accounting (Mironov 2017; ``dp-accounting``) must not be below. Neither is ever a claim.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import numpy as np

from shared.privacy.accounting import Sampled, noise_multiplier_for, rho_of

WITHIN: Final = 0.02
REACH: Final = 300.0  # epsilon beyond which the PRV grid overflows
MOST: Final = 1_000_000  # releases
KINDS: Final = 32  # different ones
_NOISIEST: Final = 1e30  # per sensitivity; its square is still a double
_ERROR: Final = 0.005  # of epsilon: the width of PRV's own error, so that its upper end stays within 2 %
_LARGEST_ERROR: Final = 0.02
# Whole orders: of fractional ones the library's series does not always converge under sampling. Looser, never lower.
_ORDERS: Final = (*range(2, 64), *range(64, 257, 16), 384, 512, 1024, 2048, 4096, 16384)


def rdp(events: Sequence[Sampled], delta: float) -> float:
    """Upper bound of epsilon by Renyi accounting; infinite without noise, 0 for nothing."""
    from dp_accounting import dp_event  # noqa: PLC0415 - heavy; a page that only shows findings needs none
    from dp_accounting.rdp import RdpAccountant  # noqa: PLC0415 - as above

    events = _some(events)
    if _noiseless(events):
        return math.inf
    if not events:
        return 0.0
    accountant = RdpAccountant(_ORDERS) if any(event.rate < 1.0 for event in events) else RdpAccountant()
    for event in events:
        one: Any = dp_event.GaussianDpEvent(event.noise_multiplier)
        accountant.compose(one if event.rate == 1.0 else dp_event.PoissonSampledDpEvent(event.rate, one), event.times)
    return float(accountant.get_epsilon(delta))


def prv(events: Sequence[Sampled], delta: float) -> float | None:
    """Epsilon by the PRV accountant, the upper end of its interval; None = not installed, or beyond its grid."""
    events = _some(events)
    if not events or _noiseless(events):
        return math.inf if events else 0.0
    about, events = rdp(events, delta), _fewer(events)
    if not about <= REACH or sum(event.times for event in events) > MOST or len(events) > KINDS:
        return None
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            upper = _upper_end(events, delta, min(_LARGEST_ERROR, _ERROR * about))
    except (ImportError, ArithmeticError, AssertionError, ValueError, RuntimeError):  # or what nobody would run with
        return None
    return upper if math.isfinite(upper) else None


def _upper_end(events: Sequence[Sampled], delta: float, error: float) -> float:
    import prv_accountant  # noqa: PLC0415 - of the extra "audit"

    mechanisms = [
        prv_accountant.GaussianMechanism(event.noise_multiplier)
        if event.rate == 1.0
        else prv_accountant.PoissonSubsampledGaussianMechanism(event.rate, event.noise_multiplier)
        for event in events
    ]
    times = [event.times for event in events]
    accountant = prv_accountant.PRVAccountant(
        prvs=mechanisms, eps_error=error, delta_error=delta / 1000.0, max_self_compositions=times
    )
    return float(accountant.compute_epsilon(delta, times)[2])


def _fewer(events: tuple[Sampled, ...]) -> tuple[Sampled, ...]:
    """Very many Gaussian releases as the one that they compose to: a grid for each takes time and memory."""
    few = len(events) <= KINDS and sum(event.times for event in events) <= MOST
    if few or any(event.rate < 1.0 for event in events):
        return events
    rho = sum(rho_of(event.noise_multiplier, event.times) for event in events)
    return (Sampled(noise_multiplier_for(rho), 1.0, 1),)


def version_of(package: str) -> str:
    """Of an installed package; "unknown" if it is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _some(events: Sequence[Sampled]) -> tuple[Sampled, ...]:
    """Without what never happens, and what costs less than any double could tell."""
    return tuple(event for event in events if event.rate * event.times > 0 and event.noise_multiplier < _NOISIEST)


def _noiseless(events: Sequence[Sampled]) -> bool:
    return any(event.noise_multiplier < 1.0 / _NOISIEST for event in events)
